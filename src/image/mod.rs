//! Base image plus layers to an image: config, manifest, history. Pure.

mod config;
mod manifest;

pub use config::{
    ENTRYPOINT_LABEL, ImageSettings, PREFIX_LABEL, TopLayer, assemble_config, timestamp,
};
pub use manifest::{Descriptor, Index, Manifest};

use crate::{
    base::{BaseImage, media},
    digest::Digest,
    error::Result,
};

/// The annotation with the base image's name in a registry (OCI image-spec, annotations.md).
pub const BASE_NAME: &str = "org.opencontainers.image.base.name";
/// The annotation with the base image's digest (OCI image-spec, annotations.md).
pub const BASE_DIGEST: &str = "org.opencontainers.image.base.digest";

/// A finished image: its documents, and the descriptors of its layers, lowest first.
#[derive(Clone, Debug)]
pub struct Image {
    /// The image config as stored.
    pub config: Vec<u8>,
    /// The manifest as stored.
    pub manifest: Vec<u8>,
    /// The digest of the manifest: the image's digest.
    pub digest: Digest,
    /// The digest of the config: what Docker calls the image ID.
    pub config_digest: Digest,
    /// All layers, the base's first.
    pub layers: Vec<Descriptor>,
}

impl Image {
    /// An image from the documents that were stored of it.
    ///
    /// # Errors
    /// When the manifest is not an image manifest.
    pub fn from_documents(manifest: Vec<u8>, config: Vec<u8>) -> Result<Self> {
        let parsed = Manifest::parse(&manifest)?;
        Ok(Self {
            digest: Digest::of(&manifest),
            config_digest: Digest::of(&config),
            layers: parsed.layers,
            config,
            manifest,
        })
    }
}

/// Puts an image together; the same input gives the same bytes.
///
/// # Errors
/// When the base's config is not an image config.
pub fn assemble(base: &BaseImage, top: &[TopLayer], settings: &ImageSettings) -> Result<Image> {
    let config = assemble_config(base, top, settings)?;
    let config_digest = Digest::of(&config);
    let base_layers = base.layers.iter().map(|layer| Descriptor {
        media_type: layer.media_type.clone(),
        digest: layer.digest,
        size: layer.size,
        annotations: Default::default(),
        platform: None,
    });
    let top_layers = top.iter().map(|layer| Descriptor {
        media_type: layer.built.media_type.clone(),
        digest: layer.built.digest,
        size: layer.built.size,
        annotations: layer.annotations.clone(),
        platform: None,
    });
    let layers: Vec<Descriptor> = base_layers.chain(top_layers).collect();
    let manifest = Manifest {
        schema_version: 2,
        media_type: media::OCI_MANIFEST.into(),
        config: Descriptor {
            media_type: media::OCI_CONFIG.into(),
            digest: config_digest,
            size: config.len() as u64,
            annotations: Default::default(),
            platform: None,
        },
        layers: layers.clone(),
        annotations: annotations(base, settings),
    };
    let manifest = manifest.to_bytes()?;
    Ok(Image {
        digest: Digest::of(&manifest),
        config,
        manifest,
        config_digest,
        layers,
    })
}

/// The user's annotations, and what the base was (OCI image-spec, annotations.md). Only a
/// registry's reference is a name that means the same on another machine.
fn annotations(base: &BaseImage, settings: &ImageSettings) -> manifest::Annotations {
    let mut annotations = settings.annotations.clone();
    let facts = [
        (BASE_NAME, settings.base_name.clone()),
        (BASE_DIGEST, base.digest.map(|digest| digest.to_string())),
    ];
    for (key, value) in facts {
        if let Some(value) = value {
            annotations.entry(key.to_owned()).or_insert(value);
        }
    }
    annotations
}
