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

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use serde_json::json;

    use super::*;
    use crate::base::{
        BaseSource, Platform,
        testing::{Answer, Fixture, Server, TarBuilder, layer_tar},
    };

    fn saved() -> Vec<u8> {
        let layer = layer_tar(&["a"]);
        let config = json!({"os": "linux", "architecture": "amd64",
            "rootfs": {"diff_ids": [Digest::of(&layer)]}});
        let list = json!([{"Config": "c.json", "RepoTags": ["base:1"], "Layers": ["l/layer.tar"]}]);
        TarBuilder::new()
            .file("c.json", config.to_string().as_bytes())
            .file("l/layer.tar", &layer)
            .file("manifest.json", list.to_string().as_bytes())
            .done()
    }

    #[test]
    fn exports_once_and_knows_what_is_absent() {
        let exports = Arc::new(AtomicUsize::new(0));
        let count = exports.clone();
        let server = Server::start(move |path, _| match path {
            path if path.ends_with("/images/base:1/json") => {
                Answer::body(json!({"Id": "sha256:1"}).to_string().into_bytes())
            }
            path if path.ends_with("/images/base:1/get") => {
                count.fetch_add(1, Ordering::SeqCst);
                Answer::body(saved())
            }
            _ => Answer {
                body: br#"{"message":"No such image: base:2"}"#.to_vec(),
                ..Answer::status(404)
            },
        });
        let fixture = Fixture::new();
        let loader = Loader {
            store: fixture.store.clone(),
            reporter: fixture.reporter.clone(),
            platform: Platform::linux_amd64(),
            offline: false,
            registries: crate::registry::Settings::default(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let load = |name: &str| {
            let host = format!("tcp://{}", server.host());
            let docker = async {
                Ok(Docker::connect_with_http(&host, 10, bollard::API_DEFAULT_VERSION).unwrap())
            };
            let source = BaseSource::DockerDaemon(name.into());
            runtime.block_on(loader.load(&source, None, docker))
        };
        let first = load("base:1").unwrap();
        let again = load("base:1").unwrap();
        assert_eq!((first.layers.len(), exports.load(Ordering::SeqCst)), (1, 1));
        assert_eq!((&first.layers, first.digest), (&again.layers, again.digest));
        assert_eq!(first.name.as_deref(), Some("docker-daemon:base:1"));
        // A blob that is gone is exported again.
        std::fs::remove_file(loader.store.blob_path(&first.layers[0].digest)).unwrap();
        assert_eq!(load("base:1").unwrap().layers, first.layers);
        assert_eq!(exports.load(Ordering::SeqCst), 2);
        assert_eq!(
            load("base:2").unwrap_err().to_string(),
            "the Docker daemon has no image 'base:2'\n  hint: docker pull base:2"
        );
    }
}
