//! Earlier images in registries as the cache of a build.
//!
//! An image that imgbuild built says what each of its layers was made of ([`KEY_ANNOTATION`]), and
//! what a later build has to know of the packages and the base to tell which keys it wants
//! ([`Notes`]). So a layer can be taken over by its digest without any of its packages, and without
//! its bytes.
//!
//! A key is believed only from references that the user named. What they say is used in one build
//! and never kept as if it was found out here.

mod notes;
mod origins;

use std::collections::{BTreeSet, HashMap};

pub use notes::Notes;
pub use origins::Origins;

use crate::{
    base::{BaseImage, Ground, Loader},
    digest::Digest,
    error::Error,
    image::{Image, KEY_ANNOTATION, Layer},
    machine::Machine,
    package::Survey,
    registry::remote::parse_reference,
    report::Reporter,
    store::BuiltLayer,
};

/// A reference that may have layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The reference.
    pub reference: String,
    /// Whether nobody asked for it by name: then it need not be there.
    pub implied: bool,
}

/// The earlier images that a build may take layers from, the first named first.
#[derive(Debug, Default)]
pub struct CacheFrom {
    images: Vec<Earlier>,
}

/// An image of a registry.
#[derive(Debug)]
struct Earlier {
    /// The reference as it was named.
    name: String,
    image: Image,
    notes: Option<Notes>,
    /// Its layers by key.
    by_key: HashMap<Digest, usize>,
}

impl CacheFrom {
    /// Reads what these references say to each platform's loader: manifests and configs, no layer.
    /// One that cannot be read is left out, with a warning if it was named.
    pub async fn read(wanted: &[Wanted], loaders: &[Loader]) -> Self {
        let mut images: Vec<Earlier> = Vec::new();
        let mut problems: Vec<(bool, String)> = Vec::new();
        for Wanted { reference, implied } in wanted {
            for loader in loaders {
                let problem = match Earlier::read(reference, loader).await {
                    Ok(Some(image)) if images.iter().any(|known| known.is(&image)) => continue,
                    Ok(Some(image)) => {
                        images.push(image);
                        continue;
                    }
                    Ok(None) if *implied => continue,
                    Ok(None) => format!("--cache-from {reference}: there is no such image"),
                    Err(e) => format!("--cache-from {reference} is not used: {}", in_a_line(&e)),
                };
                problems.push((*implied, problem));
            }
        }
        problems.dedup();
        if let Some(loader) = loaders.first() {
            tell(&problems, &loader.reporter);
        }
        Self { images }
    }

    /// Whether there is no image to take layers from.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// The layer of that key, and the reference that has it.
    pub fn layer(&self, key: &Digest) -> Option<(BuiltLayer, &str)> {
        let mut found = self.images.iter().filter_map(|earlier| {
            let layer = earlier.image.layers.get(*earlier.by_key.get(key)?)?;
            let built = BuiltLayer {
                diff_id: layer.diff_id,
                digest: layer.digest,
                size: layer.size,
                unpacked: None,
                media_type: layer.media_type.clone(),
            };
            Some((built, earlier.name.as_str()))
        });
        found.next()
    }

    /// What packages mean together, under the key of their set.
    pub fn survey(&self, key: &Digest) -> Option<Survey> {
        let notes = self.images.iter().filter_map(|e| e.notes.as_ref());
        notes
            .filter_map(|notes| notes.surveys.get(key))
            .next()
            .cloned()
    }

    /// The survey that tells of the most of these packages, and the reference that has it.
    pub fn survey_of_most(&self, sources: &[Digest]) -> Option<(&Survey, &str)> {
        let surveys = self.images.iter().flat_map(|earlier| {
            let notes = earlier.notes.iter();
            let surveys = notes.flat_map(|notes| notes.surveys.values());
            surveys.map(|survey| (survey, earlier.name.as_str()))
        });
        let told = |survey: &Survey| {
            let told = sources.iter();
            let told = told.filter(|source| survey.outlines.contains_key(source));
            told.count()
        };
        surveys.rev().max_by_key(|(survey, _)| told(survey))
    }

    /// What is to be known of a base image, of which only the documents are here.
    pub fn ground(&self, base: &BaseImage, paths: &BTreeSet<String>) -> Option<Ground> {
        let mut grounds = self.images.iter().filter_map(|earlier| {
            let tree = earlier.notes.as_ref()?.base.tree_of(&base.layers, paths)?;
            let mut image = base.clone();
            for layer in &mut image.layers {
                let known = earlier.blob(&layer.digest)?;
                layer.media_type.clone_from(&known.media_type);
            }
            Some(Ground {
                image,
                tree: tree.clone(),
            })
        });
        grounds.next()
    }

    /// The name of the first image that is for a machine, the image, and its notes.
    pub fn first(&self, machine: Machine) -> Option<(&str, &Image, Option<&Notes>)> {
        let mut images = self.images.iter();
        let first = images.find(|earlier| earlier.image.is_for(machine))?;
        Some((&first.name, &first.image, first.notes.as_ref()))
    }

    /// Takes nothing more from a reference.
    pub fn forget(&mut self, name: &str) {
        self.images.retain(|earlier| earlier.name != name);
    }

    /// A blob, and the reference that has it.
    fn blob(&self, digest: &Digest) -> Option<(&Layer, &str)> {
        let mut found = self
            .images
            .iter()
            .filter_map(|earlier| Some((earlier.blob(digest)?, earlier.name.as_str())));
        found.next()
    }
}

/// What nobody asked for by name is no reason for a warning.
fn tell(problems: &[(bool, String)], reporter: &Reporter) {
    for (implied, problem) in problems {
        match implied {
            true => reporter.step(problem),
            false => reporter.warn(problem),
        }
    }
}

impl Earlier {
    async fn read(name: &str, loader: &Loader) -> crate::error::Result<Option<Self>> {
        let whole = parse_reference(name)?.whole();
        let Some((manifest, config)) = loader.documents(&whole).await? else {
            return Ok(None);
        };
        let notes = Notes::of_config(&config);
        let image = Image::from_documents(manifest, config)?;
        let key = |layer: &Layer| layer.annotations.get(KEY_ANNOTATION)?.parse().ok();
        let layers = image.layers.iter().enumerate();
        Ok(Some(Self {
            name: name.to_owned(),
            by_key: layers
                .filter_map(|(at, layer)| Some((key(layer)?, at)))
                .collect(),
            notes,
            image,
        }))
    }

    fn is(&self, other: &Self) -> bool {
        self.name == other.name && self.image.digest == other.image.digest
    }

    fn blob(&self, digest: &Digest) -> Option<&Layer> {
        let mut layers = self.image.layers.iter();
        layers.find(|layer| layer.digest == *digest)
    }
}

/// What went wrong, and why, in one line.
pub(crate) fn in_a_line(error: &Error) -> String {
    let text = error.to_string();
    let mut lines = text.lines();
    let what = lines.next().unwrap_or_default().to_owned();
    let why = lines.filter_map(|line| line.trim().strip_prefix("why: "));
    why.fold(what, |line, why| format!("{line}: {why}"))
}
