//! A plan as data; its JSON is described in docs/plan.md.

use serde::{Deserialize, Serialize};

use crate::{
    diff::{Manager, Reason},
    digest::Digest,
    plan::Tier,
};

/// What a build would do; its JSON is described in docs/plan.md.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BuildPlan {
    /// The version of this format.
    pub version: u32,
    /// The base image.
    pub base: PlannedBase,
    /// The image that the layers are compared with, if one is known.
    pub compared_with: Option<Earlier>,
    /// The layers over the base image, lowest first.
    pub layers: Vec<LayerOutlook>,
    /// The titles of the earlier image's layers of which nothing is left.
    pub gone: Vec<String>,
    /// All layers together.
    pub totals: Totals,
    /// What a push or a load would send.
    pub sending: Sending,
    /// What is not known, in words.
    pub notes: Vec<String>,
}

impl BuildPlan {
    /// The version of the JSON: another one when a field goes or changes its meaning.
    pub const VERSION: u32 = 1;
}

/// The base image of a plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlannedBase {
    /// The image as the user named it.
    pub image: String,
    /// Whether it is on this machine; if not, `layers` is an assumption.
    pub known: bool,
    /// How many layers it has.
    pub layers: usize,
    /// The size of its blobs in bytes.
    pub bytes: Option<u64>,
}

/// A layer of a plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LayerOutlook {
    /// Where it stands.
    pub tier: LayerTier,
    /// The prefix of its packages; the folder of the code.
    pub path: String,
    /// What a person reads in `docker history`.
    pub title: String,
    /// What becomes of it.
    pub state: LayerState,
    /// The reference that it would be taken over from.
    #[serde(default)]
    pub from: Option<String>,
    /// Its key, where that is known.
    pub key: Option<Digest>,
    /// Why it is not the layer that it was; empty for one that the earlier image has.
    pub why: Vec<Reason>,
    /// Its blob, where it is stored or expected.
    pub blob: Option<PlannedBlob>,
    /// Whether the image that it is compared with has it.
    pub in_earlier: bool,
    /// The names of the packages, not on this machine, that decide which layer it is.
    #[serde(default)]
    pub decided_by: Vec<String>,
    /// The size of what goes into it, in bytes: archives as they are downloaded, code as it is.
    pub bytes: u64,
    /// Its packages, by name.
    pub packages: Vec<PackageOutlook>,
}

/// The blob of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedBlob {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub bytes: u64,
}

/// A package of a plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PackageOutlook {
    /// `conda` or `pip`.
    pub manager: Manager,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// conda's build string.
    pub build: Option<String>,
    /// The channel of a conda package, as a URL.
    pub channel: Option<String>,
    /// The sha256 of its archive, where the lock says it.
    pub sha256: Option<Digest>,
    /// The size of its archive in bytes, where that is known.
    pub bytes: Option<u64>,
    /// Whether its archive is on this machine.
    pub here: bool,
    /// Whether a build would download it.
    #[serde(default)]
    pub download: bool,
}

/// Where a layer stands in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerTier {
    /// What conda and the wrapper need beside the packages.
    State,
    /// The user's code.
    Code,
    /// A tier of packages.
    #[serde(untagged)]
    Packages(Tier),
}

/// What becomes of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerState {
    /// It is in the store and would be used as it is.
    Stored,
    /// An earlier image in a registry has it, and it would be used as it is.
    Remote,
    /// It is in the store or in an earlier image, as far as it is known without what is not on
    /// this machine.
    Expected,
    /// It would be built.
    ToBuild,
    /// Whether it would be built is only known once everything is on this machine.
    Unknown,
}

/// All layers of a plan together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Layers of the image, the base's included.
    pub layers: usize,
    /// Packages.
    pub packages: usize,
    /// The size of all archives and of the code, in bytes.
    pub bytes: u64,
    /// Packages whose size nobody knows yet; they count as 0 bytes.
    pub packages_of_unknown_size: usize,
    /// Packages that would be downloaded.
    pub download_packages: usize,
    /// Their size in bytes, the base image's not included.
    pub download_bytes: u64,
}

/// The image that a plan is compared with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Earlier {
    /// How it was found: its name, or the environment file that it was built of last.
    pub name: String,
    /// The digest of its manifest.
    pub digest: Digest,
    /// Whether it is known what its layers were made of.
    pub known: bool,
}

/// What a push or a load would send to where the earlier image is; all layers without one. The
/// image's documents, a few kilobytes, are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sending {
    /// Layers that would be sent, the base's included.
    pub layers: usize,
    /// Their size in bytes: that of their blobs, and for those of `estimated_layers` that of the
    /// archives that go into them.
    pub bytes: u64,
    /// Layers that are not built yet, so that nobody knows the size of their blobs.
    pub estimated_layers: usize,
    /// The part of `bytes` that is such an estimate.
    pub estimated_bytes: u64,
    /// Layers that are not sent, since the earlier image has them.
    pub there_layers: usize,
    /// Their size in bytes.
    pub there_bytes: u64,
}
