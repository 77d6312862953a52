//! What a build was made of, in the form that later plans are compared with.

use std::collections::BTreeSet;

use super::{
    environment::Environment,
    layers::{Code, Place, keyed, packages},
    site::{Role, Site},
};
use crate::{
    diff::{Area, LayerPackage, LayerRecipe, Package, PackageId, PythonRecipe, Recipe},
    digest::Digest,
    error::{Error, Exit, Result},
    image::Image,
    layer,
    package::{Survey, excluded_of, origin},
    plan::{LayerPlan, Locked, PlannedLayer},
    pyc::Compiler,
    store::Store,
};

/// What is known of a prefix that is being planned.
pub(super) struct Known<'a> {
    /// What the packages mean together, once they are here.
    pub survey: Option<&'a Survey>,
    /// The packages, by id, of which that tells nothing.
    pub absent: &'a BTreeSet<String>,
    /// Whether the base image is here.
    pub base: bool,
}

impl Site<'_> {
    /// Which part of an image it is.
    pub(super) fn area(&self) -> Area {
        match self.role {
            Role::Miniconda => Area::Miniconda,
            Role::OverMiniconda | Role::Alone => Area::Environment,
        }
    }
}

/// What the layers of a prefix are made of; they have keys where all is known.
pub(super) fn of_site(
    site: &Site<'_>,
    plan: &LayerPlan,
    known: &Known<'_>,
) -> Result<Vec<LayerRecipe>> {
    let keys: Vec<Option<Digest>> = match known.survey.filter(|_| known.base) {
        None => vec![None; plan.layers.len()],
        Some(survey) => {
            let keyed = keyed(site, plan, survey)?;
            keyed.into_iter().map(|(_, key)| Some(key)).collect()
        }
    };
    let layers = plan.layers.iter().zip(keys);
    layers
        .map(|(planned, key)| of_layer(site, planned, known, key))
        .collect()
}

fn of_layer(
    site: &Site<'_>,
    planned: &PlannedLayer,
    known: &Known<'_>,
    key: Option<Digest>,
) -> Result<LayerRecipe> {
    let of_package = |package: Locked<'_>| {
        Ok(LayerPackage {
            id: PackageId::of(site.area(), package),
            package: Package::of(package),
            rest: known
                .survey
                .filter(|_| !known.absent.contains(&package.id()))
                .map(|survey| rest(package, survey))
                .transpose()?,
        })
    };
    let packages = packages(site, planned);
    Ok(LayerRecipe {
        key,
        area: site.area(),
        title: planned.title.clone(),
        format: layer::format(site.compression),
        compression: site.compression.to_string(),
        path: site.prefix.path.clone(),
        folders: known.base.then(|| folders(&site.place)).transpose()?,
        python: python(site, &packages, known.survey),
        packages: packages
            .into_iter()
            .map(of_package)
            .collect::<Result<_>>()?,
        code: None,
    })
}

/// The Python that packages depend on; without a survey, as far as the lock tells.
fn python(
    site: &Site<'_>,
    packages: &[Locked<'_>],
    survey: Option<&Survey>,
) -> Option<PythonRecipe> {
    let depends = |package: &Locked<'_>| match (survey, package) {
        (Some(survey), package) => survey.for_python.contains(&package.id()),
        (None, Locked::Conda(record)) => record.package_record.noarch.is_python(),
        (None, Locked::Wheel(_)) => true,
    };
    let python = site.prefix.python.as_ref()?;
    let (major, minor) = python.short_version;
    packages.iter().any(depends).then(|| PythonRecipe {
        version: format!("{major}.{minor}"),
        compile: site.compiler.as_ref().map(Compiler::key),
    })
}

fn rest(package: Locked<'_>, survey: &Survey) -> Result<Digest> {
    let id = package.id();
    let lost = excluded_of(&survey.exclusions, &id);
    let source = match package {
        Locked::Conda(record) => {
            let md5 = survey.md5_of(record, &id);
            Some((origin::public_url(&record.url), md5))
        }
        Locked::Wheel(_) => None,
    };
    digest_of(&(source, lost))
}

fn folders(place: &Place) -> Result<(String, Digest)> {
    let folders: Vec<_> = place.folders.iter().collect();
    Ok((place.root.clone(), digest_of(&folders)?))
}

fn digest_of(value: &impl serde::Serialize) -> Result<Digest> {
    serde_json::to_vec(value)
        .map(|bytes| Digest::of(&bytes))
        .map_err(|e| Error::new(Exit::Internal, "cannot record what a layer is made of").why(e))
}

/// What the layer of the user's code is made of.
pub(super) fn of_code(code: &Code, base_known: bool) -> Result<LayerRecipe> {
    Ok(LayerRecipe {
        key: base_known.then(|| code.key()).transpose()?,
        area: Area::Code,
        title: code.title(),
        format: layer::format(code.compression),
        compression: code.compression.to_string(),
        path: format!("/{}", code.place.root),
        folders: base_known.then(|| folders(&code.place)).transpose()?,
        python: None,
        packages: Vec::new(),
        code: Some(code.hash),
    })
}

/// What a whole image is made of.
pub(super) fn of_image(environments: &[Environment<'_>], code: Option<&Code>) -> Result<Recipe> {
    let mut recipe = Recipe::default();
    for Environment {
        site, plan, survey, ..
    } in environments
    {
        let known = Known {
            survey: Some(survey),
            absent: &BTreeSet::new(),
            base: true,
        };
        recipe.layers.extend(of_site(site, plan, &known)?);
    }
    if let Some(code) = code {
        recipe.layers.push(of_code(code, true)?);
    }
    Ok(recipe)
}

/// Keeps what an image is made of beside it.
pub(super) fn keep(image: &Image, recipe: &Recipe, store: &Store) -> Result<()> {
    match store.recipe::<Recipe>(&image.digest) {
        Some(known) if known == *recipe => Ok(()),
        _ => store.put_recipe(&image.digest, recipe),
    }
}
