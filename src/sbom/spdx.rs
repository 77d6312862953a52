//! The SPDX document (SPDX specification 2.3, JSON form).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    Component, Ecosystem,
    licence::{NOASSERTION, Texts, expression},
    purl,
};
use crate::digest::Digest;

const DOCUMENT: &str = "SPDXRef-DOCUMENT";
const IMAGE: &str = "SPDXRef-Image";
const BASE: &str = "SPDXRef-Base";
/// What documents are called; it need not be there (SPDX 2.3, clause 6.5).
const NAMESPACE: &str = "https://imgbuild.dev/spdx";

/// The image that a document is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The digest of its manifest.
    pub digest: Digest,
    /// When it was made: RFC 3339 in UTC, whole seconds.
    pub created: String,
    /// Its base image, if it says so.
    pub base: Option<Base>,
}

/// A base image, as an image's annotations tell of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// Its name in a registry.
    pub name: Option<String>,
    /// The digest of its manifest.
    pub digest: Digest,
}

/// The document; the same input gives the same one.
pub fn document(subject: &Subject, components: &[Component]) -> Value {
    let mut texts = Texts::new();
    let ids: Vec<String> = components.iter().map(id).collect();
    let mut packages = vec![container("image", IMAGE, &subject.digest)];
    packages.extend(subject.base.as_ref().map(base));
    let listed = components.iter().zip(&ids);
    packages.extend(listed.map(|(component, id)| package(component, id, &mut texts)));
    let licences: Vec<Value> = texts.into_iter().map(extracted).collect();
    let mut relationships = vec![relationship(DOCUMENT, "DESCRIBES", IMAGE)];
    if subject.base.is_some() {
        relationships.push(relationship(IMAGE, "DESCENDANT_OF", BASE));
    }
    relationships.extend(ids.iter().map(|id| relationship(IMAGE, "CONTAINS", id)));
    relationships.extend(needs(components, &ids));
    let mut document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": DOCUMENT,
        "name": subject.digest,
        "documentNamespace": "",
        "creationInfo": {
            "created": subject.created,
            "creators": [concat!("Tool: imgbuild-", env!("CARGO_PKG_VERSION"))],
        },
        "packages": packages,
        "relationships": relationships,
    });
    if !licences.is_empty() {
        document["hasExtractedLicensingInfos"] = licences.into();
    }
    // One that is its own wherever the document is another.
    let hash = Digest::of(document.to_string().as_bytes()).hex();
    document["documentNamespace"] = format!("{NAMESPACE}/{hash}").into();
    document
}

/// Unique among an image's packages, and the same in every document of them.
fn id(component: &Component) -> String {
    let kind = component.ecosystem.name();
    let plain = |c: char| match c {
        c if c.is_ascii_alphanumeric() || c == '.' => c,
        _ => '-',
    };
    let name: String = component.name.chars().map(plain).collect();
    let whole = [&component.prefix, kind, &component.name, &component.version];
    let hash = Digest::of(whole.join("\0").as_bytes()).hex();
    format!("SPDXRef-{kind}-{name}-{hash:.8}")
}

fn container(name: &str, id: &str, digest: &Digest) -> Value {
    json!({
        "name": name,
        "SPDXID": id,
        "versionInfo": digest,
        "downloadLocation": NOASSERTION,
        "filesAnalyzed": false,
        "licenseConcluded": NOASSERTION,
        "licenseDeclared": NOASSERTION,
        "copyrightText": NOASSERTION,
        "primaryPackagePurpose": "CONTAINER",
        "checksums": [checksum("SHA256", &digest.hex())],
    })
}

fn base(base: &Base) -> Value {
    let name = base.name.as_deref();
    let mut package = container(name.unwrap_or("base image"), BASE, &base.digest);
    if let Some(purl) = name.and_then(|name| purl::of_base(name, Some(&base.digest))) {
        package["externalRefs"] = json!([external(&purl)]);
    }
    package
}

fn package(component: &Component, id: &str, texts: &mut Texts) -> Value {
    let kind = match component.ecosystem {
        Ecosystem::Conda => "conda package",
        Ecosystem::Pypi => "Python wheel",
    };
    let sums = [
        ("SHA256", component.sha256.as_ref().map(Digest::hex)),
        ("MD5", component.md5.clone()),
    ];
    let sums = sums
        .into_iter()
        .filter_map(|(kind, hex)| Some(checksum(kind, &hex?)));
    let sums: Vec<Value> = sums.collect();
    let mut package = json!({
        "name": component.name,
        "SPDXID": id,
        "versionInfo": component.version,
        "downloadLocation": component.download().unwrap_or(NOASSERTION),
        "filesAnalyzed": false,
        "licenseConcluded": NOASSERTION,
        "licenseDeclared": expression(component.licence.as_deref(), texts),
        "copyrightText": NOASSERTION,
        "sourceInfo": format!("{kind} in {}", component.prefix),
        "externalRefs": [external(&purl::of_component(component))],
    });
    if !sums.is_empty() {
        package["checksums"] = sums.into();
    }
    package
}

fn checksum(algorithm: &str, hex: &str) -> Value {
    json!({"algorithm": algorithm, "checksumValue": hex})
}

fn external(purl: &str) -> Value {
    json!({
        "referenceCategory": "PACKAGE-MANAGER",
        "referenceType": "purl",
        "referenceLocator": purl,
    })
}

fn extracted((name, text): (String, String)) -> Value {
    json!({"licenseId": name, "extractedText": format!("The package says: {text}")})
}

fn relationship(from: &str, kind: &str, to: &str) -> Value {
    json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to})
}

/// Which packages need which, as far as both are there: a wheel's needs are met by wheels, else by
/// conda packages of that name.
fn needs(components: &[Component], ids: &[String]) -> Vec<Value> {
    let listed = components.iter().zip(ids);
    let by_name: BTreeMap<_, &String> = listed
        .clone()
        .map(|(one, id)| ((one.prefix.as_str(), one.ecosystem, one.name.as_str()), id))
        .collect();
    let mut found = Vec::new();
    for (component, id) in listed {
        for name in &component.needs {
            let of = |kind| by_name.get(&(component.prefix.as_str(), kind, name.as_str()));
            let needed = match component.ecosystem {
                Ecosystem::Conda => of(Ecosystem::Conda),
                Ecosystem::Pypi => of(Ecosystem::Pypi).or_else(|| of(Ecosystem::Conda)),
            };
            if let Some(needed) = needed.filter(|needed| **needed != id) {
                found.push(relationship(id, "DEPENDS_ON", needed));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(ecosystem: Ecosystem, name: &str, needs: &[&str]) -> Component {
        Component {
            prefix: "/opt/conda".into(),
            ecosystem,
            name: name.into(),
            version: "1".into(),
            build: None,
            subdir: None,
            url: Some(format!("file:///srv/secret/{name}.whl")),
            sha256: Some(Digest::of(name.as_bytes())),
            md5: None,
            licence: Some("BSD".into()),
            needs: needs.iter().map(|need| (*need).to_owned()).collect(),
        }
    }

    fn made() -> Value {
        let components = [
            component(Ecosystem::Conda, "numpy", &[]),
            component(Ecosystem::Pypi, "a_b", &["numpy", "not-there"]),
        ];
        let base = Base {
            name: Some("debian:12".into()),
            digest: Digest::of(b"base"),
        };
        let subject = Subject {
            digest: Digest::of(b"image"),
            created: "2026-01-01T00:00:00Z".into(),
            base: Some(base),
        };
        document(&subject, &components)
    }

    #[test]
    fn packages_are_contained_and_need_each_other() {
        let made = made();
        let all = made["relationships"].as_array().unwrap();
        let kinds: Vec<&str> = all
            .iter()
            .map(|one| one["relationshipType"].as_str().unwrap())
            .collect();
        let expected = [
            "DESCRIBES",
            "DESCENDANT_OF",
            "CONTAINS",
            "CONTAINS",
            "DEPENDS_ON",
        ];
        assert_eq!(kinds, expected);
        assert_eq!(all[4]["spdxElementId"], made["packages"][3]["SPDXID"]);
        assert_eq!(all[4]["relatedSpdxElement"], made["packages"][2]["SPDXID"]);
    }

    #[test]
    fn the_same_is_the_same_and_no_path_is_told() {
        let text = made().to_string();
        assert_eq!(text, made().to_string());
        assert!(!text.contains("/srv/secret"), "{text}");
        assert!(text.contains("\"licenseId\":\"LicenseRef-BSD-"), "{text}");
    }
}
