//! The packages that a layer brings or takes away, as what is in it says.
//!
//! conda keeps a record of each package in `conda-meta/` (conda docs, "Managing environments"),
//! pip a `.dist-info` folder in `site-packages` (PEP 376), which conda packages have as well. Works
//! for images of any maker.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
};

use serde::{Deserialize, Serialize};
use url::Url;

use super::Package;
use crate::{digest::Digest, package::origin};

/// Marks a path of a lower layer as removed (OCI image-spec, layer.md, "Whiteouts").
const WHITEOUT: &str = ".wh.";
/// Marks a folder of which lower layers' content is hidden (same, "Opaque Whiteout").
const OPAQUE: &str = ".wh..wh..opq";
/// Records beyond this size in bytes are not read: those of the largest packages have 10 MB.
const MAX_RECORD: u64 = 64 << 20;

/// What one layer says of packages. Paths have no leading slash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerContents {
    /// conda packages by the path of their record: name and package.
    pub(super) conda: BTreeMap<String, (String, Package)>,
    /// Wheels by the path of their `.dist-info`: name and version.
    pub(super) wheels: BTreeMap<String, (String, String)>,
    /// What it takes away from lower layers.
    #[serde(flatten)]
    removals: Removals,
}

/// What a layer takes away from those below it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removals {
    /// Paths that are removed from lower layers.
    removed: BTreeSet<String>,
    /// Folders whose content in lower layers is hidden.
    hidden: BTreeSet<String>,
}

impl Removals {
    /// Notes a path of the layer; whether it is a mark and no file.
    pub fn note(&mut self, path: &str) -> bool {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        if name == OPAQUE {
            self.hidden.insert(folder.to_owned());
        } else if let Some(name) = name.strip_prefix(WHITEOUT) {
            self.removed.insert(join(folder, name));
        } else {
            return false;
        }
        true
    }

    /// Whether a path of a lower layer is gone.
    pub fn remove(&self, path: &str) -> bool {
        let below = |folder: &String| path.starts_with(&join(folder, ""));
        self.removed.contains(path)
            || self.removed.iter().any(below)
            || self.hidden.iter().any(below)
    }
}

/// What is read of a record (CEP 34's `conda-meta` files).
#[derive(Deserialize)]
struct Record {
    name: String,
    version: String,
    build: String,
    url: Option<Url>,
    sha256: Option<Digest>,
    size: Option<u64>,
    #[serde(default)]
    files: Vec<String>,
}

impl LayerContents {
    /// Reads an uncompressed layer to its end.
    ///
    /// # Errors
    /// When it is no tar, or cannot be read.
    pub fn read(tar: impl Read) -> io::Result<Self> {
        let mut found = Self::default();
        let mut owned = BTreeSet::new();
        each_entry(tar, |path, entry| {
            found.path(&path);
            if is_record(&path) && entry.size() <= MAX_RECORD {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes)?;
                found.record(path, &bytes, &mut owned);
            }
            Ok(())
        })?;
        found.wheels.retain(|path, _| !owned.contains(path));
        Ok(found)
    }

    fn path(&mut self, path: &str) {
        if self.removals.note(path) {
            return;
        }
        if let Some(folder) = path.strip_suffix("/METADATA")
            && let Some(wheel) = wheel(folder)
        {
            self.wheels.insert(folder.to_owned(), wheel);
        }
    }

    /// A record that cannot be read is passed over: it tells nothing.
    fn record(&mut self, path: String, bytes: &[u8], owned: &mut BTreeSet<String>) {
        let Ok(record) = serde_json::from_slice::<Record>(bytes) else {
            return;
        };
        let prefix = prefix(&path).unwrap_or_default();
        owned.extend(dist_infos(prefix, &record.files));
        let package = Package {
            version: record.version,
            build: Some(record.build),
            channel: record.url.as_ref().map(origin::channel),
            sha256: record.sha256,
            size: record.size,
        };
        self.conda.insert(path, (record.name, package));
    }

    /// Puts a layer over this one.
    pub(super) fn put_over(&mut self, upper: &Self) {
        let gone = |path: &String| upper.removals.remove(path);
        self.conda.retain(|path, _| !gone(path));
        self.wheels.retain(|path, _| !gone(path));
        self.conda.extend(upper.conda.clone());
        self.wheels.extend(upper.wheels.clone());
    }
}

/// Goes through an uncompressed layer; paths have no leading slash, and those that are no UTF-8 are
/// passed over.
///
/// # Errors
/// When it is no tar, or cannot be read; and the first error of `look`.
pub(crate) fn each_entry<R: Read>(
    tar: R,
    mut look: impl FnMut(String, &mut tar::Entry<'_, R>) -> io::Result<()>,
) -> io::Result<()> {
    for entry in tar::Archive::new(tar).entries()? {
        let mut entry = entry?;
        let path = entry.path_bytes();
        let Ok(text) = std::str::from_utf8(&path) else {
            continue;
        };
        let path = text.trim_start_matches("./").trim_matches('/').to_owned();
        look(path, &mut entry)?;
    }
    Ok(())
}

/// The `.dist-info` folders among the files of a package.
pub(crate) fn dist_infos(prefix: &str, files: &[String]) -> impl Iterator<Item = String> {
    let folders = files
        .iter()
        .filter_map(|file| file.strip_suffix("/METADATA"));
    folders.map(move |folder| join(prefix, folder))
}

/// A path below a folder, which may be the root.
fn join(folder: &str, name: &str) -> String {
    match folder {
        "" => name.to_owned(),
        _ => format!("{folder}/{name}"),
    }
}

/// Whether a path is that of a record.
pub(crate) fn is_record(path: &str) -> bool {
    path.ends_with(".json") && prefix(path).is_some()
}

/// The prefix that a record is of.
pub(crate) fn prefix(path: &str) -> Option<&str> {
    let (folder, _) = path.rsplit_once('/')?;
    match folder.strip_suffix("conda-meta")? {
        "" => Some(""),
        prefix => prefix.strip_suffix('/'),
    }
}

/// The prefix that a `.dist-info` folder is of: what is above `lib/pythonX.Y/site-packages`.
pub(crate) fn wheel_prefix(folder: &str) -> Option<&str> {
    let (site, _) = folder.rsplit_once('/')?;
    let lib = site.strip_suffix("/site-packages")?;
    let (prefix, _) = lib.rsplit_once("lib/python")?;
    Some(prefix.trim_end_matches('/'))
}

/// The name and the version that a `.dist-info` folder in `site-packages` has.
pub(crate) fn wheel(folder: &str) -> Option<(String, String)> {
    wheel_prefix(folder)?;
    let (_, name) = folder.rsplit_once('/')?;
    let (name, version) = name.strip_suffix(".dist-info")?.split_once('-')?;
    let name = pep508_rs::PackageName::new(name.to_owned()).ok()?;
    // Folders have the version as the wheel's maker wrote it, locks as PEP 440 normalises it.
    let version = match version.parse::<pep440_rs::Version>() {
        Ok(version) => version.to_string(),
        Err(_) => version.to_owned(),
    };
    Some((name.to_string(), version))
}
