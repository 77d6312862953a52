//! The packages that the layers of an image tell of: what conda and pip record of each.
//!
//! conda keeps a record of each package in `conda-meta/` (conda docs, "Managing environments"),
//! pip a `.dist-info` folder (PEP 376), which conda packages have as well.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
};

use serde::{Deserialize, Serialize};
use url::Url;

use super::{Component, Ecosystem, WheelFacts, component::needs_of_conda, metadata::fields};
use crate::{
    diff::{Removals, dist_infos, each_entry, is_record, prefix, wheel, wheel_prefix},
    digest::Digest,
    package::origin,
};

/// Records beyond this size in bytes are not read: those of the largest packages have 10 MB.
const MAX_RECORD: u64 = 64 << 20;

/// What one layer tells. Paths have no leading slash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Packages by the path of their record, or of their `.dist-info` folder.
    found: BTreeMap<String, Component>,
    /// `.dist-info` folders that are conda packages'.
    owned: BTreeSet<String>,
    removals: Removals,
}

/// What is read of a record (CEP 34's `conda-meta` files).
#[derive(Deserialize)]
struct Record {
    name: String,
    version: String,
    build: String,
    subdir: Option<String>,
    url: Option<Url>,
    sha256: Option<Digest>,
    md5: Option<String>,
    license: Option<String>,
    #[serde(default)]
    depends: Vec<String>,
    #[serde(default)]
    files: Vec<String>,
}

impl Inventory {
    /// Reads an uncompressed layer to its end. What cannot be read as a record tells nothing.
    ///
    /// # Errors
    /// When it is no tar, or cannot be read.
    pub fn read(tar: impl Read) -> io::Result<Self> {
        let mut found = Self::default();
        each_entry(tar, |path, entry| {
            found.removals.note(&path);
            let metadata = path
                .strip_suffix("/METADATA")
                .filter(|dir| wheel(dir).is_some());
            if entry.size() > MAX_RECORD || !(is_record(&path) || metadata.is_some()) {
                return Ok(());
            }
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            match metadata {
                Some(folder) => found.wheel(folder, &String::from_utf8_lossy(&bytes)),
                None => found.record(path, &bytes),
            }
            Ok(())
        })?;
        Ok(found)
    }

    fn wheel(&mut self, folder: &str, metadata: &str) {
        let (Some((name, version)), Some(prefix)) = (wheel(folder), wheel_prefix(folder)) else {
            return;
        };
        let said = fields(metadata).find(|(key, _)| *key == "Version");
        let facts = WheelFacts::read(metadata);
        let component = Component {
            prefix: format!("/{prefix}"),
            ecosystem: Ecosystem::Pypi,
            name,
            version: said.map_or(version, |(_, version)| version.to_owned()),
            build: None,
            subdir: None,
            url: None,
            sha256: None,
            md5: None,
            licence: facts.licence,
            needs: facts.needs,
        };
        self.found.insert(folder.to_owned(), component);
    }

    fn record(&mut self, path: String, bytes: &[u8]) {
        let Ok(record) = serde_json::from_slice::<Record>(bytes) else {
            return;
        };
        let prefix = prefix(&path).unwrap_or_default();
        self.owned.extend(dist_infos(prefix, &record.files));
        let component = Component {
            prefix: format!("/{prefix}"),
            ecosystem: Ecosystem::Conda,
            name: record.name,
            version: record.version,
            build: Some(record.build),
            subdir: record.subdir,
            url: record.url.map(|url| origin::public_url(&url).into()),
            sha256: record.sha256,
            md5: record.md5,
            licence: record.license,
            needs: needs_of_conda(record.depends.iter().map(String::as_str)),
        };
        self.found.insert(path, component);
    }

    fn put_over(&mut self, upper: Self) {
        self.found.retain(|path, _| !upper.removals.remove(path));
        self.owned.retain(|path| !upper.removals.remove(path));
        self.found.extend(upper.found);
        self.owned.extend(upper.owned);
    }
}

/// The packages of an image, sorted, from its layers, lowest first.
pub fn components(layers: Vec<Inventory>) -> Vec<Component> {
    let mut all = Inventory::default();
    layers.into_iter().for_each(|layer| all.put_over(layer));
    let Inventory {
        mut found, owned, ..
    } = all;
    found.retain(|path, _| !owned.contains(path));
    let mut components: Vec<Component> = found.into_values().collect();
    components.sort();
    components
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(files: &[(&str, &str)]) -> Inventory {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            tar.append_data(&mut header, path, text.as_bytes()).unwrap();
        }
        Inventory::read(&tar.into_inner().unwrap()[..]).unwrap()
    }

    const A: &str = r#"{"name": "a", "version": "1", "build": "0", "license": "MIT",
        "url": "https://u:p@host/t/tk/ch/noarch/a-1-0.conda", "depends": ["python"],
        "files": ["lib/python3.11/site-packages/a-1.dist-info/METADATA"]}"#;
    const SITE: &str = "opt/conda/lib/python3.11/site-packages";

    #[test]
    fn upper_layers_win_and_conda_owns_its_dist_info() {
        let metadata = "Name: b\nVersion: 2.0\nLicense: BSD\n";
        let a = format!("{SITE}/a-1.dist-info/METADATA");
        let b = format!("{SITE}/b-2.0.dist-info/METADATA");
        let lower = layer(&[
            ("opt/conda/conda-meta/a-1-0.json", A),
            (&a, metadata),
            (&b, metadata),
        ]);
        let found = components(vec![lower.clone()]);
        let names: Vec<&str> = found.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(
            found[0].url.as_deref(),
            Some("https://host/ch/noarch/a-1-0.conda")
        );
        assert_eq!(found[1].prefix, "/opt/conda");
        let upper = layer(&[(&format!("{SITE}/.wh.b-2.0.dist-info"), "")]);
        assert_eq!(components(vec![lower, upper]).len(), 1);
    }
}
