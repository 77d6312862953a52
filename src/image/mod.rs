//! Base image plus layers to an image: config, manifest, history. Pure.

mod config;
mod manifest;
mod set;

pub use config::{
    ENTRYPOINT_LABEL, ImageSettings, PREFIX_LABEL, TopLayer, assemble_config, timestamp,
};
pub use manifest::{Annotations, Descriptor, Index, Manifest};
pub use set::{Document, ImageSet};

use serde::Deserialize;
use serde_json::json;

use crate::{
    base::{BaseImage, BaseLayer, media},
    digest::{DiffId, Digest},
    error::{Error, Result},
    machine::Machine,
    store::BuiltLayer,
};

/// The annotation with the base image's name in a registry (OCI image-spec, annotations.md).
pub const BASE_NAME: &str = "org.opencontainers.image.base.name";
/// The annotation with the base image's digest (OCI image-spec, annotations.md).
pub const BASE_DIGEST: &str = "org.opencontainers.image.base.digest";
/// The field of a config that holds what a later build needs to know of this one.
pub const NOTES_KEY: &str = "dev.imgbuild.notes";
/// The annotation that tells what a layer was made of, so that it need not be made again.
pub const KEY_ANNOTATION: &str = "dev.imgbuild.layer-key";

/// A layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The OCI media type of the blob.
    pub media_type: String,
    /// The sha256 of the blob.
    pub digest: Digest,
    /// The size of the blob in bytes.
    pub size: u64,
    /// The sha256 of the uncompressed tar.
    pub diff_id: DiffId,
    /// The size of the uncompressed tar in bytes, if it is known: base layers are not measured.
    pub unpacked: Option<u64>,
    /// What the manifest says of the blob besides.
    pub annotations: Annotations,
}

impl Layer {
    /// A layer of the base.
    pub(crate) fn of_base(layer: &BaseLayer) -> Self {
        Self {
            media_type: layer.media_type.clone(),
            digest: layer.digest,
            size: layer.size,
            diff_id: layer.diff_id,
            unpacked: None,
            annotations: Annotations::new(),
        }
    }

    fn on_top(layer: &TopLayer) -> Self {
        Self {
            annotations: layer.annotations.clone(),
            ..Self::from(&layer.built)
        }
    }

    fn stored(descriptor: Descriptor, diff_id: DiffId) -> Self {
        Self {
            media_type: descriptor.media_type,
            digest: descriptor.digest,
            size: descriptor.size,
            diff_id,
            unpacked: None,
            annotations: descriptor.annotations,
        }
    }

    fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: self.media_type.clone(),
            digest: self.digest,
            size: self.size,
            annotations: self.annotations.clone(),
            platform: None,
        }
    }
}

impl From<&BuiltLayer> for Layer {
    fn from(built: &BuiltLayer) -> Self {
        Self {
            media_type: built.media_type.clone(),
            digest: built.digest,
            size: built.size,
            diff_id: built.diff_id,
            unpacked: built.unpacked,
            annotations: Annotations::new(),
        }
    }
}

/// A finished image: its documents and its layers, lowest first.
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
    pub layers: Vec<Layer>,
}

/// The part of an image config that names its layers (OCI image-spec, config.md).
#[derive(Deserialize)]
struct ConfigLayers {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<DiffId>,
}

impl Image {
    /// An image from the documents that were stored of it.
    ///
    /// # Errors
    /// When they are not a manifest and a config, or do not name the same number of layers.
    pub fn from_documents(manifest: Vec<u8>, config: Vec<u8>) -> Result<Self> {
        let parsed = Manifest::parse(&manifest)?;
        let diff_ids = diff_ids(&config)?;
        if parsed.layers.len() != diff_ids.len() {
            let (blobs, tars) = (parsed.layers.len(), diff_ids.len());
            return Err(
                Error::environment("the image's manifest and config do not agree").why(format!(
                    "the manifest has {blobs} layers, the config {tars}"
                )),
            );
        }
        let layers = parsed.layers.into_iter().zip(diff_ids);
        Ok(Self {
            digest: Digest::of(&manifest),
            config_digest: Digest::of(&config),
            layers: layers
                .map(|(blob, diff_id)| Layer::stored(blob, diff_id))
                .collect(),
            config,
            manifest,
        })
    }

    /// An image with this config, whose diff ids are those of the layers.
    fn of(config: Vec<u8>, layers: Vec<Layer>, annotations: Annotations) -> Result<Self> {
        let config_digest = Digest::of(&config);
        let manifest = Manifest {
            schema_version: 2,
            media_type: media::OCI_MANIFEST.into(),
            config: Descriptor {
                media_type: media::OCI_CONFIG.into(),
                digest: config_digest,
                size: config.len() as u64,
                annotations: Annotations::new(),
                platform: None,
            },
            layers: layers.iter().map(Layer::descriptor).collect(),
            annotations,
        };
        let manifest = manifest.to_bytes()?;
        Ok(Self {
            digest: Digest::of(&manifest),
            config,
            manifest,
            config_digest,
            layers,
        })
    }

    /// An image of nothing but layers, with one label.
    ///
    /// # Errors
    /// When its documents cannot be written.
    pub fn bare(layers: Vec<Layer>, label: &str) -> Result<Self> {
        let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id).collect();
        let config = json!({
            "architecture": Machine::here().unwrap_or_default().architecture(),
            "os": "linux",
            "config": {"Labels": {label: ""}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        Self::of(config.to_string().into_bytes(), layers, Annotations::new())
    }

    /// The same image with its layers packed in another way: another manifest, the same config.
    ///
    /// # Errors
    /// When the manifest is not an image manifest.
    pub fn with_layers(&self, layers: Vec<Layer>) -> Result<Self> {
        let manifest = Manifest {
            layers: layers.iter().map(Layer::descriptor).collect(),
            ..Manifest::parse(&self.manifest)?
        };
        let manifest = manifest.to_bytes()?;
        Ok(Self {
            digest: Digest::of(&manifest),
            manifest,
            layers,
            ..self.clone()
        })
    }
}

/// The diff ids of a config's layers, lowest first.
///
/// # Errors
/// When the bytes are not an image config.
fn diff_ids(config: &[u8]) -> Result<Vec<DiffId>> {
    serde_json::from_slice::<ConfigLayers>(config)
        .map(|config| config.rootfs.diff_ids)
        .map_err(|e| Error::environment("this is not an OCI image config").why(e))
}

/// Puts an image together; the same input gives the same bytes.
///
/// # Errors
/// When the base's config is not an image config.
pub fn assemble(base: &BaseImage, top: &[TopLayer], settings: &ImageSettings) -> Result<Image> {
    let config = assemble_config(base, top, settings)?;
    let base_layers = base.layers.iter().map(Layer::of_base);
    let layers = base_layers.chain(top.iter().map(Layer::on_top)).collect();
    Image::of(config, layers, annotations(base, settings))
}

/// The user's annotations, and what the base was (OCI image-spec, annotations.md). Only a
/// registry's reference is a name that means the same on another machine.
fn annotations(base: &BaseImage, settings: &ImageSettings) -> Annotations {
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
