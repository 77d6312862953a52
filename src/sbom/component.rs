//! One package of an image, as a bill of materials tells of it.

use rattler_conda_types::RepoDataRecord;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::WheelFacts;
use crate::{digest::Digest, fetch::sha256_of, lock::LockedWheel, package::origin};

/// Who names and numbers a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ecosystem {
    /// A conda channel.
    Conda,
    /// A Python package index.
    Pypi,
}

impl Ecosystem {
    /// Its type in package URLs (purl-spec, "Package URL Type Definitions").
    pub fn name(self) -> &'static str {
        match self {
            Self::Conda => "conda",
            Self::Pypi => "pypi",
        }
    }
}

/// A package that stands in an image. Nothing of it is secret: URLs have no logins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Component {
    /// The folder of the environment that it is in.
    pub prefix: String,
    /// Who names it.
    pub ecosystem: Ecosystem,
    /// The name, normalised.
    pub name: String,
    /// The version.
    pub version: String,
    /// conda's build string.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
    /// conda's subdir, such as `linux-64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subdir: Option<String>,
    /// Where its archive is, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The sha256 of its archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
    /// The md5 of its archive, as hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub md5: Option<String>,
    /// The licence in the package's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// The names of the packages that it needs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
}

impl Component {
    /// A conda package of a lock.
    pub fn of_record(record: &RepoDataRecord, prefix: &str) -> Self {
        let package = &record.package_record;
        Self {
            prefix: prefix.to_owned(),
            ecosystem: Ecosystem::Conda,
            name: package.name.as_normalized().to_owned(),
            version: package.version.to_string(),
            build: Some(package.build.to_string()),
            subdir: Some(package.subdir.clone()),
            url: Some(origin::public_url(&record.url).into()),
            sha256: sha256_of(record).ok(),
            md5: package.md5.map(hex::encode),
            licence: package.license.clone(),
            needs: needs_of_conda(package.depends.iter().map(String::as_str)),
        }
    }

    /// A wheel of a lock; what it says of itself, where that is known.
    pub fn of_wheel(wheel: &LockedWheel, facts: Option<WheelFacts>, prefix: &str) -> Self {
        let facts = facts.unwrap_or_default();
        Self {
            prefix: prefix.to_owned(),
            ecosystem: Ecosystem::Pypi,
            name: wheel.name.clone(),
            version: wheel.version.clone(),
            build: None,
            subdir: None,
            url: Some(origin::public_url(&wheel.url).into()),
            sha256: Some(wheel.sha256),
            md5: None,
            licence: facts.licence,
            needs: facts.needs,
        }
    }

    /// Where others can have the archive: neither a path nor a server of the machine that built the
    /// image.
    pub fn download(&self) -> Option<&str> {
        let url = self.url.as_deref()?;
        let elsewhere = match url.parse::<Url>().ok()?.host()? {
            Host::Domain(name) => name != "localhost",
            Host::Ipv4(ip) => !ip.is_loopback(),
            Host::Ipv6(ip) => !ip.is_loopback(),
        };
        elsewhere.then_some(url)
    }
}

/// The names in conda's match specs; virtual packages are no packages.
pub(super) fn needs_of_conda<'a>(specs: impl Iterator<Item = &'a str>) -> Vec<String> {
    let name = |spec: &'a str| {
        let end = spec.find([' ', '=', '<', '>', '!', '~', '[']);
        spec[..end.unwrap_or(spec.len())].to_lowercase()
    };
    let mut names: Vec<String> = specs.map(name).collect();
    names.retain(|name| !name.is_empty() && !name.starts_with("__"));
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_cannot_download_from_this_machine() {
        let download = |url: &str| {
            let wheel = LockedWheel {
                name: "a".into(),
                version: "1".into(),
                url: url.parse().unwrap(),
                sha256: Digest::of(b""),
                size: None,
            };
            let component = Component::of_wheel(&wheel, None, "/opt/conda");
            component.download().map(str::to_owned)
        };
        for here in [
            "file:///srv/a.whl",
            "http://127.0.0.1:1/a.whl",
            "http://localhost/a.whl",
        ] {
            assert_eq!(download(here), None);
        }
        let public = Some("https://host/a.whl".to_owned());
        assert_eq!(download("https://u:secret@host/a.whl?sig=secret"), public);
    }

    #[test]
    fn needs_are_names() {
        let specs = [
            "python >=3.11,<3.12.0a0",
            "Zlib",
            "__glibc >=2.17",
            "a=1",
            "zlib 1.*",
        ];
        assert_eq!(needs_of_conda(specs.into_iter()), ["a", "python", "zlib"]);
    }
}
