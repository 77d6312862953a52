//! Images that a Docker daemon holds: exported as `docker save` does, then read as an archive.

use std::io;

use bollard::{Docker, errors::Error as DockerError, models::ImageInspect};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::{BaseImage, BaseLayer, Loader, archive::Archive, docker_archive};
use crate::{
    digest::Digest,
    error::{Error, Result, chain},
    store::Store,
};

/// Bumped when what [`Exported`] means changes.
const FORMAT: &str = "imgbuild docker-daemon export 1";

/// What an image id led to: an id is a digest, so it leads there again while the blobs are kept.
#[derive(Serialize, Deserialize)]
struct Exported {
    config: Value,
    layers: Vec<BaseLayer>,
    digest: Option<Digest>,
}

/// Exports an image of the daemon into the store.
///
/// # Errors
/// When the daemon does not hold it, refuses, or breaks off.
pub(super) async fn load(reference: &str, docker: &Docker, loader: &Loader) -> Result<BaseImage> {
    let image = docker
        .inspect_image(reference)
        .await
        .map_err(|e| explain(reference, &e))?;
    let key = survey_key(&image, loader);
    if let Some(known) = key.and_then(|key| known(&loader.store, &key)) {
        return Ok(known);
    }
    let base = export(reference, docker, loader).await?;
    if let Some(key) = key {
        let exported = Exported {
            config: base.config.clone(),
            layers: base.layers.clone(),
            digest: base.digest,
        };
        loader.store.put_survey(&key, &exported)?;
    }
    Ok(base)
}

fn survey_key(image: &ImageInspect, loader: &Loader) -> Option<Digest> {
    let id = image.id.as_ref()?;
    let key = format!("{FORMAT}\n{id}\n{}\n", loader.platform);
    Some(Digest::of(key.as_bytes()))
}

fn known(store: &Store, key: &Digest) -> Option<BaseImage> {
    let exported: Exported = store.survey(key)?;
    let here = |layer: &BaseLayer| store.has_blob(&layer.digest, layer.size);
    exported.layers.iter().all(here).then_some(BaseImage {
        config: exported.config,
        layers: exported.layers,
        name: None,
        digest: exported.digest,
    })
}

async fn export(reference: &str, docker: &Docker, loader: &Loader) -> Result<BaseImage> {
    let place = format!("docker-daemon:{reference}");
    // The export API takes the reference as the user wrote it, as `docker save` does.
    let stream = docker
        .export_image(reference)
        .map_err(|e| io::Error::other(chain(&e)));
    let bridge = SyncIoBridge::new(StreamReader::new(stream));
    let loader = loader.clone();
    super::blocking(move || {
        let archive = Archive::spool(place, bridge, &loader.store, &loader.reporter)?;
        docker_archive::load(
            &archive,
            None,
            &loader.store,
            &loader.reporter,
            &loader.platform,
        )
    })
    .await
}

fn explain(reference: &str, error: &DockerError) -> Error {
    match error {
        DockerError::DockerResponseServerError {
            status_code: 404, ..
        } => Error::environment(format!("the Docker daemon has no image '{reference}'"))
            .hint(format!("docker pull {reference}")),
        other => Error::environment(format!("the Docker daemon does not give '{reference}'"))
            .why(chain(other)),
    }
}
