//! What a build would do, with nothing fetched and nothing built.

use serde::Serialize;

use super::{
    code,
    dry_run_text::counted,
    environment::{check_overwrites, warn},
    layers::{Code, Place, STATE_TITLE, keyed, packages},
    site::{Site, is_here},
    sites,
};
use crate::{
    base::{BaseImage, tree::BaseTree},
    error::Result,
    fetch,
    lock::Lock,
    package::Survey,
    plan::{Locked, PlannedLayer, Tier},
    report::Reporter,
    spec::ImageSpec,
    store::Store,
};

/// The version of [`BuildPlan`]'s JSON: another one when a field goes or changes its meaning.
const VERSION: u32 = 1;

/// The layers that an unknown base image is taken to have, as the default one does.
const ASSUMED_LAYERS: usize = 1;

/// What a build would do; its JSON is described in docs/plan.md.
#[derive(Clone, Debug, Serialize)]
pub struct BuildPlan {
    /// The version of this format.
    pub version: u32,
    /// The base image.
    pub base: PlannedBase,
    /// The layers over it, lowest first.
    pub layers: Vec<LayerOutlook>,
    /// All layers together.
    pub totals: Totals,
    /// What is not known, in words.
    pub notes: Vec<String>,
}

/// The base image of a plan.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedBase {
    /// The image as the user named it.
    pub image: String,
    /// Whether it is on this machine; if not, `layers` is an assumption.
    pub known: bool,
    /// How many layers it has.
    pub layers: usize,
    /// The size of its blobs in bytes.
    pub bytes: Option<u64>,
}

/// A layer of a plan.
#[derive(Clone, Debug, Serialize)]
pub struct LayerOutlook {
    /// Where it stands.
    pub tier: LayerTier,
    /// The prefix of its packages; the folder of the code.
    pub path: String,
    /// What a person reads in `docker history`.
    pub title: String,
    /// What becomes of it.
    pub state: LayerState,
    /// The size of what goes into it, in bytes: archives as they are downloaded, code as it is.
    pub bytes: u64,
    /// Its packages, by name.
    pub packages: Vec<PackageOutlook>,
}

/// A package of a plan.
#[derive(Clone, Debug, Serialize)]
pub struct PackageOutlook {
    /// `conda` or `pip`.
    pub manager: Manager,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The size of its archive in bytes, where that is known.
    pub bytes: Option<u64>,
    /// Whether its archive is on this machine.
    pub here: bool,
}

/// Whose package it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Manager {
    /// A conda package.
    Conda,
    /// A wheel.
    Pip,
}

/// Where a layer stands in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerTier {
    /// What conda and the wrapper need beside the packages.
    State,
    /// The user's code.
    Code,
    /// A tier of packages.
    #[serde(untagged)]
    Packages(Tier),
}

/// What becomes of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerState {
    /// It is in the store and would be used as it is.
    Stored,
    /// It would be built.
    ToBuild,
    /// Whether it would be built is only known once everything is on this machine.
    Unknown,
}

/// All layers of a plan together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Layers of the image, the base's included.
    pub layers: usize,
    /// Packages.
    pub packages: usize,
    /// The size of all archives and of the code, in bytes.
    pub bytes: u64,
    /// Packages whose size nobody knows yet; they count as 0 bytes.
    pub packages_of_unknown_size: usize,
    /// Packages that would be downloaded: those of layers that are not stored.
    pub download_packages: usize,
    /// Their size in bytes, the base image's not included.
    pub download_bytes: u64,
}

/// Plans a build. Packages are only opened when all of them are in the store; a base image is
/// given when it is on this machine.
///
/// # Errors
/// What a build would fail with, as far as it shows without the packages.
pub fn dry_run(
    spec: &ImageSpec,
    lock: &Lock,
    base: Option<&BaseImage>,
    store: &Store,
    reporter: &Reporter,
) -> Result<BuildPlan> {
    let tree = match base {
        Some(base) => BaseTree::scan(&base.layers, store)?,
        None => BaseTree::default(),
    };
    let base_layers = base.map_or(ASSUMED_LAYERS, |base| base.layers.len());
    let code = code(spec, &tree)?;
    let mut planner = Planner {
        base_known: base.is_some(),
        store,
        layers: Vec::new(),
        unsurveyed: false,
    };
    for site in sites(spec, lock, base_layers, &tree)? {
        let survey = surveyed(&site, store)?;
        if let Some(survey) = &survey {
            check_overwrites(survey, spec.pip_overwrites)?;
            warn(survey, reporter);
        }
        planner.site(&site, survey.as_ref())?;
    }
    planner.top(&spec.prefix, code)?;
    let base = PlannedBase {
        image: spec.base.to_string(),
        known: base.is_some(),
        layers: base_layers,
        bytes: base.map(|base| base.layers.iter().map(|layer| layer.size).sum()),
    };
    let totals = totals(&base, &planner.layers);
    Ok(BuildPlan {
        version: VERSION,
        notes: notes(&base, &totals, planner.unsurveyed),
        base,
        layers: planner.layers,
        totals,
    })
}

fn surveyed(site: &Site<'_>, store: &Store) -> Result<Option<Survey>> {
    let hashed = |record| fetch::sha256_of(record).is_ok();
    if !site.locked.packages().iter().all(hashed) {
        return Ok(None);
    }
    if let Some(known) = site.known(store)? {
        return Ok(Some(known));
    }
    if !site.is_here(store) {
        return Ok(None);
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Some(site.open(store, threads)?.0))
}

struct Planner<'a> {
    base_known: bool,
    store: &'a Store,
    layers: Vec<LayerOutlook>,
    unsurveyed: bool,
}

impl Planner<'_> {
    fn site(&mut self, site: &Site<'_>, survey: Option<&Survey>) -> Result<()> {
        let plan = site.plan(survey);
        let known = survey.filter(|_| self.base_known);
        self.unsurveyed |= survey.is_none();
        let states = match known {
            None => vec![LayerState::Unknown; plan.layers.len()],
            Some(survey) => keyed(site, &plan, survey)?
                .iter()
                .map(|(_, key)| match self.store.built_layer(key) {
                    Some(_) => LayerState::Stored,
                    None => LayerState::ToBuild,
                })
                .collect(),
        };
        for (planned, state) in plan.layers.iter().zip(states) {
            let layer = self.layer(site, planned, survey, state);
            self.layers.push(layer);
        }
        Ok(())
    }

    fn layer(
        &self,
        site: &Site<'_>,
        planned: &PlannedLayer,
        survey: Option<&Survey>,
        state: LayerState,
    ) -> LayerOutlook {
        let packages = packages(site, planned)
            .into_iter()
            .map(|package| self.package(package, survey))
            .collect::<Vec<_>>();
        LayerOutlook {
            tier: LayerTier::Packages(planned.tier),
            path: site.prefix.path.clone(),
            title: planned.title.clone(),
            state,
            bytes: packages.iter().filter_map(|package| package.bytes).sum(),
            packages,
        }
    }

    fn package(&self, package: Locked<'_>, survey: Option<&Survey>) -> PackageOutlook {
        let measured = survey.and_then(|survey| survey.sizes.get(&package.id()).copied());
        let bytes = measured.or(package.size());
        let here = is_here(package, self.store);
        match package {
            Locked::Conda(record) => PackageOutlook {
                manager: Manager::Conda,
                name: record.package_record.name.as_normalized().to_owned(),
                version: record.package_record.version.to_string(),
                bytes,
                here,
            },
            Locked::Wheel(wheel) => PackageOutlook {
                manager: Manager::Pip,
                name: wheel.name.clone(),
                version: wheel.version.clone(),
                bytes,
                here,
            },
        }
    }

    /// The layers that are no package's.
    fn top(&mut self, prefix: &str, code: Option<Code>) -> Result<()> {
        let layer = |tier, path: &str, title: String, state, bytes| LayerOutlook {
            tier,
            path: path.to_owned(),
            title,
            state,
            bytes,
            packages: Vec::new(),
        };
        let state = layer(
            LayerTier::State,
            prefix,
            STATE_TITLE.into(),
            LayerState::ToBuild,
            0,
        );
        self.layers.push(state);
        let Some(code) = code else { return Ok(()) };
        let state = match (self.base_known, self.store.built_layer(&code.key()?)) {
            (false, _) => LayerState::Unknown,
            (true, Some(_)) => LayerState::Stored,
            (true, None) => LayerState::ToBuild,
        };
        let Place { root, .. } = &code.place;
        let (path, bytes) = (format!("/{root}"), code.files.size());
        self.layers
            .push(layer(LayerTier::Code, &path, code.title(), state, bytes));
        Ok(())
    }
}

fn totals(base: &PlannedBase, layers: &[LayerOutlook]) -> Totals {
    let mut totals = Totals {
        layers: base.layers + layers.len(),
        ..Totals::default()
    };
    for layer in layers {
        totals.bytes += layer.bytes;
        totals.packages += layer.packages.len();
        for package in &layer.packages {
            totals.packages_of_unknown_size += usize::from(package.bytes.is_none());
            if layer.state != LayerState::Stored && !package.here {
                totals.download_packages += 1;
                totals.download_bytes += package.bytes.unwrap_or(0);
            }
        }
    }
    totals
}

fn notes(base: &PlannedBase, totals: &Totals, unsurveyed: bool) -> Vec<String> {
    let mut notes = Vec::new();
    if !base.known {
        notes.push(format!(
            "{} is not on this machine: it is taken to have {}, and which layers can be reused is \
             unknown until it is here",
            base.image,
            counted(base.layers, "layer")
        ));
    }
    if unsurveyed {
        notes.push(
            "which layers can be reused, and whether packages ship the same files, is unknown \
             until the packages are here"
                .into(),
        );
    }
    if totals.packages_of_unknown_size > 0 {
        notes.push(format!(
            "the lock does not say the size of {}: 0 bytes are counted for that, and layers may be \
             others once it is known",
            counted(totals.packages_of_unknown_size, "package")
        ));
    }
    notes
}
