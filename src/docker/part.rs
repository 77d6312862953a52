//! Images that hold an image's lower layers in the daemon until it is there.

use std::time::Duration;

use bollard::{Docker, query_parameters::RemoveImageOptionsBuilder};

use super::teardown;
use crate::{
    error::Result,
    image::Image,
    sink::{Contents, Packed},
};

/// Layers of gigabytes are deleted with an image that is the only one to have them.
const REMOVE_LIMIT: Duration = Duration::from_secs(120);

/// The parts of one image, which have no names. Dropped, they are removed; so they are once the
/// daemon has the image.
pub(super) struct Parts {
    docker: Docker,
    /// Of those that the daemon may have, the lowest first.
    ids: Vec<String>,
}

impl Parts {
    /// The label of a part: an image with it is left when a process was killed.
    pub(super) const LABEL: &str = "dev.imgbuild.part";

    pub(super) fn new(docker: &Docker) -> Self {
        Self {
            docker: docker.clone(),
            ids: Vec::new(),
        }
    }

    /// A part of these layers.
    ///
    /// # Errors
    /// When its documents cannot be written.
    pub(super) fn next(&mut self, packed: &[Packed]) -> Result<Contents> {
        let layers = packed.iter().map(|packed| packed.layer().clone()).collect();
        let image = Image::bare(layers, Self::LABEL)?;
        self.ids.push(image.config_digest.to_string());
        Contents::new(&image, packed)
    }

    /// The daemon has the last part, and needs those below no more.
    pub(super) async fn loaded(&mut self) {
        let last = self.ids.len().saturating_sub(1);
        let below: Vec<_> = self.ids.drain(..last).collect();
        remove(&self.docker, below).await;
    }

    /// The daemon has the image: removes its parts, and these that an earlier process left.
    pub(super) async fn remove_all(&mut self, left: Vec<String>) {
        remove(&self.docker, self.ids.drain(..).chain(left)).await;
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        if self.ids.is_empty() {
            return;
        }
        let (docker, ids) = (self.docker.clone(), self.ids.clone());
        teardown::finish(async move { remove(&docker, ids).await }, REMOVE_LIMIT);
    }
}

/// What cannot be removed has no name: `docker image prune` removes it.
async fn remove(docker: &Docker, ids: impl IntoIterator<Item = String>) {
    for id in ids {
        let options = RemoveImageOptionsBuilder::new().build();
        let _ = docker.remove_image(&id, Some(options), None).await;
    }
}
