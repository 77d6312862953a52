//! Package URLs (purl-spec, "Package URL specification").

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use super::{Component, Ecosystem};
use crate::{digest::Digest, package::origin, registry::remote::parse_reference};

/// What is encoded: all but letters, digits and what the specification excepts.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b':');

/// The channels that are known by name alone.
const NAMED: [&str; 2] = [
    "https://conda.anaconda.org/",
    "https://repo.anaconda.com/pkgs/",
];

/// The package URL of a component. Types and qualifiers are purl-spec's `conda` and `pypi`.
pub fn of_component(component: &Component) -> String {
    let url = component.download().and_then(|url| url.parse::<Url>().ok());
    let file = url.as_ref().and_then(origin::file_name);
    let mut qualifiers: Vec<(&str, String)> = Vec::new();
    match component.ecosystem {
        Ecosystem::Conda => {
            let pairs = [
                ("build", component.build.clone()),
                ("channel", url.as_ref().map(channel)),
                ("subdir", component.subdir.clone()),
                ("type", archive_type(component)),
            ];
            let known = pairs
                .into_iter()
                .filter_map(|(key, value)| Some((key, value?)));
            qualifiers.extend(known);
        }
        Ecosystem::Pypi => qualifiers.extend(file.map(|file| ("file_name", file))),
    }
    let (kind, name) = (component.ecosystem.name(), &component.name);
    purl(kind, name, Some(&component.version), &qualifiers)
}

/// The package URL of a base image: its name in a registry, and its digest.
pub fn of_base(name: &str, digest: Option<&Digest>) -> Option<String> {
    let reference = parse_reference(name).ok()?;
    let (host, repository) = (reference.registry(), reference.repository());
    let last = repository.rsplit('/').next()?;
    let mut qualifiers = vec![("repository_url", format!("{host}/{repository}"))];
    qualifiers.extend(reference.tag().map(|tag| ("tag", tag.to_owned())));
    let version = digest.map(Digest::to_string);
    Some(purl("oci", last, version.as_deref(), &qualifiers))
}

/// `type:name@version?key=value`, keys in order.
fn purl(kind: &str, name: &str, version: Option<&str>, qualifiers: &[(&str, String)]) -> String {
    let mut text = format!("pkg:{kind}/{}", encoded(name));
    if let Some(version) = version {
        text.push('@');
        text.push_str(&encoded(version));
    }
    for (at, (key, value)) in qualifiers.iter().enumerate() {
        text.push(if at == 0 { '?' } else { '&' });
        text.push_str(&format!("{key}={}", encoded(value)));
    }
    text
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

fn channel(url: &Url) -> String {
    let whole = origin::channel(url);
    let short = NAMED.iter().find_map(|host| whole.strip_prefix(host));
    short.unwrap_or(&whole).trim_end_matches('/').to_owned()
}

fn archive_type(component: &Component) -> Option<String> {
    let url = component.url.as_deref()?;
    let known = ["conda", "tar.bz2"].into_iter();
    let mut ends = known.filter(|end| url.ends_with(&format!(".{end}")));
    ends.next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(ecosystem: Ecosystem, version: &str, url: &str) -> Component {
        Component {
            prefix: "/opt/conda".into(),
            ecosystem,
            name: "absl-py".into(),
            version: version.into(),
            build: (ecosystem == Ecosystem::Conda).then(|| "py36_0".into()),
            subdir: (ecosystem == Ecosystem::Conda).then(|| "linux-64".into()),
            url: Some(url.into()),
            sha256: None,
            md5: None,
            licence: None,
            needs: Vec::new(),
        }
    }

    #[test]
    fn components_have_the_purls_of_their_types() {
        let conda = |url| of_component(&component(Ecosystem::Conda, "1!0.4", url));
        assert_eq!(
            conda("https://repo.anaconda.com/pkgs/main/linux-64/absl-py-1!0.4-py36_0.tar.bz2"),
            "pkg:conda/absl-py@1%210.4?build=py36_0&channel=main&subdir=linux-64&type=tar.bz2"
        );
        assert_eq!(
            conda("https://host/ch/linux-64/absl-py-1!0.4-py36_0.conda"),
            "pkg:conda/absl-py@1%210.4?build=py36_0&channel=https:%2F%2Fhost%2Fch\
             &subdir=linux-64&type=conda"
        );
        assert_eq!(
            conda("file:///srv/ch/linux-64/absl-py-1!0.4-py36_0.conda"),
            "pkg:conda/absl-py@1%210.4?build=py36_0&subdir=linux-64&type=conda"
        );
        let wheel = component(
            Ecosystem::Pypi,
            "2+cu1",
            "https://host/x/absl_py-2%2Bcu1-py3-none-any.whl",
        );
        assert_eq!(
            of_component(&wheel),
            "pkg:pypi/absl-py@2%2Bcu1?file_name=absl_py-2%2Bcu1-py3-none-any.whl"
        );
    }

    #[test]
    fn a_base_is_named_as_in_its_registry() {
        let digest = Digest::of(b"");
        let found = of_base("debian:bookworm-slim", Some(&digest)).unwrap();
        let expected = format!(
            "pkg:oci/debian@{digest}?repository_url=docker.io%2Flibrary%2Fdebian&tag=bookworm-slim"
        );
        assert_eq!(found, expected);
        assert_eq!(of_base("oci:/srv/A", None), None);
    }
}
