//! One side of a comparison: what is known of a lock, an image or a plan, in one form.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Packages;
use crate::digest::{DiffId, Digest};

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A lock, of whatever tool.
    Lock,
    /// An image.
    Image,
    /// What `imgbuild build --dry-run --format json` printed.
    Plan,
}

/// One side of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// As the user named it.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Everything that is neither a package nor a layer. Only topics that both sides have are
    /// compared.
    pub facts: BTreeMap<Topic, BTreeMap<String, String>>,
    /// The packages.
    pub packages: Packages,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
}

/// What a fact is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Topic {
    /// The base image.
    Base,
    /// Where packages were chosen from.
    Channels,
    /// What a lock was made under; only imgbuild's own locks say it.
    Conditions,
    /// The image config (OCI image-spec, config.md).
    Config,
}

/// A layer of one side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// What `docker history` shows.
    pub title: String,
    /// Its size in bytes: the blob's; for a layer that is only planned, that of the archives.
    pub bytes: u64,
    /// The digest of the blob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The digest of the tar in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff_id: Option<DiffId>,
    /// imgbuild's key of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Digest>,
    /// A hash of the packages in it, where nothing better is known.
    #[serde(skip)]
    pub contents: Option<Digest>,
}

impl Layer {
    /// Whether both are one layer, by the first thing that both know.
    pub(super) fn is(&self, other: &Self) -> bool {
        let same = |one: Option<Digest>, other: Option<Digest>| Some(one? == other?);
        let tar = |layer: &Self| layer.diff_id.map(|id| id.0);
        same(self.digest, other.digest)
            .or_else(|| same(self.key, other.key))
            .or_else(|| same(tar(self), tar(other)))
            .or_else(|| same(self.contents, other.contents))
            .unwrap_or(false)
    }

    /// Whether both unpack to the same bytes.
    pub(super) fn unpacks_to(&self, other: &Self) -> bool {
        self.diff_id.is_some() && self.diff_id == other.diff_id
    }
}
