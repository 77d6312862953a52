//! What a load goes by, asked of the daemon while the image is still being made.

use std::sync::Arc;

use bollard::{
    Docker,
    errors::Error as DockerError,
    models::{ImageInspect, SystemInfo},
};
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};

use super::{Daemon, words};
use crate::error::{Error, Result};

/// The two kinds of image store; they name and unpack images differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ImageStore {
    /// Graph drivers: an image's ID is its config's digest.
    Classic,
    /// containerd's snapshotters: an image's ID is its manifest's digest.
    Containerd,
}

/// What is known of a daemon before an image is given to it.
#[derive(Debug)]
pub(super) struct Known {
    /// Where it keeps images.
    pub store: ImageStore,
    /// The image that had the name when it was asked.
    pub named: Option<ImageInspect>,
}

/// An answer that is on its way.
#[derive(Clone)]
pub(super) struct Asked(Shared<BoxFuture<'static, Result<Arc<Known>, String>>>);

impl Asked {
    /// Asks a daemon, and which image has that name. Must be called within a runtime.
    pub(super) fn new(daemon: &Daemon, name: Option<String>) -> Self {
        let (docker, may_be_containerd) = (daemon.docker.clone(), daemon.may_be_containerd);
        let asking = tokio::spawn(async move {
            let named = match name {
                Some(name) => docker.inspect_image(&name).await.ok(),
                None => None,
            };
            let store = match may_be_containerd && !is_of_graph_driver(named.as_ref()) {
                true => image_store(&info(&docker).await.map_err(|e| words(&e))?),
                false => ImageStore::Classic,
            };
            Ok(Arc::new(Known { store, named }))
        });
        let answer = asking.map(|known| known.unwrap_or_else(|e| Err(e.to_string())));
        Self(answer.boxed().shared())
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// When the daemon did not give one.
    pub(super) async fn known(&self, daemon: &Daemon) -> Result<Arc<Known>> {
        self.0.clone().await.map_err(|why| {
            Error::environment("the Docker daemon does not say what it is")
                .at(&daemon.how)
                .why(why)
                .hint("check the daemon with `docker info`")
        })
    }
}

/// Whether an image lies in a graph driver's folders, of which containerd's store has none
/// (`GraphDriver.Data`). It saves asking for `/info`, which takes ten times as long.
fn is_of_graph_driver(image: Option<&ImageInspect>) -> bool {
    let driver = image.and_then(|image| image.graph_driver.as_ref());
    driver.is_some_and(|driver| !driver.data.is_empty())
}

fn image_store(info: &SystemInfo) -> ImageStore {
    let containerd = |pair: &Vec<String>| pair.iter().any(|v| v == "io.containerd.snapshotter.v1");
    if info.driver_status.iter().flatten().any(containerd) {
        ImageStore::Containerd
    } else {
        ImageStore::Classic
    }
}

/// What a daemon says of itself and its machine.
pub(super) async fn info(docker: &Docker) -> Result<SystemInfo, DockerError> {
    match docker.info().await {
        // Podman and old daemons answer with fields of other types; none of them is needed.
        Err(DockerError::JsonDataError { .. } | DockerError::JsonSerdeError { .. }) => {
            Ok(SystemInfo::default())
        }
        told => told,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn stores_are_told_by_their_drivers() {
        let info = |status| -> SystemInfo {
            serde_json::from_value(json!({ "DriverStatus": status })).unwrap()
        };
        let containerd = info(json!([["driver-type", "io.containerd.snapshotter.v1"]]));
        assert_eq!(image_store(&containerd), ImageStore::Containerd);
        let overlay = info(json!([["Backing Filesystem", "extfs"]]));
        assert_eq!(image_store(&overlay), ImageStore::Classic);
        assert_eq!(image_store(&SystemInfo::default()), ImageStore::Classic);
    }

    #[test]
    fn images_tell_of_graph_drivers() {
        let tells = |driver| {
            let image: ImageInspect =
                serde_json::from_value(json!({ "Id": "sha256:0", "GraphDriver": driver })).unwrap();
            is_of_graph_driver(Some(&image))
        };
        assert!(tells(
            json!({"Name": "overlay2", "Data": {"UpperDir": "/d"}})
        ));
        assert!(!tells(json!({"Name": "vfs", "Data": null})));
        assert!(!tells(json!({"Name": "overlayfs", "Data": null})));
        assert!(!tells(json!(null)));
        assert!(!is_of_graph_driver(None));
    }
}
