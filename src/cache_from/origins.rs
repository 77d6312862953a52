//! Where an image's layers can be had that are only known by what a registry said.

use std::{
    collections::BTreeMap,
    io,
    sync::{Mutex, PoisonError},
};

use futures_util::{StreamExt, TryStreamExt, stream};
use oci_client::Reference;

use super::CacheFrom;
use crate::{
    base::{BaseLayer, BaseSource, Loader, blocking, media},
    digest::{DiffId, Digest, Hashing},
    error::{Error, Result},
    image::{Image, Layer},
    reference,
    registry::Settings,
    report::Reporter,
    store::Store,
};

/// How many layers are checked at once.
const CONCURRENT: usize = 3;

/// Where the layers of an image come from that were not made here.
pub struct Origins<'a> {
    loader: &'a Loader,
    of: BTreeMap<Digest, Origin>,
    /// The reference whose layer could not be had.
    failed: Mutex<Option<String>>,
}

struct Origin {
    layer: BaseLayer,
    /// A reference of the repository that has it.
    reference: String,
    /// Whether that is a reference that layers are taken over from, and not the base image's.
    taken_over: bool,
}

impl<'a> Origins<'a> {
    /// Of an image that has all its layers in the store.
    pub fn none(loader: &'a Loader) -> Self {
        Self {
            loader,
            of: BTreeMap::new(),
            failed: Mutex::default(),
        }
    }

    /// Of the layers that a build took over, or that are the base's. `base` is the base image.
    pub fn of(
        images: &[Image],
        cache_from: &CacheFrom,
        base: &BaseSource,
        loader: &'a Loader,
    ) -> Self {
        let origin = |layer: &Layer| {
            // Read and checked when the base was.
            let keyless = layer.annotations.is_empty();
            if keyless && loader.store.has_blob(&layer.digest, layer.size) {
                return None;
            }
            let (reference, taken_over) = match (cache_from.blob(&layer.digest), base) {
                (Some((_, name)), _) => (name.to_owned(), true),
                (None, BaseSource::Registry(name)) => (name.clone(), false),
                (None, _) => return None,
            };
            let layer = BaseLayer {
                digest: layer.digest,
                diff_id: layer.diff_id,
                size: layer.size,
                media_type: layer.media_type.clone(),
            };
            Some(Origin {
                layer,
                reference,
                taken_over,
            })
        };
        let layers = images.iter().flat_map(|image| &image.layers);
        let of = layers.filter_map(|layer| {
            let mine = layer.unpacked.is_some();
            let origin = (!mine).then(|| origin(layer)).flatten()?;
            Some((layer.digest, origin))
        });
        Self {
            of: of.collect(),
            ..Self::none(loader)
        }
    }

    /// Where layers are brought to.
    pub fn store(&self) -> &Store {
        &self.loader.store
    }

    /// Where progress and warnings go.
    pub fn reporter(&self) -> &Reporter {
        &self.loader.reporter
    }

    /// How the registries are spoken to.
    pub fn settings(&self) -> &Settings {
        &self.loader.registries
    }

    /// The repositories of that registry that these layers come from.
    pub fn repositories(&self, registry: &str) -> impl Iterator<Item = Reference> {
        let names = self.of.values().map(|origin| origin.reference.as_str());
        let names = names.filter_map(|name| reference::parse(name).ok());
        names.filter(move |name| name.registry() == registry)
    }

    /// A repository of that registry that has the blob, if it is one of these layers.
    pub fn repository(&self, blob: &Digest, registry: &str) -> Option<Reference> {
        let reference = reference::parse(&self.of.get(blob)?.reference).ok()?;
        (reference.registry() == registry).then_some(reference)
    }

    /// Whether the blob is one of these layers.
    pub fn has(&self, blob: &Digest) -> bool {
        self.of.contains_key(blob)
    }

    /// Brings all layers into the store.
    ///
    /// # Errors
    /// As [`Origins::bring`].
    pub async fn bring_all(&self) -> Result<()> {
        let mut groups: BTreeMap<&str, Vec<&Origin>> = BTreeMap::new();
        for origin in self.of.values() {
            groups.entry(&origin.reference).or_default().push(origin);
        }
        for (reference, origins) in groups {
            self.bring_from(reference, &origins).await?;
        }
        Ok(())
    }

    /// Brings a layer into the store, unless it is there, and checks that it is what was said of
    /// it. Does nothing for a blob that is none of these layers.
    ///
    /// # Errors
    /// When it cannot be fetched, or has another digest, size, diff id or media type.
    pub async fn bring(&self, blob: &Digest) -> Result<()> {
        match self.of.get(blob) {
            Some(origin) => self.bring_from(&origin.reference, &[origin]).await,
            None => Ok(()),
        }
    }

    /// Brings layers of one repository.
    async fn bring_from(&self, reference: &str, origins: &[&Origin]) -> Result<()> {
        let source = BaseSource::Registry(reference.to_owned());
        let layers: Vec<BaseLayer> = origins.iter().map(|origin| origin.layer.clone()).collect();
        let brought = async {
            self.loader.fetch(&source, &layers).await?;
            stream::iter(&layers)
                .map(|layer| self.checked(layer, reference))
                .buffer_unordered(CONCURRENT)
                .try_collect()
                .await
        };
        let brought: Result<()> = brought.await;
        if brought.is_err() && origins.iter().any(|origin| origin.taken_over) {
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.get_or_insert_with(|| reference.to_owned());
        }
        brought
    }

    async fn checked(&self, layer: &BaseLayer, reference: &str) -> Result<()> {
        let (store, owned) = (self.loader.store.clone(), layer.clone());
        let checked = blocking(move || check(&owned, &store)).await;
        checked.map_err(|e| e.at(format!("layer {} of {reference}", layer.digest)))
    }

    /// The reference that a layer was taken over from which could not be had.
    pub fn failed(&self) -> Option<String> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.clone()
    }
}

/// What a blob was found to be.
const FORMAT: &str = "imgbuild layer blob 1";

/// Reads a layer to its end, unless that was done before.
fn check(layer: &BaseLayer, store: &Store) -> Result<()> {
    let key = Digest::of(format!("{FORMAT} {}", layer.digest).as_bytes());
    let (diff_id, media_type) = match store.survey::<(DiffId, String)>(&key) {
        Some(known) => known,
        None => {
            let found = unpack(&layer.digest, store)?;
            store.put_survey(&key, &found)?;
            found
        }
    };
    let other = |what: &str, said: &dyn std::fmt::Display, found: &dyn std::fmt::Display| {
        Err(
            Error::environment("a layer is not what its image says of it")
                .why(format!("{what} is said to be {said}"))
                .why(format!("and is {found}")),
        )
    };
    if diff_id != layer.diff_id {
        return other("its diff id", &layer.diff_id, &diff_id);
    }
    if media_type != layer.media_type {
        return other("its media type", &layer.media_type, &media_type);
    }
    Ok(())
}

fn unpack(digest: &Digest, store: &Store) -> Result<(DiffId, String)> {
    let packing = media::sniff_blob(store, digest)?;
    let mut tar = Hashing::new(media::open_layer(store, digest)?);
    io::copy(&mut tar, &mut io::sink())
        .map_err(|e| Error::environment("a layer cannot be read").why(e))?;
    let (_, found, _) = tar.finish();
    Ok((DiffId(found), packing.media_type().into()))
}
