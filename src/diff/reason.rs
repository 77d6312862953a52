//! Why a layer is not the one that it was.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{LayerPackage, LayerRecipe, Recipe, package::differ};
use crate::digest::Digest;

/// One reason why a layer of a plan is not among those of an earlier image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Reason {
    /// Nothing is known of an earlier image, or it has no such part.
    First,
    /// The layer is small and written at every build.
    Always,
    /// A package is new.
    Added {
        /// Its name.
        package: String,
        /// Its version and build.
        to: String,
    },
    /// A package is gone.
    Removed {
        /// Its name.
        package: String,
        /// Its version and build.
        from: String,
    },
    /// A package is another version, build or archive.
    Changed {
        /// Its name.
        package: String,
        /// What it was.
        from: String,
        /// What it is.
        to: String,
    },
    /// A package is another archive than that of the earlier image, which does not say more.
    Replaced {
        /// Its name.
        package: String,
        /// What it is.
        to: String,
    },
    /// A package was in another layer before.
    MovedHere {
        /// Its name.
        package: String,
        /// That layer's title.
        from: String,
    },
    /// A package is in another layer now.
    MovedAway {
        /// Its name.
        package: String,
        /// That layer's title.
        to: String,
    },
    /// A package comes from another URL, or other packages ship the same files.
    Around {
        /// Its name.
        package: String,
    },
    /// The environment's Python, which files of the layer depend on.
    Python {
        /// What it was.
        from: String,
        /// What it is.
        to: String,
    },
    /// Python files are compiled by another Python, or whether they are compiled at all.
    Compiled,
    /// The environment stands elsewhere; the code goes elsewhere.
    Prefix {
        /// Where it was.
        from: String,
        /// Where it is.
        to: String,
    },
    /// The base image's folders on the way there are others.
    BaseFolders,
    /// The compression.
    Compression {
        /// What it was.
        from: String,
        /// What it is.
        to: String,
    },
    /// This imgbuild writes layers in another way.
    Format {
        /// What it was.
        from: String,
        /// What it is.
        to: String,
    },
    /// The user's code.
    Code,
    /// Nothing changed, but the cache does not have the layer any more.
    Gone,
    /// The earlier image has no such layer, and does not say more.
    Unmatched,
    /// Something else that imgbuild takes into account.
    Other,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => f.write_str("first build"),
            Self::Always => f.write_str("written at every build"),
            Self::Added { package, to } => write!(f, "added {package} {to}"),
            Self::Removed { package, from } => write!(f, "removed {package} {from}"),
            Self::Changed { package, from, to } => write!(f, "{package} {from} -> {to}"),
            Self::Replaced { package, to } => write!(f, "{package}: another archive, now {to}"),
            Self::MovedHere { package, from } => write!(f, "{package} was in '{from}'"),
            Self::MovedAway { package, to } => write!(f, "{package} is now in '{to}'"),
            Self::Around { package } => write!(
                f,
                "{package}: another URL, or other packages ship its files"
            ),
            Self::Python { from, to } => write!(f, "Python {from} -> {to}"),
            Self::Compiled => f.write_str("compiled Python files changed"),
            Self::Prefix { from, to } => write!(f, "prefix changed: {from} -> {to}"),
            Self::BaseFolders => f.write_str("base folders changed"),
            Self::Compression { from, to } => write!(f, "compression changed: {from} -> {to}"),
            Self::Format { from, to } => write!(f, "layer format changed: {from} -> {to}"),
            Self::Code => f.write_str("code changed"),
            Self::Gone => f.write_str("nothing changed, but the cache does not have it any more"),
            Self::Unmatched => f.write_str("no such layer in the earlier image"),
            Self::Other => f.write_str("imgbuild's settings changed"),
        }
    }
}

/// Why a layer of `new` is not the one that it was in `old`; nothing where all that is known is
/// the same and the key is not.
pub fn reasons(old: &Recipe, new: &Recipe, index: usize) -> Vec<Reason> {
    let Some(layer) = new.layers.get(index) else {
        return Vec::new();
    };
    let Some((at, before)) = counterpart(old, layer) else {
        return strangers(old, layer);
    };
    let mut found = settings(before, layer);
    found.extend(packages((old, at), (new, index)));
    if differ(&before.code, &layer.code) {
        found.push(Reason::Code);
    }
    match (found.is_empty(), layer.key) {
        (true, Some(key)) if before.key == Some(key) => vec![Reason::Gone],
        (true, Some(_)) => vec![Reason::Other],
        _ => found,
    }
}

/// The key that a layer of `new` had in `old`, where nothing of what is known of it changed.
pub fn unchanged_key(old: &Recipe, new: &Recipe, index: usize) -> Option<Digest> {
    let layer = new.layers.get(index)?;
    let (_, before) = counterpart(old, layer)?;
    before.key.filter(|_| reasons(old, new, index).is_empty())
}

/// The titles of the layers of `old` of which `new` has nothing.
pub fn gone(old: &Recipe, new: &Recipe) -> Vec<String> {
    let now = new.places();
    let left = |layer: &&LayerRecipe| match layer.code {
        Some(_) => new.layers.iter().any(|layer| layer.code.is_some()),
        None => layer.packages.iter().any(|p| now.contains_key(&p.id)),
    };
    let layers = old.layers.iter().filter(|layer| !left(layer));
    layers.map(|layer| layer.title.clone()).collect()
}

/// The reasons for a layer that shares no package with a layer before.
fn strangers(old: &Recipe, layer: &LayerRecipe) -> Vec<Reason> {
    if old.layers.iter().all(|before| before.area != layer.area) {
        return vec![Reason::First];
    }
    let added = layer.packages.iter().map(|package| Reason::Added {
        package: package.id.to_string(),
        to: package.package.to_string(),
    });
    added.collect()
}

/// The layer of the same part that shares the most packages; the lowest of several.
fn counterpart<'a>(old: &'a Recipe, layer: &LayerRecipe) -> Option<(usize, &'a LayerRecipe)> {
    let shared = |before: &LayerRecipe| {
        let has = |package: &&LayerPackage| before.packages.iter().any(|p| p.id == package.id);
        match layer.code {
            Some(_) => usize::from(before.code.is_some()),
            None => layer.packages.iter().filter(has).count(),
        }
    };
    let layers = old.layers.iter().enumerate();
    layers
        .map(|(at, before)| (shared(before), at, before))
        .filter(|(shared, ..)| *shared > 0)
        .max_by_key(|(shared, at, _)| (*shared, std::cmp::Reverse(*at)))
        .map(|(_, at, before)| (at, before))
}

/// What is no package's.
fn settings(old: &LayerRecipe, new: &LayerRecipe) -> Vec<Reason> {
    let mut found = Vec::new();
    let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    if old.compression != new.compression {
        let (from, to) = pair(&old.compression, &new.compression);
        found.push(Reason::Compression { from, to });
    } else if old.format != new.format {
        let (from, to) = pair(&old.format, &new.format);
        found.push(Reason::Format { from, to });
    }
    if old.path != new.path {
        let (from, to) = pair(&old.path, &new.path);
        found.push(Reason::Prefix { from, to });
    } else if differ(&old.folders, &new.folders) {
        found.push(Reason::BaseFolders);
    }
    if let (Some(old), Some(new)) = (&old.python, &new.python) {
        if old.version != new.version {
            let (from, to) = pair(&old.version, &new.version);
            found.push(Reason::Python { from, to });
        } else if old.compile != new.compile {
            found.push(Reason::Compiled);
        }
    }
    found
}

/// What is different about the packages of a layer, by name.
fn packages((old, at): (&Recipe, usize), (new, index): (&Recipe, usize)) -> Vec<Reason> {
    let (places, now) = (old.places(), new.places());
    let mut found = BTreeMap::new();
    for (id, (_, package)) in now.iter().filter(|(_, (layer, _))| *layer == index) {
        let name = id.to_string();
        let reason = match places.get(id) {
            None => Reason::Added {
                package: name,
                to: package.package.to_string(),
            },
            Some((_, before)) if before.package.change(&package.package).is_some() => {
                let (from, to) = before.package.pair(&package.package);
                Reason::Changed {
                    package: name,
                    from,
                    to,
                }
            }
            Some((layer, _)) if *layer != at => Reason::MovedHere {
                package: name,
                from: title(old, *layer),
            },
            Some((_, before)) if differ(&before.rest, &package.rest) => {
                Reason::Around { package: name }
            }
            Some(_) => continue,
        };
        found.insert(*id, reason);
    }
    let before = places.iter().filter(|(_, (layer, _))| *layer == at);
    for (id, (_, before)) in before {
        let package = id.to_string();
        let to = now.get(id).map(|(layer, _)| *layer);
        let reason = match to {
            Some(layer) if layer == index => continue,
            Some(layer) => Reason::MovedAway {
                package,
                to: title(new, layer),
            },
            None => Reason::Removed {
                package,
                from: before.package.to_string(),
            },
        };
        found.insert(*id, reason);
    }
    found.into_values().collect()
}

fn title(recipe: &Recipe, at: usize) -> String {
    let layer = recipe.layers.get(at);
    layer.map(|layer| layer.title.clone()).unwrap_or_default()
}
