//! `conda-meta/<name>-<version>-<build>.json`: what `conda list` and `conda env export` read.

use std::path::Path;

use rattler_conda_types::{
    PackageRecord, PrefixRecord, RepoDataRecord, Subdir,
    package::{DistArchiveIdentifier, PrefixPlaceholder},
    prefix_record::{PathType, PathsEntry},
};

use super::{archive::PackageInfo, origin, prefix::damaged};
use crate::{
    digest::Digest,
    error::{Error, Exit, Result},
};

/// The facts of a package for its record: those of the archive's own `info/index.json`, its URL,
/// hashes and size. Locks repeat these in part or as a channel corrected them later, so a record
/// made of a lock's would differ from lock to lock.
///
/// # Errors
/// When the archive is of another package than the lock says.
pub fn facts(locked: &RepoDataRecord, info: &PackageInfo, size: u64) -> Result<RepoDataRecord> {
    let (known, mut index) = (&locked.package_record, info.index.clone());
    let itself = format!(
        "{}-{}-{}",
        index.name.as_normalized(),
        index.version,
        index.build
    );
    if (&index.name, &index.version, &index.build) != (&known.name, &known.version, &known.build) {
        return Err(damaged(locked, &format!("it says that it is {itself}")));
    }
    if itself.contains('/') {
        return Err(damaged(locked, "its name, version or build has a slash"));
    }
    let subdir = origin::subdir(&locked.url).map(|subdir| subdir.to_string());
    index.subdir = subdir.or(index.subdir);
    let mut record = PackageRecord::from_index_json(index, Some(size), known.sha256, known.md5)
        .map_err(|e| damaged(locked, &crate::error::chain(&e)))?;
    let platform: Option<Subdir> = record.subdir.parse().ok();
    record.arch = platform
        .and_then(|of| of.arch())
        .map(|arch| arch.to_string());
    record.platform = platform.and_then(|of| of.only_platform().map(str::to_owned));
    let identifier = origin::file_name(&locked.url)
        .as_deref()
        .and_then(DistArchiveIdentifier::try_from_filename);
    Ok(RepoDataRecord {
        package_record: record,
        identifier: identifier.unwrap_or_else(|| locked.identifier.clone()),
        url: origin::public_url(&locked.url),
        channel: Some(origin::channel(&locked.url)),
    })
}

/// One path of a `conda-meta` record.
pub struct PathRecord<'a> {
    /// The path in the prefix.
    pub target: &'a Path,
    /// How it was linked.
    pub kind: PathType,
    /// The sha256 in the package.
    pub original: Option<Digest>,
    /// The sha256 in the prefix; for regular files only.
    pub linked: Option<Digest>,
    /// The size in the prefix, in bytes.
    pub size: Option<u64>,
    /// The placeholder that was replaced.
    pub placeholder: Option<&'a PrefixPlaceholder>,
    /// Whether the package forbids links.
    pub no_link: bool,
}

/// The record's form of a path.
pub fn path_record(path: PathRecord<'_>) -> PathsEntry {
    let hash = |digest: Digest| (*digest.bytes()).into();
    PathsEntry {
        relative_path: path.target.to_path_buf(),
        original_path: None,
        path_type: path.kind,
        no_link: path.no_link,
        sha256: path.original.map(hash),
        sha256_in_prefix: path
            .linked
            .filter(|linked| Some(*linked) != path.original)
            .map(hash),
        size_in_bytes: path.size,
        file_mode: path.placeholder.map(|placeholder| placeholder.file_mode),
        prefix_placeholder: path
            .placeholder
            .map(|placeholder| placeholder.placeholder.clone()),
    }
}

/// The record's path in the prefix.
pub fn file_name(record: &RepoDataRecord) -> String {
    let prefix_record = PrefixRecord::from_repodata_record(record.clone(), Vec::new());
    format!("conda-meta/{}", prefix_record.file_name())
}

/// The record as JSON. It says nothing of the machine that built the layer, nor of the specs
/// that asked for the package: those are in `conda-meta/history`, so that a layer's bytes do not
/// depend on its neighbours.
///
/// # Errors
/// Never for what [`facts`] made.
pub fn prefix_record_json(facts: RepoDataRecord, mut paths: Vec<PathsEntry>) -> Result<Vec<u8>> {
    paths.sort_by(|a, b| a.relative_path.cmp(&b.relative_path));
    let record = PrefixRecord::from_repodata_record(facts, paths);
    let mut bytes = serde_json::to_vec_pretty(&record)
        .map_err(|e| Error::new(Exit::Internal, "cannot write a conda-meta record").why(e))?;
    bytes.push(b'\n');
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use rattler_conda_types::{PackageName, VersionWithSource, package::BuildString};
    use serde_json::json;

    use super::*;

    const FILE: &str = "tool-1.0-h1_0.conda";

    fn locked(url: &str) -> RepoDataRecord {
        let mut package = PackageRecord::new(
            PackageName::from_str("tool").unwrap(),
            VersionWithSource::from_str("1.0").unwrap(),
            BuildString::from_str("h1_0").unwrap(),
        );
        package.sha256 = Some([7; 32].into());
        RepoDataRecord {
            package_record: package,
            identifier: DistArchiveIdentifier::try_from_filename(FILE).unwrap(),
            url: url.parse().unwrap(),
            channel: Some("from-the-lock".into()),
        }
    }

    fn info(build: &str) -> PackageInfo {
        let index = json!({"name": "tool", "version": "1.0", "build": build, "build_number": 3,
            "depends": ["zlib >=1"], "license": "MIT", "timestamp": 1_700_000_000_000_u64});
        PackageInfo {
            index: serde_json::from_value(index).unwrap(),
            paths: Vec::new(),
            entry_points: Vec::new(),
        }
    }

    #[test]
    fn facts_are_the_archives_and_its_urls() {
        let url = format!("https://me:secret@host/t/tk-9/ch/linux-64/{FILE}");
        let found = facts(&locked(&url), &info("h1_0"), 99).unwrap();
        let record = serde_json::to_value(&found).unwrap();
        let expected = json!({"name": "tool", "version": "1.0", "build": "h1_0", "build_number": 3,
            "depends": ["zlib >=1"], "license": "MIT", "size": 99, "subdir": "linux-64",
            "arch": "x86_64", "platform": "linux", "fn": FILE, "channel": "https://host/ch/",
            "url": format!("https://host/ch/linux-64/{FILE}"), "sha256": "07".repeat(32)});
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(&record[key], value, "{key}");
        }
        let text = record.to_string();
        assert!(!text.contains("secret") && !text.contains("tk-9"), "{text}");
        assert_eq!(file_name(&found), "conda-meta/tool-1.0-h1_0.json");
    }

    #[test]
    fn an_archive_of_another_package_is_refused() {
        let locked = locked(&format!("https://host/ch/linux-64/{FILE}"));
        let error = facts(&locked, &info("h2_0"), 99).unwrap_err().to_string();
        assert!(
            error.contains("it says that it is tool-1.0-h2_0"),
            "{error}"
        );
    }
}
