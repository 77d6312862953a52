//! What a build would do, with nothing fetched and nothing built.

use std::collections::BTreeSet;

use super::{
    Order, code,
    dry_run_earlier::{Before, sending},
    dry_run_notes::{Unsure, notes, totals},
    dry_run_plan::{
        BuildPlan, LayerOutlook, LayerState, LayerTier, PackageOutlook, PlannedBase, PlannedBlob,
        Totals,
    },
    environment::{check_overwrites, warn},
    foresee::{Foresight, foresee},
    layers::{Code, STATE_TITLE, packages},
    recipe::{self, Known},
    site::{Site, is_here},
    sites,
};
use crate::{
    base::{BaseImage, Ground, tree::BaseTree},
    cache_from::CacheFrom,
    diff::{
        LayerRecipe, Manager, Package, PackageId, Reason, Recipe, gone, reasons, unchanged_key,
    },
    digest::Digest,
    error::Result,
    lock::Lock,
    package::{Survey, named},
    plan::Locked,
    report::Reporter,
    spec::ImageSpec,
    store::{BuiltLayer, Store},
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

/// Plans a build. Nothing is brought for that; packages that are here may be opened.
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
    let before = Before::find(spec, store, cache_from);
    let mut planner = Planner {
        base_known: base.is_some(),
        store,
        cache_from,
        before: before.as_ref(),
        recipe: Recipe::default(),
        drafts: Vec::new(),
        blind: false,
        absent: BTreeSet::new(),
    };
    for site in sites(spec, lock, (base_layers, tree), (&[], Order::LargestFirst))? {
        let foresight = foresee(&site, store, cache_from)?;
        if let Some(Foresight { survey, .. }) = &foresight {
            check_overwrites(survey, spec.pip_overwrites)?;
            warn(survey, known.reporter);
        }
        planner.site(&site, foresight.as_ref())?;
    }
    let mut layers = planner.package_layers();
    layers.push(state(&spec.prefix));
    if let Some(code) = code {
        let alike = layers.iter().any(|layer| layer.in_earlier);
        let documents = before.as_ref().and_then(|before| before.documents.as_ref());
        let unlike = documents.map(|known| known.of_code(&code.title(), base, alike));
        let draft = planner.code(&code, unlike)?;
        layers.push(planner.finish(draft));
    }
    let planned_base = planned_base(spec, base);
    let totals = totals(&planned_base, &layers);
    Ok(BuildPlan {
        version: BuildPlan::VERSION,
        notes: planner.notes(&planned_base, &totals, &layers),
        base: planned_base,
        gone: planner.gone(),
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

/// A layer before it is known what the others are made of.
struct Draft {
    /// Where its recipe is.
    index: usize,
    tier: LayerTier,
    bytes: u64,
    packages: Vec<PackageOutlook>,
    /// The names of the packages, not here, that decide its key. With any, the recipe's key is
    /// the likely one.
    decided_by: Vec<String>,
    /// Whether it may get other packages once their sizes are known.
    unsettled: bool,
    /// Why it is not a layer of an image of which only the documents are known.
    unlike: Vec<Reason>,
    /// The names of the conda packages that compiling its Python files brings.
    python: Vec<String>,
}

struct Planner<'a> {
    base_known: bool,
    store: &'a Store,
    cache_from: &'a CacheFrom,
    before: Option<&'a Before<'a>>,
    recipe: Recipe,
    drafts: Vec<Draft>,
    /// Whether nothing is known of the packages of a prefix.
    blind: bool,
    /// The names of the packages of which nobody tells.
    absent: BTreeSet<String>,
}

impl<'a> Planner<'a> {
    fn site(&mut self, site: &Site<'_>, foresight: Option<&Foresight>) -> Result<()> {
        let survey = foresight.map(|foresight| &foresight.survey);
        let nobody = BTreeSet::new();
        let known = Known {
            survey,
            absent: foresight.map_or(&nobody, |foresight| &foresight.absent),
            base: self.base_known,
        };
        let plan = site.plan(survey);
        self.blind |= survey.is_none();
        self.absent.extend(known.absent.iter().map(|id| named(id)));
        let documents = self.before.and_then(|before| before.documents.as_ref());
        let former = documents.and_then(|documents| documents.of_site(site));
        let recipes = recipe::of_site(site, &plan, &known)?;
        for (planned, recipe) in plan.layers.iter().zip(recipes) {
            let packages = packages(site, planned);
            let unlike = former.as_ref().map(|f| f.why(site, &packages, &recipe));
            let python = foresight.map(|f| python(site, &packages, &f.survey, self.store));
            let decided_by = foresight.map(|foresight| foresight.doubts(&packages));
            let outlook = |package| self.package(site, package, foresight);
            let packages: Vec<_> = packages.into_iter().map(outlook).collect();
            let draft = Draft {
                index: self.recipe.layers.len(),
                tier: LayerTier::Packages(planned.tier),
                bytes: packages.iter().filter_map(|package| package.bytes).sum(),
                packages,
                decided_by: decided_by.unwrap_or_default(),
                unsettled: foresight.is_some_and(|foresight| foresight.unsized_packages),
                unlike: unlike.transpose()?.unwrap_or_else(|| vec![Reason::First]),
                python: python.transpose()?.unwrap_or_default(),
            };
            self.recipe.layers.push(recipe);
            self.drafts.push(draft);
        }
        Ok(())
    }

    fn code(&mut self, code: &Code, unlike: Option<Reason>) -> Result<Draft> {
        let draft = Draft {
            index: self.recipe.layers.len(),
            tier: LayerTier::Code,
            bytes: code.files.size(),
            packages: Vec::new(),
            decided_by: Vec::new(),
            unsettled: false,
            unlike: unlike.into_iter().collect(),
            python: Vec::new(),
        };
        let recipe = recipe::of_code(code, self.base_known)?;
        self.recipe.layers.push(recipe);
        Ok(draft)
    }

    fn package(
        &self,
        site: &Site<'_>,
        package: Locked<'_>,
        foresight: Option<&Foresight>,
    ) -> PackageOutlook {
        let id = package.id();
        let measured = foresight.and_then(|known| known.survey.sizes.get(&id).copied());
        let opened = foresight.is_none_or(|known| known.is_opened(&id));
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
            download: opened && !here,
        }
    }

    fn package_layers(&mut self) -> Vec<LayerOutlook> {
        let mut python = BTreeSet::new();
        let mut layers = Vec::new();
        for mut draft in std::mem::take(&mut self.drafts) {
            let brought = std::mem::take(&mut draft.python);
            let layer = self.finish(draft);
            if layer.blob.is_none() {
                python.extend(brought.into_iter().map(|name| (layer.path.clone(), name)));
            }
            layers.push(layer);
        }
        for LayerOutlook { path, packages, .. } in &mut layers {
            let conda = packages
                .iter_mut()
                .filter(|one| one.manager == Manager::Conda);
            for package in conda {
                let brought = python.contains(&(path.clone(), package.name.clone()));
                package.download |= brought && !package.here;
            }
        }
        layers
    }

    fn finish(&self, draft: Draft) -> LayerOutlook {
        let recipe = self.recipe.layers.get(draft.index);
        let key = recipe.and_then(|recipe| recipe.key);
        let sure = key.filter(|_| draft.decided_by.is_empty());
        let found = match sure {
            Some(key) => self.find(&key),
            None => [key, self.likely_key(draft.index)]
                .iter()
                .flatten()
                .find_map(|key| self.find(key)),
        };
        let state = match (&found, sure) {
            (Some(_), None) => LayerState::Expected,
            (Some((_, None)), Some(_)) => LayerState::Stored,
            (Some((_, Some(_))), Some(_)) => LayerState::Remote,
            (None, _) if key.is_some() && !draft.unsettled => LayerState::ToBuild,
            (None, _) => LayerState::Unknown,
        };
        let in_earlier = found
            .as_ref()
            .zip(self.before)
            .is_some_and(|((built, _), before)| before.has(&built.digest));
        let why = match (&found, self.before) {
            (Some(_), None) => Vec::new(),
            _ if in_earlier => Vec::new(),
            _ => self.why(&draft),
        };
        let said = |say: fn(&LayerRecipe) -> &String| recipe.map(say).cloned().unwrap_or_default();
        let mut packages = draft.packages;
        for package in packages.iter_mut().filter(|_| found.is_none()) {
            package.download = !package.here;
        }
        LayerOutlook {
            tier: draft.tier,
            path: said(|recipe| &recipe.path),
            title: said(|recipe| &recipe.title),
            state,
            from: found.as_ref().and_then(|(_, from)| from.map(str::to_owned)),
            key: sure,
            why,
            blob: found.map(|(built, _)| PlannedBlob {
                digest: built.digest,
                bytes: built.size,
            }),
            in_earlier,
            decided_by: match state {
                LayerState::Expected | LayerState::Unknown => draft.decided_by,
                _ => Vec::new(),
            },
            bytes: draft.bytes,
            packages,
        }
    }

    /// The layer of a key, and the reference that has it where it is not here.
    fn find(&self, key: &Digest) -> Option<(BuiltLayer, Option<&'a str>)> {
        let remote = || self.cache_from.layer(key);
        let here = self.store.built_layer(key).map(|built| (built, None));
        here.or_else(|| remote().map(|(built, name)| (built, Some(name))))
    }

    /// The key of a layer that would be the earlier one, as far as that is known.
    fn likely_key(&self, index: usize) -> Option<Digest> {
        let old = self.before?.recipe.as_ref()?;
        unchanged_key(old, &self.recipe, index)
    }

    fn gone(&self) -> Vec<String> {
        let old = self.before.and_then(|before| before.recipe.as_ref());
        old.map(|old| gone(old, &self.recipe)).unwrap_or_default()
    }

    fn why(&self, draft: &Draft) -> Vec<Reason> {
        let Some(before) = self.before else {
            return vec![Reason::First];
        };
        let Some(old) = &before.recipe else {
            return match before.documents {
                Some(_) => draft.unlike.clone(),
                None => Vec::new(),
            };
        };
        let mut reasons = reasons(old, &self.recipe, draft.index);
        // A key that is only likely tells nothing.
        if !draft.decided_by.is_empty() {
            reasons.retain(|reason| *reason != Reason::Other);
        }
        reasons
    }

    /// What is not known, in words.
    fn notes(&self, base: &PlannedBase, totals: &Totals, layers: &[LayerOutlook]) -> Vec<String> {
        let unsure = Unsure {
            blind: self.blind,
            absent: &self.absent,
            layers,
        };
        notes(base, totals, &unsure)
    }
}

/// The names of the conda packages that compiling files of these packages brings.
fn python(
    site: &Site<'_>,
    packages: &[Locked<'_>],
    survey: &Survey,
    store: &Store,
) -> Result<Vec<String>> {
    let compiled = packages
        .iter()
        .filter(|one| survey.for_python.contains(&one.id()));
    let archives = compiled.map(Locked::sha256).collect::<Result<Vec<_>>>()?;
    let Some(compiler) = site.compiler.as_ref().filter(|_| !archives.is_empty()) else {
        return Ok(Vec::new());
    };
    let brought = compiler.brings(&archives, store)?.into_iter();
    Ok(brought.map(|record| Locked::Conda(record).id()).collect())
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
        decided_by: Vec::new(),
        bytes: 0,
        packages: Vec::new(),
    }
}
