//! `conda-meta/<name>-<version>-<build>.json`: what `conda list` and `conda env export` read.

use std::path::Path;

use rattler_conda_types::{
    PrefixRecord, RepoDataRecord,
    package::PrefixPlaceholder,
    prefix_record::{PathType, PathsEntry},
};

use crate::{
    digest::Digest,
    error::{Error, Exit, Result},
};

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
/// Never for a record that came from a lock.
pub fn prefix_record_json(record: &RepoDataRecord, mut paths: Vec<PathsEntry>) -> Result<Vec<u8>> {
    paths.sort_by(|a, b| a.relative_path.cmp(&b.relative_path));
    let record = PrefixRecord::from_repodata_record(record.clone(), paths);
    let mut bytes = serde_json::to_vec_pretty(&record)
        .map_err(|e| Error::new(Exit::Internal, "cannot write a conda-meta record").why(e))?;
    bytes.push(b'\n');
    Ok(bytes)
}
