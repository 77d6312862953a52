//! Base images: where they come from, and what a build needs of them.

use std::str::FromStr;

use serde_json::Value;

use crate::{
    digest::{DiffId, Digest},
    error::{Error, Result},
};

/// Where a base image comes from, as `--base` says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BaseSource {
    /// No base: an empty root.
    Scratch,
    /// An OCI image layout folder (`oci:DIR` or `oci:DIR:TAG`).
    OciLayout(String),
    /// An OCI image layout in one tar (`oci-archive:FILE`).
    OciArchive(String),
    /// What `docker save` writes (`docker-archive:FILE`).
    DockerArchive(String),
    /// An image that the Docker daemon holds (`docker-daemon:REF`).
    DockerDaemon(String),
    /// An image in a registry, pulled by tag or digest.
    Registry(String),
}

impl FromStr for BaseSource {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (scheme, rest) = text.split_once(':').unwrap_or(("", text));
        let source = match scheme {
            "oci" => Self::OciLayout(rest.into()),
            "oci-archive" => Self::OciArchive(rest.into()),
            "docker-archive" => Self::DockerArchive(rest.into()),
            "docker-daemon" => Self::DockerDaemon(rest.into()),
            _ if text == "scratch" => Self::Scratch,
            _ => Self::Registry(text.into()),
        };
        if rest.is_empty() {
            return Err(Error::input(format!("base image '{text}' names nothing"))
                .hint("use oci:DIR, oci-archive:FILE, docker-archive:FILE, docker-daemon:REF, a registry reference, or scratch"));
        }
        Ok(source)
    }
}

/// A base image whose layers lie in the store.
#[derive(Clone, Debug, Default)]
pub struct BaseImage {
    /// The image config (OCI image-spec, config.md; Docker's extra keys kept), or `{}` for scratch.
    pub config: Value,
    /// The layers, lowest first, byte for byte as the source has them.
    pub layers: Vec<BaseLayer>,
    /// How the user named the image; absent for scratch.
    pub name: Option<String>,
    /// The digest of the manifest; for archives without one, of the config.
    pub digest: Option<Digest>,
}

/// One layer of a base image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseLayer {
    /// The sha256 of the blob as it is in the store.
    pub digest: Digest,
    /// The sha256 of the uncompressed tar, from the config's `rootfs.diff_ids`.
    pub diff_id: DiffId,
    /// The size of the blob in bytes.
    pub size: u64,
    /// The OCI media type of the blob.
    pub media_type: String,
}
