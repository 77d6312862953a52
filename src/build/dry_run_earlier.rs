//! The image that a plan is compared with.

use std::{collections::BTreeSet, path::Path};

use super::{
    dry_run_documents::Documents,
    dry_run_plan::{Earlier, LayerOutlook, Sending},
};
use crate::{
    base::BaseImage,
    cache_from::CacheFrom,
    diff::Recipe,
    digest::Digest,
    image::{Index, Manifest},
    machine::Machine,
    spec::ImageSpec,
    store::{Store, StoredImage},
};

/// An image that was built before.
pub(super) struct Before<'a> {
    /// How it was found.
    pub earlier: Earlier,
    /// What its layers were made of.
    pub recipe: Option<Recipe>,
    /// What is known instead of an image that was not built here.
    pub documents: Option<Documents<'a>>,
    /// The digests of its layers.
    blobs: BTreeSet<Digest>,
}

impl<'a> Before<'a> {
    /// The image that a tag names now; else what was built of the environment file last; else the
    /// first one that layers are taken over from.
    pub fn find(spec: &ImageSpec, store: &Store, cache_from: &'a CacheFrom) -> Option<Self> {
        let mut tags = spec.tags.iter();
        let tagged =
            tags.find_map(|tag| Self::read(tag.clone(), &store.image(tag)?, spec.machine, store));
        let last = || {
            let file = &spec.env.file;
            let last = store.last_build(Path::new(file))?;
            let name = format!("the last build of {file}");
            Self::read(name, &last, spec.machine, store)
        };
        tagged
            .or_else(last)
            .or_else(|| Self::remote(spec.machine, cache_from))
    }

    fn remote(machine: Machine, cache_from: &'a CacheFrom) -> Option<Self> {
        let (name, image, notes) = cache_from.first(machine)?;
        Some(Self {
            earlier: Earlier {
                name: name.to_owned(),
                digest: image.digest,
                known: false,
            },
            recipe: None,
            documents: notes.map(|notes| Documents::of(image, notes)),
            blobs: image.layers.iter().map(|layer| layer.digest).collect(),
        })
    }

    fn read(name: String, image: &StoredImage, machine: Machine, store: &Store) -> Option<Self> {
        let bytes = store.read_blob(&image.manifest).ok()?;
        let (digest, bytes) = match Index::parse(&bytes) {
            Err(_) => (image.manifest, bytes),
            Ok(index) => {
                let digest = index.of(machine)?.digest;
                (digest, store.read_blob(&digest).ok()?)
            }
        };
        let manifest = Manifest::parse(&bytes).ok()?;
        let recipe: Option<Recipe> = store.recipe(&digest);
        Some(Self {
            earlier: Earlier {
                name,
                digest,
                known: recipe.is_some(),
            },
            recipe,
            documents: None,
            blobs: manifest.layers.iter().map(|layer| layer.digest).collect(),
        })
    }

    /// Whether the image has this blob.
    pub fn has(&self, blob: &Digest) -> bool {
        self.blobs.contains(blob)
    }
}

/// What a push would send.
pub(super) fn sending(
    base: Option<&BaseImage>,
    layers: &[LayerOutlook],
    before: Option<&Before>,
) -> Sending {
    let mut sending = Sending::default();
    let base = base.map(|base| base.layers.as_slice()).unwrap_or_default();
    for layer in base {
        let there = before.is_some_and(|before| before.has(&layer.digest));
        sending.add(layer.size, there);
    }
    for layer in layers {
        match &layer.blob {
            Some(blob) => sending.add(blob.bytes, layer.in_earlier),
            None => {
                sending.add(layer.bytes, false);
                sending.estimated_layers += 1;
                sending.estimated_bytes += layer.bytes;
            }
        }
    }
    sending
}

impl Sending {
    fn add(&mut self, bytes: u64, there: bool) {
        let (layers, sum) = match there {
            true => (&mut self.there_layers, &mut self.there_bytes),
            false => (&mut self.layers, &mut self.bytes),
        };
        *layers += 1;
        *sum += bytes;
    }
}
