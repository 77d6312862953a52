//! Manifests, indexes and configs: read, checked, and put together. No I/O.
//!
//! The formats are OCI image-spec's (manifest.md, image-index.md, config.md) and Docker's twins of
//! them (distribution, manifest-v2-2). Only what a base image needs is read; the rest is ignored.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::{BaseImage, BaseLayer, Platform, media};
use crate::{
    digest::{DiffId, Digest},
    error::{Error, Result},
};

/// Manifests and configs beyond this size are not read (registries refuse them as well).
pub(super) const MAX_DOCUMENT: u64 = 8 << 20;

/// How deep indexes may point to indexes.
pub(super) const MAX_DEPTH: usize = 4;

/// What an index and a manifest point with (OCI image-spec, descriptor.md).
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    #[serde(default)]
    pub platform: Option<Platform>,
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    /// The digest, which must be a sha256: the text becomes a file name in the store.
    pub fn digest(&self) -> Result<Digest> {
        sha256(&self.digest)
    }

    /// The names that an image layout gives this manifest: the tag, and what containerd calls it.
    fn names(&self) -> impl Iterator<Item = &str> {
        [
            "org.opencontainers.image.ref.name",
            "io.containerd.image.name",
        ]
        .into_iter()
        .filter_map(|key| self.annotations.as_ref()?.get(key))
        .map(String::as_str)
    }

    /// BuildKit keeps attestations beside the images, under a platform of `unknown/unknown`.
    fn is_attestation(&self) -> bool {
        let unknown = |p: &Platform| p.os == "unknown";
        self.platform.as_ref().is_some_and(unknown)
    }
}

/// A digest that must be a sha256 in full, algorithm included.
pub(super) fn sha256(text: &str) -> Result<Digest> {
    let digest = text.strip_prefix("sha256:").and(text.parse().ok());
    digest.ok_or_else(|| {
        Error::input(format!("digest '{text}' is not a sha256"))
            .why("imgbuild reads images whose digests are sha256:<64 hexadecimal digits>")
    })
}

/// What a manifest reference leads to.
pub(super) enum Document {
    Index(Vec<Descriptor>),
    Manifest(Manifest),
}

/// An image manifest (OCI image-spec, manifest.md).
#[derive(Debug, Deserialize)]
pub(super) struct Manifest {
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

impl Document {
    /// Reads an index or a manifest, whichever it is, and refuses what is not an image.
    ///
    /// # Errors
    /// When it is not JSON, is a schema 1 manifest, or is neither an index nor an image manifest.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let shape: Shape = serde_json::from_slice(bytes)
            .map_err(|e| Error::input("the image's manifest cannot be read").why(e))?;
        if shape.schema_version == Some(1) {
            return Err(Error::input("the image has a schema 1 manifest, which imgbuild does not read")
                .why("Docker's schema 1 format was replaced in 2016; it has no layer media types and no config")
                .hint("push the image again with a current Docker or skopeo, and use that one"));
        }
        match shape {
            Shape {
                manifests: Some(manifests),
                ..
            } => Ok(Self::Index(manifests)),
            Shape {
                config: Some(config),
                layers: Some(layers),
                ..
            } => Ok(Self::Manifest(Manifest { config, layers })),
            Shape { media_type, .. } => {
                let said = media_type.unwrap_or_else(|| "no media type".into());
                Err(Error::input("neither an image manifest nor an image index")
                    .why(format!("the document says: {said}")))
            }
        }
    }
}

/// Picks the manifest for a platform out of an index; with a tag, among those of that name.
///
/// A layout's top index may hold unrelated images: `top` says so, and more than one fitting entry
/// is then an error. Below the top, entries differ by platform only and the first that fits wins,
/// as it does in Docker and containerd.
///
/// # Errors
/// When nothing fits, or more than one image does.
pub(super) fn choose<'a>(
    entries: &'a [Descriptor],
    platform: &Platform,
    tag: Option<&str>,
    top: bool,
) -> Result<&'a Descriptor> {
    let images = || entries.iter().filter(|entry| !entry.is_attestation());
    let named = || images().filter(|e| tag.is_none_or(|tag| e.names().any(|name| name == tag)));
    if let Some(tag) = tag
        && named().next().is_none()
    {
        return Err(Error::input(format!("no image named '{tag}' there")).why(list_names(images())));
    }
    let exact = named().filter(|e| e.platform.as_ref().is_some_and(|p| platform.accepts(p)));
    let mut found: Vec<_> = exact.collect();
    if found.is_empty() {
        // No platform said: the config of the image says it, and is checked then.
        found = named().filter(|e| e.platform.is_none()).collect();
    }
    match found[..] {
        [] => Err(no_platform(platform, images())),
        [_, _, ..] if top => Err(Error::input("more than one image there")
            .why(list_names(images()))
            .hint("name one: add :TAG")),
        [first, ..] => Ok(first),
    }
}

fn no_platform<'a>(wanted: &Platform, images: impl Iterator<Item = &'a Descriptor>) -> Error {
    let offered: Vec<_> = images
        .filter_map(|entry| entry.platform.as_ref().map(Platform::to_string))
        .collect();
    let offered = match &offered[..] {
        [] => "it holds no image".to_owned(),
        _ => format!("it is there for {}", offered.join(", ")),
    };
    Error::input(format!("the image is not there for {wanted}")).why(offered)
}

fn list_names<'a>(images: impl Iterator<Item = &'a Descriptor>) -> String {
    let names: Vec<_> = images
        .map(|entry| entry.names().next().unwrap_or("(one without a name)"))
        .collect();
    match &names[..] {
        [] => "it holds no image".into(),
        _ => format!("it holds: {}", names.join(", ")),
    }
}

impl Manifest {
    /// The layers with their digests and OCI media types; diff ids come with the config.
    ///
    /// # Errors
    /// When the manifest is that of an artifact, or a layer is of a kind that cannot be used.
    pub fn layers(&self) -> Result<Vec<LayerBlob>> {
        media::check_config(&self.config.media_type)?;
        let read = |layer: &Descriptor| {
            Ok(LayerBlob {
                digest: layer.digest()?,
                size: layer.size,
                media_type: media::oci_layer(&layer.media_type)?.to_owned(),
            })
        };
        self.layers.iter().map(read).collect()
    }
}

/// A layer before its diff id is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LayerBlob {
    pub digest: Digest,
    pub size: u64,
    pub media_type: String,
}

/// Reads a config: the JSON kept whole, and the diff ids in it (OCI image-spec, config.md).
///
/// # Errors
/// When it is not JSON, names no diff ids, or is for another platform.
pub(super) fn read_config(bytes: &[u8], platform: &Platform) -> Result<(Value, Vec<DiffId>)> {
    let config: Value = serde_json::from_slice(bytes)
        .map_err(|e| Error::input("the image's config cannot be read").why(e))?;
    check_platform(&config, platform)?;
    let ids = config
        .pointer("/rootfs/diff_ids")
        .and_then(Value::as_array)
        .ok_or_else(|| Error::input("the image's config has no rootfs.diff_ids"))?;
    let diff_id = |id: &Value| sha256(id.as_str().unwrap_or_default()).map(DiffId);
    let ids = ids.iter().map(diff_id).collect::<Result<_>>()?;
    Ok((config, ids))
}

fn check_platform(config: &Value, wanted: &Platform) -> Result<()> {
    let text = |key| {
        config
            .get(key)
            .and_then(Value::as_str)
            .filter(|v| !v.is_empty())
    };
    let (Some(os), Some(architecture)) = (text("os"), text("architecture")) else {
        return Err(Error::input(
            "the image's config names no os and architecture",
        ));
    };
    let offered = Platform {
        os: os.into(),
        architecture: architecture.into(),
        variant: text("variant").map(Into::into),
    };
    if wanted.accepts(&offered) {
        return Ok(());
    }
    Err(Error::input(format!(
        "the image is for {offered}, and {wanted} is needed"
    )))
}

/// Joins layers and diff ids, which must be as many.
///
/// # Errors
/// When they are not.
pub(super) fn assemble(
    config: Value,
    layers: Vec<LayerBlob>,
    diff_ids: Vec<DiffId>,
    digest: Digest,
) -> Result<BaseImage> {
    if layers.len() != diff_ids.len() {
        return Err(Error::input(format!(
            "the image has {} layers but its config names {} diff ids",
            layers.len(),
            diff_ids.len()
        )));
    }
    let join = |(layer, diff_id): (LayerBlob, DiffId)| BaseLayer {
        digest: layer.digest,
        diff_id,
        size: layer.size,
        media_type: layer.media_type,
    };
    Ok(BaseImage {
        config,
        layers: layers.into_iter().zip(diff_ids).map(join).collect(),
        name: None,
        digest: Some(digest),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(platform: Option<&str>, name: Option<&str>) -> Descriptor {
        let annotation = |name: &str| {
            BTreeMap::from([("org.opencontainers.image.ref.name".into(), name.into())])
        };
        Descriptor {
            media_type: media::OCI_MANIFEST.into(),
            digest: Digest::of(name.or(platform).unwrap_or("").as_bytes()).to_string(),
            size: 1,
            platform: platform.map(|p| p.parse().unwrap()),
            annotations: name.map(annotation),
        }
    }

    fn text(error: Error) -> String {
        error.to_string()
    }

    #[test]
    fn chooses_by_platform_and_name() {
        let amd64 = Platform::linux_amd64();
        let index = [
            entry(Some("unknown/unknown"), None),
            entry(Some("linux/arm64"), Some("a")),
            entry(Some("linux/amd64"), Some("b")),
            entry(None, Some("c")),
        ];
        let pick = |tag| choose(&index, &amd64, tag, true);
        assert_eq!(pick(None).unwrap().names().next(), Some("b"));
        assert_eq!(pick(Some("c")).unwrap().names().next(), Some("c"));
        assert_eq!(
            text(pick(Some("x")).unwrap_err()),
            "no image named 'x' there\n  why: it holds: a, b, c"
        );
        assert_eq!(
            text(choose(&index[..2], &amd64, None, false).unwrap_err()),
            "the image is not there for linux/amd64\n  why: it is there for linux/arm64"
        );
        let two = [entry(None, Some("a")), entry(None, Some("b"))];
        assert!(choose(&two, &amd64, None, true).is_err());
        assert!(choose(&two, &amd64, None, false).is_ok());
        assert!(choose(&[], &amd64, None, true).is_err());
    }

    #[test]
    fn refuses_what_is_no_image() {
        let read = |json: &str| {
            Document::parse(json.as_bytes())
                .map(drop)
                .unwrap_err()
                .to_string()
        };
        assert!(read(r#"{"schemaVersion":1,"fsLayers":[]}"#).contains("schema 1"));
        assert!(read("{}").contains("neither"));
        assert!(read("<html>").contains("cannot be read"));
        assert!(read(r#"[]"#).contains("cannot be read"));
    }

    #[test]
    fn digests_are_whole_sha256s() {
        let hex = Digest::of(b"").hex();
        assert!(sha256(&format!("sha256:{hex}")).is_ok());
        for bad in [hex.as_str(), "sha512:00", "sha256:../../x", ""] {
            assert!(sha256(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn configs_are_checked() {
        let amd64 = Platform::linux_amd64();
        let read = |json: Value| read_config(json.to_string().as_bytes(), &amd64);
        let id = Digest::of(b"x").to_string();
        let good = serde_json::json!({"os": "linux", "architecture": "amd64", "extra": 1,
            "rootfs": {"diff_ids": [id]}});
        let (config, ids) = read(good).unwrap();
        assert_eq!(config["extra"], 1);
        let layer = LayerBlob {
            digest: Digest::of(b"x"),
            size: 1,
            media_type: media::OCI_TAR.into(),
        };
        assert!(assemble(config.clone(), vec![], ids.clone(), Digest::of(b"")).is_err());
        assert_eq!(
            assemble(config, vec![layer], ids, Digest::of(b""))
                .unwrap()
                .layers
                .len(),
            1
        );
        let arm =
            serde_json::json!({"os": "linux", "architecture": "arm64", "rootfs": {"diff_ids": []}});
        assert_eq!(
            text(read(arm).unwrap_err()),
            "the image is for linux/arm64, and linux/amd64 is needed"
        );
        assert!(read(serde_json::json!({"os": "linux", "architecture": "amd64"})).is_err());
    }
}
