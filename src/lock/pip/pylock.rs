//! uv's answer: a `pylock.toml` (PEP 751).

use std::path::Path;

use serde::Deserialize;
use url::Url;

use super::tags::Ranking;
use crate::{
    digest::Digest, lock::LockedWheel, secret::without_credentials, spec::env_yaml::without_dots,
};

#[derive(Deserialize)]
struct Pylock {
    #[serde(default)]
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: Option<String>,
    #[serde(default)]
    wheels: Vec<Artifact>,
    archive: Option<Artifact>,
}

#[derive(Deserialize)]
struct Artifact {
    name: Option<String>,
    url: Option<String>,
    path: Option<String>,
    size: Option<u64>,
    #[serde(default)]
    hashes: Hashes,
}

#[derive(Default, Deserialize)]
struct Hashes {
    sha256: Option<String>,
}

/// A package of the answer: the wheels that may be taken, the best first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The project's name, normalised.
    pub name: String,
    /// The version, where the answer says it.
    pub version: Option<String>,
    /// The wheels; none when there are only other kinds, or none that fits.
    pub wheels: Vec<Candidate>,
}

/// A wheel of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Where it is, without credentials.
    pub url: Url,
    /// Its sha256, where the answer says it: uv before 0.11 leaves it out for local files.
    pub sha256: Option<Digest>,
    /// Its size in bytes, where the answer says it.
    pub size: Option<u64>,
}

/// Reads the packages of a `pylock.toml` that lies in `dir`, without those that `skip` names.
///
/// # Errors
/// The reason, in words, when it is no such file.
pub fn parse(
    text: &str,
    dir: &Path,
    ranking: &Ranking,
    skip: impl Fn(&str) -> bool,
) -> Result<Vec<Choice>, String> {
    let lock: Pylock = toml::from_str(text).map_err(|e| e.to_string())?;
    let mut choices = Vec::new();
    for package in lock.packages {
        if skip(&package.name) {
            continue;
        }
        let mut ranked = Vec::new();
        for artifact in package.archive.iter().chain(&package.wheels) {
            let url = artifact.url(dir)?;
            let name = match &artifact.name {
                Some(name) => name.clone(),
                None => crate::lock::wheel::file_name(&url),
            };
            if let Some(rank) = ranking.rank(&name) {
                ranked.push((rank, name, artifact.candidate(url)?));
            }
        }
        ranked.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        choices.push(Choice {
            name: package.name,
            version: package.version,
            wheels: ranked.into_iter().map(|(_, _, wheel)| wheel).collect(),
        });
    }
    Ok(choices)
}

impl Artifact {
    fn url(&self, dir: &Path) -> Result<Url, String> {
        match (&self.url, &self.path) {
            (Some(url), _) => {
                let mut url: Url = url.parse().map_err(|e| format!("a wheel's URL: {e}"))?;
                // It says the hash again.
                url.set_fragment(None);
                Ok(without_credentials(&url))
            }
            // uv before 0.11 writes it relative to the file, as PEP 751 has it.
            (None, Some(path)) => Url::from_file_path(without_dots(&dir.join(path)))
                .map_err(|()| format!("'{path}' makes no URL")),
            (None, None) => Err("a wheel has neither a URL nor a path".into()),
        }
    }

    fn candidate(&self, url: Url) -> Result<Candidate, String> {
        let sha256 = self.hashes.sha256.as_deref().map(str::parse).transpose();
        Ok(Candidate {
            url,
            sha256: sha256.map_err(|_| "a sha256 has not 64 hexadecimal digits")?,
            size: self.size,
        })
    }
}

/// Locked wheels as the file that uv takes versions from when it is its output file.
pub fn preferences(wheels: &[LockedWheel]) -> String {
    let mut text = String::from("lock-version = \"1.0\"\ncreated-by = \"imgbuild\"\n");
    if wheels.is_empty() {
        text.push_str("packages = []\n");
    }
    for wheel in wheels {
        // Names and versions have no character that TOML escapes (PEP 503, PEP 440).
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+!".contains(c);
        if wheel.name.chars().chain(wheel.version.chars()).all(plain) {
            text.push_str(&format!(
                "\n[[packages]]\nname = \"{}\"\nversion = \"{}\"\n",
                wheel.name, wheel.version
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::pip::target::Target;

    fn ranking() -> Ranking {
        Ranking::of(&Target {
            version: "3.11.2".into(),
            python: (3, 11),
            free_threaded: false,
            glibc: 36,
            machine: crate::machine::Machine::Amd64,
        })
    }

    fn read(text: &str) -> Result<Vec<Choice>, String> {
        parse(text, Path::new("/tmp/x"), &ranking(), |name| {
            name == "conda-has-it"
        })
    }

    #[test]
    fn the_best_wheel_comes_first() {
        let sha = "0".repeat(64);
        let text = format!(
            r#"
lock-version = "1.0"
[[packages]]
name = "multi"
version = "1.0"
wheels = [
  {{ url = "https://u:p@h/multi-1.0-py3-none-any.whl#sha256=00", size = 3, hashes = {{ sha256 = "{sha}" }} }},
  {{ url = "https://h/multi-1.0%2Bcu118-cp311-cp311-linux_x86_64.whl", hashes = {{}} }},
  {{ url = "https://h/multi-1.0-cp312-cp312-linux_x86_64.whl" }},
]
[[packages]]
name = "conda-has-it"
archive = {{ path = "other.whl" }}
[[packages]]
name = "local"
version = "2"
archive = {{ path = "../../w/local-2-py3-none-any.whl", hashes = {{ sha256 = "{sha}" }} }}
[[packages]]
name = "built"
vcs = {{ type = "git" }}
"#
        );
        let choices = read(&text).unwrap();
        let names: Vec<&str> = choices.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["multi", "local", "built"]);
        let urls: Vec<&str> = choices[0].wheels.iter().map(|w| w.url.as_str()).collect();
        assert_eq!(
            urls,
            [
                "https://h/multi-1.0%2Bcu118-cp311-cp311-linux_x86_64.whl",
                "https://h/multi-1.0-py3-none-any.whl"
            ]
        );
        assert_eq!(choices[0].wheels[0].sha256, None);
        assert_eq!(choices[0].wheels[1].size, Some(3));
        assert_eq!(
            choices[1].wheels[0].url.as_str(),
            "file:///w/local-2-py3-none-any.whl"
        );
        assert!(choices[2].wheels.is_empty());
    }

    #[test]
    fn nonsense_is_an_error() {
        for text in [
            "packages = 1",
            "[[packages]]\nversion = '1'",
            "[[packages]]\nname = 'a'\nwheels = [{}]",
            "[[packages]]\nname = 'a'\nwheels = [{ url = 'h/a' }]",
            "[[packages]]\nname = 'a'\nwheels = [{ url = 'https://h/a-1-py3-none-any.whl', hashes = { sha256 = '12' } }]",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "(\\[\\[packages\\]\\]\n|name|version|wheels|archive|url|path| = |'|\\{|\\}|\\[|\\]|a-1-py3-none-any.whl|https://|\n|,|é){0,40}") {
            let _ = read(&text);
        }
    }
}
