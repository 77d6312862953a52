//! What a build would do, with nothing fetched and nothing built.

use super::{
    code,
    dry_run_earlier::{Before, sending},
    dry_run_plan::{
        BuildPlan, LayerOutlook, LayerState, LayerTier, PackageOutlook, PlannedBase, PlannedBlob,
        Totals,
    },
    environment::{check_overwrites, warn},
    layers::{Code, STATE_TITLE, packages},
    recipe::{self, Known},
    site::{Site, is_here},
    sites,
};
use crate::{
    base::{BaseImage, Ground, tree::BaseTree},
    cache_from::CacheFrom,
    diff::{LayerRecipe, Package, PackageId, Reason, Recipe, gone, reasons, unchanged_key},
    digest::Digest,
    error::Result,
    fetch,
    lock::Lock,
    package::Survey,
    plan::Locked,
    report::{Reporter, counted},
    spec::ImageSpec,
    store::Store,
};

/// The layers that an unknown base image is taken to have, as the default one does.
const ASSUMED_LAYERS: usize = 1;

/// What a plan is made from.
pub struct Planned<'a> {
    /// The base image, when it is known.
    pub ground: Option<&'a Ground>,
    /// The cache.
    pub store: &'a Store,
    /// Earlier images whose layers would be taken over.
    pub cache_from: &'a CacheFrom,
    /// Warnings.
    pub reporter: &'a Reporter,
}

/// Plans a build. Packages are only opened when all of them are in the store.
///
/// # Errors
/// What a build would fail with, as far as it shows without the packages.
pub fn dry_run(spec: &ImageSpec, lock: &Lock, known: &Planned<'_>) -> Result<BuildPlan> {
    let (store, cache_from) = (known.store, known.cache_from);
    let base = known.ground.map(|ground| &ground.image);
    let no_tree = BaseTree::default();
    let tree = known.ground.map_or(&no_tree, |ground| &ground.tree);
    let base_layers = layers_of(base);
    let code = code(spec, tree)?;
    let mut planner = Planner {
        base_known: base.is_some(),
        store,
        cache_from,
        recipe: Recipe::default(),
        drafts: Vec::new(),
        unsurveyed: false,
    };
    for site in sites(spec, lock, (base_layers, tree), &[])? {
        let survey = surveyed(&site, store, cache_from)?;
        if let Some(survey) = &survey {
            check_overwrites(survey, spec.pip_overwrites)?;
            warn(survey, known.reporter);
        }
        planner.site(&site, survey.as_ref())?;
    }
    let code = code.map(|code| planner.code(&code)).transpose()?;
    let before = Before::find(spec, store, cache_from);
    let mut layers = planner.package_layers(before.as_ref());
    layers.push(state(&spec.prefix));
    layers.extend(code.map(|draft| planner.finish(draft, before.as_ref())));
    let planned_base = planned_base(spec, base);
    let totals = totals(&planned_base, &layers);
    Ok(BuildPlan {
        version: BuildPlan::VERSION,
        notes: notes(&planned_base, &totals, planner.unsurveyed),
        base: planned_base,
        gone: planner.gone(before.as_ref()),
        sending: sending(base, &layers, before.as_ref()),
        compared_with: before.map(|before| before.earlier),
        layers,
        totals,
    })
}

fn layers_of(base: Option<&BaseImage>) -> usize {
    base.map_or(ASSUMED_LAYERS, |base| base.layers.len())
}

fn planned_base(spec: &ImageSpec, base: Option<&BaseImage>) -> PlannedBase {
    PlannedBase {
        image: spec.base.to_string(),
        known: base.is_some(),
        layers: layers_of(base),
        bytes: base.map(|base| base.layers.iter().map(|layer| layer.size).sum()),
    }
}

fn surveyed(site: &Site<'_>, store: &Store, cache_from: &CacheFrom) -> Result<Option<Survey>> {
    let hashed = |record| fetch::sha256_of(record).is_ok();
    if !site.locked.packages().iter().all(hashed) {
        return Ok(None);
    }
    if let Some(known) = site.known(store, cache_from)? {
        return Ok(Some(known));
    }
    if !site.is_here(store) {
        return Ok(None);
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    site.survey(store, threads).map(Some)
}

/// A layer before it is known what the others are made of.
struct Draft {
    /// Where its recipe is.
    index: usize,
    tier: LayerTier,
    bytes: u64,
    packages: Vec<PackageOutlook>,
}

struct Planner<'a> {
    base_known: bool,
    store: &'a Store,
    cache_from: &'a CacheFrom,
    recipe: Recipe,
    drafts: Vec<Draft>,
    unsurveyed: bool,
}

impl Planner<'_> {
    fn site(&mut self, site: &Site<'_>, survey: Option<&Survey>) -> Result<()> {
        let plan = site.plan(survey);
        self.unsurveyed |= survey.is_none();
        let known = Known {
            survey,
            base: self.base_known,
        };
        let recipes = recipe::of_site(site, &plan, &known)?;
        for (planned, recipe) in plan.layers.iter().zip(recipes) {
            let outlook = |package| self.package(site, package, survey);
            let packages: Vec<_> = packages(site, planned).into_iter().map(outlook).collect();
            let draft = Draft {
                index: self.recipe.layers.len(),
                tier: LayerTier::Packages(planned.tier),
                bytes: packages.iter().filter_map(|package| package.bytes).sum(),
                packages,
            };
            self.recipe.layers.push(recipe);
            self.drafts.push(draft);
        }
        Ok(())
    }

    fn code(&mut self, code: &Code) -> Result<Draft> {
        let draft = Draft {
            index: self.recipe.layers.len(),
            tier: LayerTier::Code,
            bytes: code.files.size(),
            packages: Vec::new(),
        };
        let recipe = recipe::of_code(code, self.base_known)?;
        self.recipe.layers.push(recipe);
        Ok(draft)
    }

    fn package(
        &self,
        site: &Site<'_>,
        package: Locked<'_>,
        survey: Option<&Survey>,
    ) -> PackageOutlook {
        let measured = survey.and_then(|survey| survey.sizes.get(&package.id()).copied());
        let PackageId { manager, name, .. } = PackageId::of(site.area(), package);
        let here = is_here(package, self.store);
        let package = Package::of(package);
        PackageOutlook {
            manager,
            name,
            version: package.version,
            build: package.build,
            channel: package.channel,
            sha256: package.sha256,
            bytes: measured.or(package.size),
            here,
        }
    }

    fn package_layers(&mut self, before: Option<&Before>) -> Vec<LayerOutlook> {
        let drafts = std::mem::take(&mut self.drafts);
        let finish = |draft| self.finish(draft, before);
        drafts.into_iter().map(finish).collect()
    }

    fn finish(&self, draft: Draft, before: Option<&Before>) -> LayerOutlook {
        let recipe = self.recipe.layers.get(draft.index);
        let key = recipe.and_then(|recipe| recipe.key);
        let found = key.or_else(|| self.likely_key(draft.index, before));
        let stored = found.and_then(|key| self.store.built_layer(&key));
        let remote = || key.and_then(|key| self.cache_from.layer(&key));
        let remote = stored.is_none().then(remote).flatten();
        let state = match (key, &stored, &remote) {
            (None, ..) => LayerState::Unknown,
            (Some(_), Some(_), _) => LayerState::Stored,
            (Some(_), None, Some(_)) => LayerState::Remote,
            (Some(_), None, None) => LayerState::ToBuild,
        };
        let from = remote.as_ref().map(|(_, name)| (*name).to_owned());
        let built = stored.or(remote.map(|(layer, _)| layer));
        let in_earlier = built
            .as_ref()
            .zip(before)
            .is_some_and(|(built, before)| before.has(&built.digest));
        let why = match (state, before) {
            (LayerState::Stored | LayerState::Remote, None) => Vec::new(),
            _ if in_earlier => Vec::new(),
            _ => self.why(draft.index, before),
        };
        let said = |say: fn(&LayerRecipe) -> &String| recipe.map(say).cloned().unwrap_or_default();
        LayerOutlook {
            tier: draft.tier,
            path: said(|recipe| &recipe.path),
            title: said(|recipe| &recipe.title),
            state,
            from,
            key,
            why,
            blob: built.map(|built| PlannedBlob {
                digest: built.digest,
                bytes: built.size,
            }),
            in_earlier,
            bytes: draft.bytes,
            packages: draft.packages,
        }
    }

    /// The key of a layer that would be the earlier one, as far as that is known.
    fn likely_key(&self, index: usize, before: Option<&Before>) -> Option<Digest> {
        let old = before?.recipe.as_ref()?;
        unchanged_key(old, &self.recipe, index)
    }

    fn gone(&self, before: Option<&Before>) -> Vec<String> {
        let old = before.and_then(|before| before.recipe.as_ref());
        old.map(|old| gone(old, &self.recipe)).unwrap_or_default()
    }

    fn why(&self, index: usize, before: Option<&Before>) -> Vec<Reason> {
        match before {
            None => vec![Reason::First],
            Some(before) => match &before.recipe {
                Some(old) => reasons(old, &self.recipe, index),
                None => Vec::new(),
            },
        }
    }
}

/// The layer that is no package's and no code.
fn state(prefix: &str) -> LayerOutlook {
    LayerOutlook {
        tier: LayerTier::State,
        path: prefix.to_owned(),
        title: STATE_TITLE.into(),
        state: LayerState::ToBuild,
        from: None,
        key: None,
        why: vec![Reason::Always],
        blob: None,
        in_earlier: false,
        bytes: 0,
        packages: Vec::new(),
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
            let reused = matches!(layer.state, LayerState::Stored | LayerState::Remote);
            if !reused && !package.here {
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
