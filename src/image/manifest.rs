//! The OCI documents that name blobs (OCI image-spec, manifest.md, image-index.md).
//!
//! Written here rather than with `oci-spec`, whose annotation maps have no order: the same image
//! must give the same bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    base::{Platform, media},
    digest::Digest,
    error::{Error, Exit, Result},
    machine::Machine,
};

/// Annotations and labels, in an order that does not vary.
pub type Annotations = BTreeMap<String, String>;

/// A reference to a blob (OCI image-spec, descriptor.md).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The media type of the blob.
    pub media_type: String,
    /// The digest of the blob.
    pub digest: Digest,
    /// The size of the blob in bytes.
    pub size: u64,
    /// Free-form annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: Annotations,
    /// The platform, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<serde_json::Value>,
}

/// An image manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// The media type of the manifest itself.
    pub media_type: String,
    /// The config blob.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// Free-form annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: Annotations,
}

/// An image index, as an image layout's `index.json` is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// The media type of the index itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The manifests.
    pub manifests: Vec<Descriptor>,
    /// Free-form annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: Annotations,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// When the bytes are not an image manifest.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes)
            .map_err(|e| Error::environment("this is not an OCI image manifest").why(e))
    }

    /// The manifest as JSON bytes.
    ///
    /// # Errors
    /// Never for a manifest made here.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        to_bytes(self)
    }
}

impl Index {
    /// Reads an index.
    ///
    /// # Errors
    /// When the bytes are not an image index.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes)
            .map_err(|e| Error::environment("this is not an OCI image index").why(e))
    }

    /// The entry for a machine.
    pub fn of(&self, machine: Machine) -> Option<&Descriptor> {
        let wanted = machine.platform();
        let platform =
            |entry: &Descriptor| serde_json::from_value::<Platform>(entry.platform.clone()?).ok();
        let mut entries = self.manifests.iter();
        entries.find(|entry| platform(entry).is_some_and(|offered| wanted.accepts(&offered)))
    }

    /// An index of these manifests.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media::OCI_INDEX.into()),
            manifests,
            annotations: Annotations::new(),
        }
    }

    /// The index as JSON bytes.
    ///
    /// # Errors
    /// Never for an index made here.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        to_bytes(self)
    }
}

fn to_bytes(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|e| Error::new(Exit::Internal, "cannot write an OCI document").why(e))
}
