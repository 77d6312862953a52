//! Which layers of an image a daemon has already, by what it says of its images.
//!
//! Others may remove images at any time, and a daemon may not say all: this is a guess that saves
//! bytes, and a load that was built on a wrong one is done anew in full.

use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};

use bollard::{
    Docker,
    models::{ImageInspect, ImageSummary},
    query_parameters::ListImagesOptionsBuilder,
};
use futures_util::{StreamExt, stream};

use super::known::{ImageStore, Known};
use crate::{
    digest::Digest,
    image::{Image, Manifest},
    store::Store,
};

/// How long the daemon may take to tell; past that, sending everything may be sooner done.
const LIMIT: Duration = Duration::from_secs(10);
/// Where no more than this is left to send, in bytes, it is sooner sent than other images asked.
const LITTLE: u64 = 1 << 20;
/// How many images are asked about at once.
const AT_ONCE: usize = 8;

/// The places, from the lowest up, of the layers that need not be sent.
pub(super) async fn layers(
    docker: &Docker,
    known: &Known,
    image: &Image,
    store: &Store,
) -> BTreeSet<usize> {
    let known = async {
        match known.store {
            ImageStore::Classic => (0..chain(docker, known, image).await).collect(),
            ImageStore::Containerd => blobs(docker, known, image, store).await,
        }
    };
    tokio::time::timeout(LIMIT, known).await.unwrap_or_default()
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

/// How many of the image's lowest layers some image of the daemon begins with. Graph drivers find
/// layers by the whole chain below them, so one that differs makes those above it others as well.
/// The image that has the name is most often the one before: that is known already.
async fn chain(docker: &Docker, known: &Known, image: &Image) -> usize {
    let ours = diff_ids(image);
    let common = known.named.iter().map(|named| common_start(&ours, named));
    let common = common.max().unwrap_or(0);
    let rest: u64 = image.layers.iter().skip(common).map(|l| l.size).sum();
    if common > 0 && rest <= LITTLE {
        return common;
    }
    let images = list(docker).await;
    stream::iter(images)
        .map(|found| async move { docker.inspect_image(&found.id).await })
        .buffer_unordered(AT_ONCE)
        .map(|found| found.map_or(0, |found| common_start(&ours, &found)))
        .fold(0, |most, common| std::future::ready(most.max(common)))
        .await
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

fn common_start(ours: &[String], theirs: &ImageInspect) -> usize {
    let pairs = ours.iter().zip(told(theirs));
    pairs.take_while(|(ours, theirs)| ours == theirs).count()
}

/// The layers whose very blobs are in containerd's store: those of images that it has and this
/// store knows by manifest. To list its images it adds up the sizes of all of them, which takes
/// hundreds of milliseconds: the one that has the name now most often suffices.
async fn blobs(docker: &Docker, known: &Known, image: &Image, store: &Store) -> BTreeSet<usize> {
    let named = known.named.iter().filter(|named| !told(named).is_empty());
    let held = shared(named.filter_map(|named| named.id.as_deref()), image, store);
    let rest = image.layers.iter().enumerate();
    let rest = rest.filter(|(place, _)| !held.contains(place));
    if !held.is_empty() && rest.map(|(_, layer)| layer.size).sum::<u64>() <= LITTLE {
        return held;
    }
    let images = list(docker).await;
    let whole = images.iter().filter(|found| !lacks(found));
    shared(whole.map(|found| found.id.as_str()), image, store)
}

/// The layers that images with these IDs have too. A layer that they have in another compression
/// does not do: `docker save` would then leave it out without a word.
fn shared<'a>(ids: impl Iterator<Item = &'a str>, image: &Image, store: &Store) -> BTreeSet<usize> {
    let held: HashSet<Digest> = ids
        .filter_map(|id| manifest(id, store))
        .flat_map(|manifest| manifest.layers)
        .map(|layer| layer.digest)
        .collect();
    let layers = image.layers.iter().enumerate();
    layers
        .filter(|(_, layer)| held.contains(&layer.digest))
        .map(|(place, _)| place)
        .collect()
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
    use super::*;

    #[test]
    fn chains_are_held_from_the_bottom() {
        let ids = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
        let common = |theirs: &str| {
            let root = serde_json::json!({"Type": "layers", "Layers": ids(theirs)});
            let image = serde_json::from_value(serde_json::json!({ "RootFS": root }));
            common_start(&ids("abc"), &image.unwrap())
        };
        assert_eq!(
            ["", "abc", "abcd", "ab", "axc", "bc"].map(common),
            [0, 3, 3, 2, 1, 0]
        );
    }
}
