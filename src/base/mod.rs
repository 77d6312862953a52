//! Base images: where they come from, and what a build needs of them.
//!
//! [`Loader::load`] puts the layers of a base image into the store, byte for byte, and gives back
//! its config; [`tree::BaseTree`] then says what stands at a path of it.

mod archive;
mod attested;
mod daemon;
mod docker_archive;
mod files;
mod glibc;
mod layout;
mod manifest;
pub mod media;
mod notes;
mod platform;
mod registry;
mod scan;
#[cfg(test)]
mod testing;
pub mod tree;

use std::{
    future::Future,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use glibc::Libc;
pub use notes::BaseNotes;
pub use platform::Platform;

use crate::{
    digest::{DiffId, Digest},
    error::{Error, Exit, Result},
    registry::Settings,
    report::Reporter,
    store::Store,
};

/// Where a base image comes from, as `--base` says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BaseSource {
    /// No base: an empty root.
    Scratch,
    /// An OCI image layout folder (`oci:DIR` or `oci:DIR:TAG`).
    OciLayout(String),
    /// An OCI image layout in one tar (`oci-archive:FILE` or `oci-archive:FILE:TAG`).
    OciArchive(String),
    /// What `docker save` writes (`docker-archive:FILE` or `docker-archive:FILE:REF`).
    DockerArchive(String),
    /// An image that the Docker daemon holds (`docker-daemon:REF`).
    DockerDaemon(String),
    /// An image in a registry, pulled by tag or digest.
    Registry(String),
}

impl std::fmt::Display for BaseSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Scratch => f.write_str("scratch"),
            Self::OciLayout(rest) => write!(f, "oci:{rest}"),
            Self::OciArchive(rest) => write!(f, "oci-archive:{rest}"),
            Self::DockerArchive(rest) => write!(f, "docker-archive:{rest}"),
            Self::DockerDaemon(reference) => write!(f, "docker-daemon:{reference}"),
            Self::Registry(reference) => f.write_str(reference),
        }
    }
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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BaseImage {
    /// The image config (OCI image-spec, config.md; Docker's extra keys kept), or `{}` for scratch.
    pub config: Value,
    /// The layers, lowest first, byte for byte as the source has them.
    pub layers: Vec<BaseLayer>,
    /// The image's name: a registry's full reference, else the source as the user wrote it (which
    /// may hold a path of this machine); absent for scratch.
    pub name: Option<String>,
    /// The digest of the manifest; for archives without one, of the config.
    pub digest: Option<Digest>,
}

impl BaseImage {
    /// The environment variables of its config, `NAME=value` each (OCI image-spec, config.md).
    pub fn variables(&self) -> Vec<&str> {
        let list = self.config.pointer("/config/Env").and_then(Value::as_array);
        list.map(|list| list.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default()
    }
}

/// A base image, and what stands where in it as far as a build needs to know.
#[derive(Clone, Debug)]
pub struct Ground {
    /// What it is. Its layers need not be in the store.
    pub image: BaseImage,
    /// What stands where.
    pub tree: tree::BaseTree,
}

/// One layer of a base image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// What loading a base image needs. Cheap to clone.
#[derive(Clone)]
pub struct Loader {
    /// Where the blobs go.
    pub store: Store,
    /// Where progress and warnings go.
    pub reporter: Reporter,
    /// The platform to choose out of an index, and that the image must be for.
    pub platform: Platform,
    /// No registry is asked: an image must be pinned and in the store.
    pub offline: bool,
    /// How registries are spoken to.
    pub registries: Settings,
}

impl Loader {
    /// Loads a base image: its layers are in the store afterwards, under verified digests. A blob
    /// that the store has is neither fetched nor copied again.
    ///
    /// A registry's image is the one that `pin` names, wherever its tag points by now; a pinned
    /// image that the store has whole is not asked for at all.
    ///
    /// `docker` is only awaited for [`BaseSource::DockerDaemon`]. Diff ids are those that the
    /// image claims; [`tree::BaseTree::scan`] verifies them, for it reads every layer anyway.
    ///
    /// # Errors
    /// When the image is not there, is damaged, is for another platform, or cannot be fetched.
    pub async fn load(
        &self,
        source: &BaseSource,
        pin: Option<&Digest>,
        docker: impl Future<Output = Result<bollard::Docker>>,
    ) -> Result<BaseImage> {
        let base = match source {
            BaseSource::Scratch => return Ok(BaseImage::scratch()),
            BaseSource::Registry(reference) => registry::pull(reference, pin, self).await?,
            BaseSource::DockerDaemon(name) => daemon::load(name, &docker.await?, self).await?,
            local => {
                let (loader, local) = (self.clone(), local.clone());
                blocking(move || loader.load_local(&local)).await?
            }
        };
        Ok(BaseImage {
            name: base.name.or_else(|| Some(source.to_string())),
            ..base
        })
    }

    /// As [`Loader::load`], but the layers of a registry's image need not be in the store
    /// afterwards, and their media types are those that the image claims: [`Loader::complete`]
    /// brings and corrects all, [`Loader::fetch`] brings some.
    ///
    /// # Errors
    /// As [`Loader::load`].
    pub async fn describe(
        &self,
        source: &BaseSource,
        pin: Option<&Digest>,
        docker: impl Future<Output = Result<bollard::Docker>>,
    ) -> Result<BaseImage> {
        match source {
            BaseSource::Registry(reference) => registry::describe(reference, pin, self).await,
            _ => self.load(source, None, docker).await,
        }
    }

    /// Brings what [`Loader::describe`] left out.
    ///
    /// # Errors
    /// When a layer is not there and cannot be fetched, or is of a compression that is refused.
    pub async fn complete(&self, source: &BaseSource, mut base: BaseImage) -> Result<BaseImage> {
        if matches!(source, BaseSource::Registry(_)) {
            self.fetch(source, &base.layers).await?;
            for layer in &mut base.layers {
                let BaseLayer {
                    digest, media_type, ..
                } = layer;
                media::correct_one(digest, media_type, &self.store, &self.reporter)?;
            }
        }
        Ok(base)
    }

    /// The manifest and the config of an image in a registry, for the loader's platform.
    ///
    /// # Errors
    /// When the registry cannot be reached, refuses, or sends other bytes than it should; none is
    /// there when it says that it has no such image.
    pub async fn documents(&self, reference: &str) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        registry::documents(reference, self).await
    }

    /// Brings layers of an image that was described into the store.
    ///
    /// # Errors
    /// When they are not there and cannot be fetched.
    pub async fn fetch(&self, source: &BaseSource, layers: &[BaseLayer]) -> Result<()> {
        let missing = |layer: &BaseLayer| !self.store.has_blob(&layer.digest, layer.size);
        match source {
            BaseSource::Registry(reference) if layers.iter().any(missing) => {
                registry::fetch_some(reference, layers, self).await
            }
            _ => Ok(()),
        }
    }

    /// What an OCI layout says of one of its images: a statement whose predicate is of that type.
    /// Other sources have none.
    ///
    /// # Errors
    /// When a document cannot be read, or is not what its digest says.
    pub fn statement(
        &self,
        source: &BaseSource,
        image: &Digest,
        kind: &str,
    ) -> Result<Option<Value>> {
        match source {
            BaseSource::OciLayout(text) => {
                let (path, _) = split_existing(text);
                attested::statement(&files::Folder(path), image, kind)
            }
            BaseSource::OciArchive(text) => {
                let (path, _) = split_existing(text);
                let archive = archive::Archive::open(&path, &self.store, &self.reporter)?;
                attested::statement(&archive, image, kind)
            }
            _ => Ok(None),
        }
    }

    /// The digest that [`Loader::load`] would give a registry's image now; no layer is fetched.
    ///
    /// # Errors
    /// When the registry cannot be reached, refuses, or has no such image.
    pub async fn resolve(&self, reference: &str) -> Result<Digest> {
        registry::resolve(reference, self).await
    }

    fn load_local(&self, source: &BaseSource) -> Result<BaseImage> {
        let (store, reporter, platform) = (&self.store, &self.reporter, &self.platform);
        match source {
            BaseSource::OciLayout(text) => {
                let (path, tag) = split_existing(text);
                if !path.is_dir() {
                    return Err(Error::input(format!(
                        "base image {source}: there is no such folder"
                    ))
                    .hint("oci: takes the folder of an OCI image layout, oci-archive: a file"));
                }
                layout::load(&files::Folder(path), tag, store, reporter, platform)
            }
            BaseSource::OciArchive(text) => {
                let (path, tag) = split_existing(text);
                let archive = archive::Archive::open(&path, store, reporter)?;
                layout::load(&archive, tag, store, reporter, platform)
            }
            BaseSource::DockerArchive(text) => {
                let (path, reference) = split_existing(text);
                let archive = archive::Archive::open(&path, store, reporter)?;
                docker_archive::load(&archive, reference, store, reporter, platform)
            }
            other => Err(Error::new(
                Exit::Internal,
                format!("{other} is not a local image"),
            )),
        }
    }
}

impl BaseImage {
    /// The base that is an empty root.
    pub fn scratch() -> Self {
        Self {
            config: Value::Object(serde_json::Map::new()),
            ..Self::default()
        }
    }
}

/// Runs file work off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(Error::new(Exit::Internal, "a worker thread failed").why(e)))
}

/// Splits `PATH:TAG` where a path of the disk ends: both halves may hold colons.
fn split_existing(text: &str) -> (PathBuf, Option<&str>) {
    if Path::new(text).exists() {
        return (text.into(), None);
    }
    let mut splits = text
        .match_indices(':')
        .map(|(at, _)| (&text[..at], &text[at + 1..]));
    splits
        .find(|(path, tag)| !tag.is_empty() && Path::new(path).exists())
        .map_or((text.into(), None), |(path, tag)| (path.into(), Some(tag)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_read_back_as_written() {
        for text in [
            "scratch",
            "oci:out:v1",
            "oci-archive:a.tar",
            "docker-archive:a.tar",
            "docker-daemon:debian:12",
            "localhost:5000/base:1",
            "debian:bookworm-slim",
        ] {
            assert_eq!(text.parse::<BaseSource>().unwrap().to_string(), text);
        }
        assert!("oci:".parse::<BaseSource>().is_err());
        assert!("".parse::<BaseSource>().is_err());
    }

    #[test]
    fn tags_start_where_paths_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a:b");
        std::fs::create_dir(&path).unwrap();
        let text = path.to_str().unwrap();
        assert_eq!(split_existing(text), (path.clone(), None));
        let tagged = format!("{text}:localhost:5000/x:1");
        assert_eq!(
            split_existing(&tagged),
            (path.clone(), Some("localhost:5000/x:1"))
        );
        assert_eq!(split_existing("/no/such:1"), ("/no/such:1".into(), None));
    }
}
