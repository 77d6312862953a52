//! Why layers are not those of an image of which only the documents are known.
//!
//! Its notes tell which archives its packages were, and its history names the largest packages of
//! each layer with their versions.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::site::{Role, Site};
use crate::{
    base::BaseImage,
    cache_from::Notes,
    diff::{LayerRecipe, Manager, Package, PackageId, Reason, titles},
    error::Result,
    image::Image,
    package::{Survey, wheel_id},
    plan::{Locked, Tier},
};

/// What the documents of an image tell of its layers.
pub(super) struct Documents<'a> {
    image: &'a Image,
    notes: &'a Notes,
    titles: Vec<String>,
}

impl<'a> Documents<'a> {
    pub(super) fn of(image: &'a Image, notes: &'a Notes) -> Self {
        let config = serde_json::from_slice(&image.config).unwrap_or(Value::Null);
        Self {
            titles: titles(&config, image.layers.len()),
            image,
            notes,
        }
    }

    /// What they tell of a prefix; none where it is not the image's.
    pub(super) fn of_site(&self, site: &Site<'_>) -> Option<Former<'_>> {
        let now: BTreeSet<String> = site.packages().map(|one| one.id()).collect();
        let shared = |survey: &Survey| survey.sizes.keys().filter(|id| now.contains(*id)).count();
        let surveys = self.notes.surveys.values();
        let survey = surveys.max_by_key(|survey| shared(survey))?;
        let layers = self
            .titles
            .iter()
            .filter_map(|title| named(title, site.role));
        let layers = layers.map(|(tier, packages)| {
            let packages = packages.into_iter();
            let packages = packages.filter_map(|(name, version)| {
                let conda = (tier != Tier::Pip).then(|| name.to_owned());
                let ids = conda.into_iter().chain([wheel_id(name)]);
                let id = ids.into_iter().find(|id| survey.sizes.contains_key(id))?;
                Some((id, version.to_owned()))
            });
            packages.collect()
        });
        (shared(survey) > 0).then(|| Former {
            survey,
            layers: layers.collect(),
            now,
        })
    }

    /// Why the layer of the user's code is another. With `alike`, layers of packages show that
    /// layers are written in the same way.
    pub(super) fn of_code(&self, title: &str, base: Option<&BaseImage>, alike: bool) -> Reason {
        let same_base = base.is_some_and(|base| {
            let below = self.image.layers.iter().map(|layer| layer.digest);
            let layers = base.layers.iter().map(|layer| layer.digest);
            layers.eq(below.take(base.layers.len()))
        });
        match self.titles.iter().any(|known| known == title) {
            true if alike && same_base => Reason::Code,
            _ => Reason::Unmatched,
        }
    }
}

/// The packages that a title names.
fn named(title: &str, role: Role) -> Option<(Tier, Vec<(&str, &str)>)> {
    let tier = |tier: &Tier| Some((*tier, title.strip_prefix(tier.title())?.strip_prefix(": ")?));
    let (tier, packages) = Tier::ALL.iter().find_map(tier)?;
    let of_role = match role {
        Role::Miniconda => tier == Tier::Miniconda,
        Role::OverMiniconda => tier != Tier::Miniconda,
        Role::Alone => true,
    };
    let packages = packages
        .split_once(" and ")
        .map_or(packages, |(named, _)| named);
    let packages = packages.split(", ").filter_map(|one| one.split_once(' '));
    of_role.then(|| (tier, packages.collect()))
}

/// What an image tells of a prefix that it has.
pub(super) struct Former<'a> {
    survey: &'a Survey,
    /// What the titles of its layers name: packages by id, with their versions.
    layers: Vec<BTreeMap<String, String>>,
    /// The packages by now, by id.
    now: BTreeSet<String>,
}

impl Former<'_> {
    /// Why the image has no such layer.
    ///
    /// # Errors
    /// When a package has no sha256.
    pub(super) fn why(
        &self,
        site: &Site<'_>,
        packages: &[Locked<'_>],
        recipe: &LayerRecipe,
    ) -> Result<Vec<Reason>> {
        let mut found: Vec<Reason> = self.python(recipe).into_iter().collect();
        for package in packages {
            found.extend(self.package(site, *package)?);
        }
        found.extend(self.removed(site, packages));
        if found.is_empty() {
            found.push(Reason::Unmatched);
        }
        Ok(found)
    }

    fn package(&self, site: &Site<'_>, locked: Locked<'_>) -> Result<Option<Reason>> {
        let id = locked.id();
        let package = PackageId::of(site.area(), locked).to_string();
        let now = Package::of(locked);
        let Some(size) = self.survey.sizes.get(&id) else {
            let to = now.to_string();
            return Ok(Some(Reason::Added { package, to }));
        };
        let same = match locked {
            Locked::Conda(record) => {
                let md5 = record.package_record.md5.map(hex::encode);
                md5.is_some() && md5.as_ref() == self.survey.md5s.get(&id)
            }
            // Of another Python, it is known by another source.
            Locked::Wheel(wheel) => wheel.size == Some(*size),
        };
        if same || self.survey.outlines.contains_key(&site.source(locked)?) {
            return Ok(None);
        }
        Ok(Some(match self.version(&id) {
            Some(from) if *from != now.version => Reason::Changed {
                package,
                from: from.to_owned(),
                to: now.version,
            },
            _ => Reason::Replaced {
                package,
                to: now.to_string(),
            },
        }))
    }

    fn version(&self, id: &str) -> Option<&str> {
        let mut layers = self.layers.iter();
        layers.find_map(|layer| layer.get(id).map(String::as_str))
    }

    fn python(&self, recipe: &LayerRecipe) -> Option<Reason> {
        let now = &recipe.python.as_ref()?.version;
        let before = self.version("python")?;
        let minor = before.match_indices('.').nth(1).map(|(at, _)| at);
        let before = before.get(..minor.unwrap_or(before.len()))?;
        (before != now).then(|| Reason::Python {
            from: before.to_owned(),
            to: now.clone(),
        })
    }

    /// What was with these packages, and is gone.
    fn removed(&self, site: &Site<'_>, packages: &[Locked<'_>]) -> Vec<Reason> {
        let ids: BTreeSet<String> = packages.iter().map(Locked::id).collect();
        let near = |layer: &&BTreeMap<String, String>| layer.keys().any(|id| ids.contains(id));
        let layers = self.layers.iter().filter(near).flatten();
        let gone = layers.filter(|(id, _)| !self.now.contains(*id));
        let removed = gone.map(|(id, version)| {
            let wheel = id.split_once(':');
            let package = PackageId {
                area: site.area(),
                manager: wheel.map_or(Manager::Conda, |_| Manager::Pip),
                name: wheel.map_or(id.as_str(), |(_, name)| name).to_owned(),
            };
            Reason::Removed {
                package: package.to_string(),
                from: version.clone(),
            }
        });
        removed.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_name_packages() {
        let title = "Conda packages: six 1.16, jinja2 3.1, attrs 24.2, idna 3.7 and 9 more";
        let (tier, packages) = named(title, Role::Alone).unwrap();
        assert_eq!(tier, Tier::Other);
        let packages: Vec<String> = packages.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(
            packages,
            ["six=1.16", "jinja2=3.1", "attrs=24.2", "idna=3.7"]
        );
        assert!(named("User code in /workspace", Role::Alone).is_none());
        let base = "Miniconda base: python 3.11.2";
        assert!(named(base, Role::Miniconda).is_some());
        assert!(named(base, Role::OverMiniconda).is_none());
    }
}
