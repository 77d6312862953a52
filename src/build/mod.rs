//! Executing a build: plans to layers to an image. The one place where the stages meet.

mod dry_run;
mod dry_run_documents;
mod dry_run_earlier;
mod dry_run_notes;
mod dry_run_plan;
mod dry_run_side;
mod dry_run_text;
mod earlier;
mod environment;
mod foresee;
mod layers;
mod line;
mod parallel;
mod pipeline;
mod recipe;
mod site;
mod stage;
mod state;
mod told;
mod wheels;

use std::{collections::BTreeMap, num::NonZeroUsize};

use reqwest_middleware::ClientWithMiddleware;
use tokio::runtime::Handle;

pub use dry_run::{Planned, dry_run};
pub use dry_run_plan::{
    BuildPlan, Earlier, LayerOutlook, LayerState, LayerTier, PackageOutlook, PlannedBase,
    PlannedBlob, Sending, Totals,
};
pub use dry_run_side::of_plan;
pub use environment::Environment;

use crate::{
    base::{BaseImage, BaseNotes, BaseSource, Ground, tree::BaseTree},
    cache_from::{CacheFrom, Notes},
    code,
    digest::Digest,
    error::Result,
    fetch::Fetcher,
    gate::{self, Facts},
    image::{self, ENTRYPOINT_LABEL, Image, ImageSettings, Layer, PREFIX_LABEL, TopLayer},
    layer::Compressors,
    lock::{Lock, LockedEnv},
    package::{Decoders, Prefix, Survey},
    plan::Budget,
    pyc::{self, Compiler, Workshop},
    report::Reporter,
    spec::{CONDA, ImageSpec, Spec},
    store::{BuiltLayer, Store},
};
use layers::{Code, Place};
use site::{Role, Site};
use state::PrefixState;

/// What every step of a build needs.
pub struct Tools<'a> {
    /// The cache.
    pub store: &'a Store,
    /// Progress.
    pub reporter: &'a Reporter,
    /// The channels' HTTP client.
    pub client: &'a ClientWithMiddleware,
    /// Where downloads run.
    pub runtime: &'a Handle,
    /// Threads that compress.
    pub compressors: &'a Compressors,
    /// Threads that decode `.tar.bz2` packages.
    pub decoders: Decoders,
    /// How many layers are built at once.
    pub threads: usize,
    /// Earlier images whose layers are taken over.
    pub cache_from: &'a CacheFrom,
    /// Environments for this machine, which lend their Python to compile for other machines.
    pub natives: &'a [LockedEnv],
    /// Is told of each layer of packages or code that was made, once it is known to be one of the image.
    pub made: &'a (dyn Fn(&BuiltLayer) + Sync),
    /// Is told of each layer of the image, the lowest first, as soon as it and those below are there.
    pub next: &'a (dyn Fn(&Layer) + Sync),
    /// Which layers are made first.
    pub order: Order,
}

/// Which layers are made first, and which packages are brought first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// So that no large one is left for the end.
    LargestFirst,
    /// For who takes them from the lowest up.
    LowestFirst,
}

impl Tools<'_> {
    /// The layer of a key, if it was made before; one that an earlier image has need not be here.
    fn known_layer(&self, key: &Digest) -> Option<BuiltLayer> {
        let remote = || self.cache_from.layer(key).map(|(layer, _)| layer);
        self.store.built_layer(key).or_else(remote)
    }

    fn fetcher(&self) -> Fetcher<'_> {
        Fetcher {
            client: self.client,
            store: self.store,
            reporter: self.reporter,
        }
    }

    /// What compiling Python files needs of them.
    fn workshop(&self) -> Workshop<'_> {
        Workshop {
            store: self.store,
            reporter: self.reporter,
            client: self.client,
            runtime: self.runtime,
            threads: NonZeroUsize::new(self.threads).unwrap_or(NonZeroUsize::MIN),
        }
    }
}

/// Builds the image. Every blob is in the store afterwards, but for layers that are taken over
/// from an earlier image, and those of the base where nothing had to be read of them.
///
/// # Errors
/// The first package, layer or file that cannot be used; nothing half-made is kept.
pub fn build(spec: &ImageSpec, lock: &Lock, ground: &Ground, tools: &Tools<'_>) -> Result<Image> {
    let Ground { image: base, tree } = ground;
    let code = code(spec, tree)?;
    let sites = sites(
        spec,
        lock,
        (base.layers.len(), tree),
        (tools.natives, tools.order),
    )?;
    for site in sites.iter().filter(|_| spec.compile) {
        if let Some(unknown) = pyc::unknown(site.locked) {
            tools.reporter.warn(unknown);
        }
    }
    let base_layers = base.layers.iter().map(Layer::of_base);
    base_layers.for_each(|layer| (tools.next)(&layer));
    let mut environments = pipeline::build(sites, spec.pip_overwrites, tools)?;
    let mut top = Vec::new();
    for environment in &mut environments {
        top.append(&mut environment.layers);
    }
    let created = created(environments.iter().map(|environment| &environment.survey));
    let wrapper = wrapper(spec, &environments);
    let states: Vec<PrefixState<'_>> = environments
        .iter()
        .map(|environment| PrefixState {
            environment,
            created,
        })
        .collect();
    let recipe = recipe::of_image(&environments, code.as_ref())?;
    let last = |layer: TopLayer| {
        (tools.next)(&Layer::from(&layer.built));
        layer
    };
    top.push(last(layers::state(&states, wrapper.is_some(), tools)?));
    if let Some(code) = code {
        top.push(last(code.build(tools)?));
    }
    let facts = Facts::of(&lock.env);
    let settings = ImageSettings {
        notes: notes(spec, ground, &environments)?.to_json()?,
        ..settings(spec, &facts, base, wrapper, created)
    };
    let image = image::assemble(base, &top, &settings)?;
    tools.store.put_blob(&image.config)?;
    tools.store.put_blob(&image.manifest)?;
    recipe::keep(&image, &recipe, tools.store)?;
    Ok(image)
}

/// What a later build needs to know of this one.
fn notes(spec: &ImageSpec, ground: &Ground, environments: &[Environment<'_>]) -> Result<Notes> {
    let noted = |environment: &Environment<'_>| environment.site.noted(&environment.survey);
    Ok(Notes {
        base: BaseNotes::new(&ground.tree, &ground.image.layers, &spec.places()),
        surveys: environments.iter().map(noted).collect::<Result<_>>()?,
    })
}

/// The user's code, looked through before hours are spent on packages.
fn code(spec: &ImageSpec, tree: &BaseTree) -> Result<Option<Code>> {
    let Some(code) = &spec.code else {
        return Ok(None);
    };
    let files = code::collect(&code.dir)?;
    Ok(Some(Code {
        place: Place::resolve(tree, &code.dest)?,
        hash: files.key()?,
        files,
        compression: spec.compression,
    }))
}

/// The prefixes of the image, the Miniconda base first. Of the base image the number of its layers
/// and its folders are known.
fn sites<'a>(
    spec: &'a ImageSpec,
    lock: &'a Lock,
    (base_layers, tree): (usize, &BaseTree),
    (natives, order): (&'a [LockedEnv], Order),
) -> Result<Vec<Site<'a>>> {
    let budget = budget(spec, base_layers)?;
    let site = |locked: &'a LockedEnv, path: &str, specs: &[Spec], role| {
        let place = Place::resolve(tree, path)?;
        let prefix = Prefix::new(path, &place.root, locked, spec.machine)?;
        let compiler = spec
            .compile
            .then(|| Compiler::new(locked, &prefix, natives));
        Ok(Site {
            compiler: compiler.flatten(),
            prefix,
            locked,
            pip: &spec.env.pip,
            place,
            role,
            budget,
            compression: spec.compression,
            order,
            requested: specs.iter().map(|spec| spec.text.clone()).collect(),
            names: specs
                .iter()
                .map(|spec| spec.match_spec.name.to_string())
                .collect(),
        })
    };
    let mut all = Vec::new();
    if let (Some(miniconda), Some(locked)) = (&spec.miniconda, &lock.miniconda) {
        let (path, specs) = (&miniconda.prefix, &miniconda.specs);
        all.push(site(locked, path, specs, Role::Miniconda)?);
    }
    let role = match spec.miniconda {
        Some(_) => Role::OverMiniconda,
        None => Role::Alone,
    };
    all.push(site(&lock.env, &spec.prefix, &spec.env.specs, role)?);
    Ok(all)
}

/// What the packages may take: the image's budget less the base's layers, the state's and the
/// code's; halved where a Miniconda base needs layers too.
fn budget(spec: &ImageSpec, base_layers: usize) -> Result<Budget> {
    let total = spec.layer_budget as usize;
    let taken = base_layers + 2;
    let parts = if spec.miniconda.is_some() { 2 } else { 1 };
    let free = total.saturating_sub(taken) / parts;
    if free < Budget::MIN {
        let least = taken + Budget::MIN * parts;
        return Err(crate::error::Error::input(format!(
            "{total} layers are too few for this image"
        ))
        .why(format!(
            "the base image has {base_layers}; packages, environment and code need {}",
            least - base_layers
        ))
        .hint(format!(
            "allow at least {least} with --max-layers, or choose a base with fewer"
        )));
    }
    Ok(Budget::of(free))
}

/// The wrapper's path, when there is something to activate.
fn wrapper(spec: &ImageSpec, environments: &[Environment<'_>]) -> Option<String> {
    environments
        .last()
        .filter(|environment| environment.survey.activation)
        .map(|_| format!("{}/{}", spec.prefix, state::WRAPPER))
}

/// When the image was made: `SOURCE_DATE_EPOCH` (reproducible-builds.org), else the build time
/// of the newest package, so that the same lock gives the same image on any day.
fn created<'a>(surveys: impl Iterator<Item = &'a Survey>) -> u64 {
    let given = std::env::var("SOURCE_DATE_EPOCH")
        .ok()
        .and_then(|text| text.parse().ok());
    let newest = surveys.map(|survey| survey.built_at).max();
    given.or(newest).unwrap_or(0)
}

fn settings(
    spec: &ImageSpec,
    facts: &Facts,
    base: &BaseImage,
    wrapper: Option<String>,
    created: u64,
) -> ImageSettings {
    let base_name = match spec.base {
        BaseSource::Registry(_) => base.name.clone(),
        _ => None,
    };
    let name = if spec.miniconda.is_some() {
        spec.env.name.as_deref().unwrap_or("env")
    } else {
        "base"
    };
    let mut env = BTreeMap::from([
        ("CONDA_DEFAULT_ENV".to_owned(), name.to_owned()),
        ("CONDA_PREFIX".to_owned(), spec.prefix.clone()),
    ]);
    env.extend(gate::variables(facts, &base.variables()));
    env.extend(spec.variables.iter().cloned());
    let mut path = vec![format!("{}/bin", spec.prefix)];
    if spec.miniconda.is_some() {
        path.push(format!("{CONDA}/condabin"));
    }
    let mut labels = BTreeMap::from([(PREFIX_LABEL.to_owned(), spec.prefix.clone())]);
    if let Some(wrapper) = &wrapper {
        labels.insert(ENTRYPOINT_LABEL.to_owned(), wrapper.clone());
    }
    labels.extend(gate::labels(facts));
    labels.extend(spec.labels.clone());
    ImageSettings {
        env,
        path,
        workdir: spec.workdir.clone(),
        user: spec.user.clone(),
        entrypoint: spec.entrypoint.clone(),
        cmd: spec.cmd.clone(),
        wrapper,
        labels,
        annotations: spec.annotations.clone(),
        base_name,
        created,
        machine: spec.machine,
        ..ImageSettings::default()
    }
}
