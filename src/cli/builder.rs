//! From a command's specs to its images, or to the plans of them.

use std::{num::NonZeroUsize, path::Path, thread};

use tokio::runtime::Runtime;

use super::{
    args::BuildArgs,
    attest,
    cache_from::{only_pushes, wanted},
    lock::{LockTools, Locker},
    lock_file,
    locks::{Lockers, Settled},
    online::Online,
};
use crate::{
    base::{BaseLayer, BaseSource, Ground, Loader},
    build::{self, BuildPlan, Order, Planned, Tools},
    cache_from::{CacheFrom, Origins, in_a_line},
    docker::Early,
    error::{Error, Exit, Result},
    fetch::Fetcher,
    image::{Image, ImageSet, Layer},
    layer::Compressors,
    lock::{Lock, LockedEnv},
    machine::Machine,
    package::Decoders,
    registry::{self, Ahead, Sent},
    report::{Reporter, human_bytes},
    spec::ImageSpec,
    store::{BuiltLayer, Store, StoredImage},
};

/// Layers that are made at once at most. Each takes about 1 GB of tar a second and memory for
/// decoding; more only help where nothing else is the limit.
const MOST_LAYERS: usize = 8;

/// What a build needs.
pub(super) struct Builder<'a> {
    pub args: &'a BuildArgs,
    /// One for each platform.
    pub specs: &'a [ImageSpec],
    pub store: &'a Store,
    pub runtime: &'a Runtime,
    pub reporter: &'a Reporter,
    /// The daemon that gets layers as soon as they are made.
    pub early: Option<&'a Early>,
}

impl Builder<'_> {
    /// Builds the images; what only goes to registries is pushed too, so that its layers need not
    /// come here. Others have all layers in the store then.
    ///
    /// What cannot be taken over after all, because a registry does not have what it told of, is
    /// built.
    pub(super) fn images(&self) -> Result<ImageSet> {
        let spec = self.first()?;
        let loaders = self.loaders();
        let loader = loaders.first().ok_or_else(nothing)?;
        let mut cache_from = self.cache_from(spec, &loaders);
        let mut ahead = only_pushes(self.args).then(|| self.ahead(spec, loader));
        let mut sent = Sent::default();
        loop {
            let set = self.make(&cache_from, ahead.as_ref())?;
            if let Some(ahead) = ahead.take() {
                sent = self.runtime.block_on(ahead.finished());
            }
            let origins = Origins::of(set.images(), &cache_from, &spec.base, loader);
            let Err(e) = self.give(&set, spec, &origins, &sent) else {
                return Ok(set);
            };
            let Some(name) = origins.failed() else {
                return Err(e);
            };
            self.reporter.warn(format!(
                "--cache-from {name} is not used, its layers are built: {}",
                in_a_line(&e)
            ));
            self.early.iter().for_each(|early| early.stop());
            cache_from.forget(&name);
        }
    }

    /// What building each platform's image would do.
    pub(super) fn plans(&self) -> Result<Vec<(Machine, BuildPlan)>> {
        let online = Online::open_all(self.specs, self.args.locking.offline, self.reporter)?;
        let cache_from = self.cache_from(self.first()?, &self.loaders());
        let lockers = self.lockers(&online, &cache_from);
        let locks = lockers.planned(&self.args.env)?;
        let plan = |(locker, lock): (&Locker<'_>, &Lock)| {
            let ground = self.ground_here(lock, locker)?;
            let known = Planned {
                ground: ground.as_ref(),
                store: self.store,
                cache_from: &cache_from,
                reporter: self.reporter,
            };
            let plan = build::dry_run(locker.spec, lock, &known)?;
            Ok((locker.spec.machine, plan))
        };
        lockers.each().iter().zip(&locks).map(plan).collect()
    }

    /// What is not the platform's is the same in all of them.
    fn first(&self) -> Result<&ImageSpec> {
        self.specs.first().ok_or_else(nothing)
    }

    fn loaders(&self) -> Vec<Loader> {
        let loader = |spec: &ImageSpec| Loader {
            store: self.store.clone(),
            reporter: self.reporter.clone(),
            platform: spec.machine.platform(),
            offline: self.args.locking.offline,
            registries: self.args.locking.registries.settings(),
        };
        self.specs.iter().map(loader).collect()
    }

    fn cache_from(&self, spec: &ImageSpec, loaders: &[Loader]) -> CacheFrom {
        let wanted = wanted(self.args, spec);
        if self.args.locking.offline && !wanted.is_empty() {
            self.reporter
                .warn("--cache-from is not used: --offline asks no registry");
            return CacheFrom::default();
        }
        self.runtime.block_on(CacheFrom::read(&wanted, loaders))
    }

    fn lockers<'a>(&'a self, online: &'a [Online], cache_from: &'a CacheFrom) -> Lockers<'a> {
        let tools = LockTools {
            store: self.store,
            runtime: self.runtime.handle(),
            reporter: self.reporter,
            locking: &self.args.locking,
            cache_from,
        };
        let path = lock_file::path_for(&self.args.env);
        Lockers::new(self.specs, online, tools, &path)
    }

    /// What sends layers to the first of the image's repositories as soon as they are made.
    fn ahead(&self, spec: &ImageSpec, loader: &Loader) -> Ahead {
        let reference = spec.tags.first().map_or("", String::as_str);
        Ahead::start(reference, loader, self.runtime.handle())
    }

    fn give(
        &self,
        set: &ImageSet,
        spec: &ImageSpec,
        origins: &Origins<'_>,
        sent: &Sent,
    ) -> Result<()> {
        if !only_pushes(self.args) {
            self.runtime.block_on(origins.bring_all())?;
            return keep(set, spec, self.store);
        }
        keep(set, spec, self.store)?;
        let names = self.args.attest.names(set, &spec.tags)?;
        let push = registry::push(set, &names, origins, sent);
        self.runtime.block_on(push)
    }

    /// The base image, unless its layers would have to come over a network or from a daemon.
    fn ground_here(&self, lock: &Lock, locker: &Locker<'_>) -> Result<Option<Ground>> {
        let base = match &locker.spec.base {
            BaseSource::Registry(_) | BaseSource::DockerDaemon(_) => {
                self.store.base(&locker.spec.base_name())
            }
            _ => Some(locker.load_base(None)?),
        };
        if let Some(base) = base {
            return locker.ground(base).map(Some);
        }
        match &locker.spec.base {
            BaseSource::Registry(_) if !locker.cache_from.is_empty() => {
                Ok(locker.known_ground(&locker.load_base(Some(lock))?))
            }
            _ => Ok(None),
        }
    }

    fn make(&self, cache_from: &CacheFrom, ahead: Option<&Ahead>) -> Result<ImageSet> {
        let Self {
            args,
            store,
            reporter,
            ..
        } = *self;
        let online = Online::open_all(self.specs, args.locking.offline, reporter)?;
        let lockers = self.lockers(&online, cache_from);
        let settled = lockers.current(&args.env)?;
        let threads = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let compressors = Compressors::new(threads, self.first()?.compression);
        let natives = natives(&lockers, &settled, &args.env);
        let made = |layer: &BuiltLayer| ahead.iter().for_each(|ahead| ahead.take(layer));
        let next = |layer: &Layer| self.early.iter().for_each(|early| early.take(layer));
        let order = match self.early {
            Some(_) => Order::LowestFirst,
            None => Order::LargestFirst,
        };
        let mut images = Vec::new();
        for (locker, (lock, ground)) in lockers.each().iter().zip(&settled) {
            let spec = locker.spec;
            let here = |layer: &BaseLayer| store.has_blob(&layer.digest, layer.size);
            if ground.image.layers.iter().all(here) {
                store.put_base(&spec.base_name(), &ground.image)?;
            }
            let tools = Tools {
                store,
                reporter,
                client: &locker.online.client,
                runtime: self.runtime.handle(),
                compressors: &compressors,
                decoders: Decoders::new(threads.get()),
                threads: threads.get().min(MOST_LAYERS),
                cache_from,
                natives: &natives,
                made: &made,
                next: &next,
                order,
            };
            let image = build::build(spec, lock, ground, &tools);
            let image =
                image.map_err(|e| lockers.explain(spec.machine, args.locking.explain(e)))?;
            say(&image, spec, self.specs.len(), reporter);
            let fetcher = Fetcher {
                client: &locker.online.client,
                store,
                reporter,
            };
            let fetching = args.attest.sbom.then_some(self.runtime);
            attest::keep(&image, (spec, lock), &fetcher, fetching)?;
            images.push(image);
        }
        match (images.len(), images.pop()) {
            (1, Some(image)) => Ok(ImageSet::one(image)),
            (_, last) => indexed(images.into_iter().chain(last).collect(), store, reporter),
        }
    }
}

fn nothing() -> Error {
    Error::new(Exit::Internal, "there is nothing to build for")
}

/// The environments of the lock that are for this machine: where an image is for another, their
/// Python compiles its files.
fn natives(lockers: &Lockers<'_>, settled: &[Settled], env: &Path) -> Vec<LockedEnv> {
    let Some(here) = Machine::here() else {
        return Vec::new();
    };
    let machines = lockers.each().iter().map(|locker| locker.spec.machine);
    if machines.clone().all(|machine| machine == here) {
        return Vec::new();
    }
    let built = machines.zip(settled).find(|(machine, _)| *machine == here);
    let lock = match built {
        Some((_, (lock, _))) => Some(lock.clone()),
        None => lockers.of_file(here, env),
    };
    let environments = lock.iter().flat_map(Lock::environments);
    environments.cloned().collect()
}

fn say(image: &Image, spec: &ImageSpec, specs: usize, reporter: &Reporter) {
    let of = match specs {
        1 => String::new(),
        _ => format!("{}, ", spec.machine),
    };
    reporter.step(format!(
        "Image  {} ({of}{} layers, {})",
        image.digest,
        image.layers.len(),
        human_bytes(image.layers.iter().map(|layer| layer.size).sum())
    ));
}

/// The index over images, which the store has afterwards.
fn indexed(images: Vec<Image>, store: &Store, reporter: &Reporter) -> Result<ImageSet> {
    let set = ImageSet::indexed(images)?;
    if let Some(index) = set.index() {
        store.put_blob(&index.bytes)?;
    }
    reporter.step(format!(
        "Index  {} ({} platforms)",
        set.digest(),
        set.images().len()
    ));
    Ok(set)
}

/// Names what was built in the store, if all its blobs are there. A name must not stay that of an
/// older image.
fn keep(set: &ImageSet, spec: &ImageSpec, store: &Store) -> Result<()> {
    let here = |layer: &Layer| store.has_blob(&layer.digest, layer.size);
    let layers = || set.images().iter().flat_map(|image| &image.layers);
    let whole = layers().all(here);
    for tag in &spec.tags {
        if !whole {
            store.forget_image(tag)?;
            continue;
        }
        store.put_image(&StoredImage {
            reference: tag.clone(),
            manifest: set.digest(),
            size: set.size(),
        })?;
    }
    let env = Path::new(&spec.env.file);
    store.put_last_build(env, set.digest(), set.size())
}
