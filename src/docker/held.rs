//! Which layers of an image a daemon has already, by what it says of its images.
//!
//! Others may remove images at any time, and a daemon may not say all: this is a guess that saves
//! bytes, and a load that was built on a wrong one is done anew in full.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bollard::{
    Docker,
    models::{ImageInspect, ImageSummary},
    query_parameters::ListImagesOptionsBuilder,
};
use futures_util::{StreamExt, stream};

use super::known::{ImageStore, Known};
use crate::{
    digest::Digest,
    image::{Image, Layer, Manifest},
    store::Store,
};

/// How long the daemon may take to tell; past that, sending everything may be sooner done.
const LIMIT: Duration = Duration::from_secs(10);
/// Where no more than this is left to send, in bytes, it is sooner sent than other images asked.
const LITTLE: u64 = 1 << 20;
/// How many images are asked about at once.
const AT_ONCE: usize = 8;

/// What a daemon has of an image, which is asked layer by layer from the lowest up.
///
/// The image that has the name is most often the one before: that is known already, and most often
/// suffices. The others are asked once, and only where more than a little would be sent.
pub(super) struct Held {
    docker: Docker,
    known: Arc<Known>,
    store: Store,
    /// Over containerd: the blobs of the image that has the name.
    named_blobs: HashSet<Digest>,
    /// The diff ids so far.
    chain: Vec<String>,
    /// Whether the image that has the name shares a layer.
    shares: bool,
    /// Bytes of layers that were taken for absent without asking.
    doubtful: u64,
    others: Option<Others>,
}

/// What images have besides the one that has the name.
#[derive(Default)]
struct Others {
    images: Vec<ImageInspect>,
    /// Over containerd: the blobs of those that this store knows by manifest.
    blobs: HashSet<Digest>,
}

impl Held {
    pub(super) fn new(docker: &Docker, known: &Arc<Known>, store: &Store) -> Self {
        let of_containerd = |_: &&ImageInspect| known.store == ImageStore::Containerd;
        let named = known.named.as_ref().filter(of_containerd);
        let whole = named.filter(|named| !told(named).is_empty());
        let id = whole.and_then(|named| named.id.as_deref());
        Self {
            named_blobs: blobs_of(id, store).collect(),
            docker: docker.clone(),
            known: known.clone(),
            store: store.clone(),
            chain: Vec::new(),
            shares: false,
            doubtful: 0,
            others: None,
        }
    }

    /// One that takes no layer for held.
    pub(super) fn nothing(docker: &Docker, known: &Arc<Known>, store: &Store) -> Self {
        let unnamed = Arc::new(Known {
            store: known.store,
            named: None,
        });
        Self {
            others: Some(Others::default()),
            ..Self::new(docker, &unnamed, store)
        }
    }

    /// Whether the daemon has the next layer.
    pub(super) async fn has(&mut self, layer: &Layer) -> bool {
        self.chain.push(layer.diff_id.to_string());
        if self.is_of_named(layer) {
            self.shares = true;
            return true;
        }
        self.doubtful += layer.size;
        if self.others.is_none() && !(self.shares && self.doubtful <= LITTLE) {
            let asked = others(&self.docker, &self.known, &self.store);
            let asked = tokio::time::timeout(LIMIT, asked).await;
            self.others = Some(asked.unwrap_or_default());
        }
        let begins = |image: &ImageInspect| told(image).starts_with(&self.chain);
        self.others.as_ref().is_some_and(|others| {
            others.blobs.contains(&layer.digest) || others.images.iter().any(begins)
        })
    }

    fn is_of_named(&self, layer: &Layer) -> bool {
        let named = self.known.named.as_ref();
        match self.known.store {
            ImageStore::Classic => named.is_some_and(|n| told(n).starts_with(&self.chain)),
            ImageStore::Containerd => self.named_blobs.contains(&layer.digest),
        }
    }

    /// Images with this label that the layers so far begin with.
    pub(super) fn labelled(&self, label: &str) -> Vec<String> {
        let has_label = |image: &ImageInspect| {
            let config = image.config.as_ref();
            let labels = config.and_then(|config| config.labels.as_ref());
            labels.is_some_and(|labels| labels.contains_key(label))
        };
        let images = self.others.iter().flat_map(|others| &others.images);
        images
            .filter(|image| has_label(image) && self.chain.starts_with(told(image)))
            .filter_map(|image| image.id.clone())
            .collect()
    }
}

/// Asks for all images. Graph drivers find layers by the whole chain below them. Of containerd's
/// store only those blobs are known that are in images which the daemon has and this store knows by
/// manifest; to list its images it adds up the sizes of all of them, which takes hundreds of
/// milliseconds.
///
/// A layer that they have in another compression does not do: `docker save` would then leave it out
/// without a word.
async fn others(docker: &Docker, known: &Known, store: &Store) -> Others {
    let images = list(docker).await;
    match known.store {
        ImageStore::Classic => Others {
            images: stream::iter(images)
                .map(|found| async move { docker.inspect_image(&found.id).await })
                .buffer_unordered(AT_ONCE)
                .filter_map(|found| std::future::ready(found.ok()))
                .collect()
                .await,
            blobs: HashSet::new(),
        },
        ImageStore::Containerd => {
            let whole = images.iter().filter(|found| !lacks(found));
            let blobs = whole.flat_map(|found| blobs_of(Some(&found.id), store));
            Others {
                images: Vec::new(),
                blobs: blobs.collect(),
            }
        }
    }
}

/// The layers of an image whose manifest this store knows.
fn blobs_of(id: Option<&str>, store: &Store) -> impl Iterator<Item = Digest> {
    let manifest = id.and_then(|id| manifest(id, store));
    let layers = manifest.into_iter().flat_map(|manifest| manifest.layers);
    layers.map(|layer| layer.digest)
}

/// Whether the daemon itself says that it lacks a part of the image, as Docker 28 and later can.
pub(super) async fn is_incomplete(docker: &Docker, image: &Image) -> bool {
    let id = image.digest.to_string();
    let images = list(docker).await;
    images.iter().any(|found| found.id == id && lacks(found))
}

fn lacks(found: &ImageSummary) -> bool {
    let manifests = found.manifests.iter().flatten();
    manifests
        .filter(|manifest| manifest.id == found.id)
        .any(|manifest| !manifest.available)
}

async fn list(docker: &Docker) -> Vec<ImageSummary> {
    let options = ListImagesOptionsBuilder::new().manifests(true).build();
    docker.list_images(Some(options)).await.unwrap_or_default()
}

/// What the image's layers are called by a daemon.
pub(super) fn diff_ids(image: &Image) -> Vec<String> {
    let layers = image.layers.iter();
    layers.map(|layer| layer.diff_id.to_string()).collect()
}

/// The layers of an image of the daemon's.
pub(super) fn told(image: &ImageInspect) -> &[String] {
    let root = image.root_fs.as_ref();
    root.and_then(|root| root.layers.as_deref()).unwrap_or(&[])
}

fn manifest(id: &str, store: &Store) -> Option<Manifest> {
    let digest = id.parse().ok()?;
    if !store.blob_path(&digest).exists() {
        return None;
    }
    Manifest::parse(&store.read_blob(&digest).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use bollard::API_DEFAULT_VERSION;
    use serde_json::json;

    use super::*;
    use crate::digest::DiffId;

    #[tokio::test]
    async fn chains_are_held_from_the_bottom() {
        let layer = |name: &char| {
            let digest = Digest::of(name.to_string().as_bytes());
            Layer {
                media_type: String::new(),
                digest,
                size: 1,
                diff_id: DiffId(digest),
                unpacked: None,
                annotations: Default::default(),
            }
        };
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        // Nobody listens there: what is not known of the named image counts as absent.
        let socket = dir.path().join("d.sock");
        std::fs::write(&socket, "").unwrap();
        let path = socket.to_string_lossy();
        let docker = Docker::connect_with_unix(&path, 1, API_DEFAULT_VERSION).unwrap();
        for (theirs, held) in [
            ("", 0),
            ("abc", 3),
            ("abcd", 3),
            ("ab", 2),
            ("axc", 1),
            ("bc", 0),
        ] {
            let ids = theirs.chars().map(|name| layer(&name).diff_id.to_string());
            let root = json!({"Type": "layers", "Layers": ids.collect::<Vec<_>>()});
            let named = serde_json::from_value(json!({ "RootFS": root })).unwrap();
            let known = Arc::new(Known {
                store: ImageStore::Classic,
                named: Some(named),
            });
            let mut asked = Held::new(&docker, &known, &store);
            let mut nothing = Held::nothing(&docker, &known, &store);
            for (place, name) in ['a', 'b', 'c'].iter().enumerate() {
                assert_eq!(
                    asked.has(&layer(name)).await,
                    place < held,
                    "{theirs} {name}"
                );
                assert!(!nothing.has(&layer(name)).await);
            }
        }
    }
}
