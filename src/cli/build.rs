//! `imgbuild build`.

use std::{num::NonZeroUsize, path::Path, process::ExitCode, thread};

use tokio::runtime::Runtime;

use super::{
    args::{BuildArgs, Format},
    cache,
    cache_from::{only_pushes, wanted},
    interruptible,
    lock::Locker,
    online::Online,
    open_store, print, probe, push, runtime, stoppable, warn_all,
};
use crate::{
    base::{BaseLayer, BaseSource, Ground, Loader, Platform},
    build::{self, BuildPlan, Planned, Tools},
    cache_from::{CacheFrom, Origins, in_a_line},
    docker,
    error::{Error, Exit, Result},
    image::{Image, Layer},
    layer::Compressors,
    lock::Lock,
    package::Decoders,
    registry,
    report::{Reporter, human_bytes},
    sink::{Output, OutputKind, sweep_unfinished, write_archive, write_layout},
    spec::ImageSpec,
    store::{Store, StoredImage},
};

/// Layers that are made at once at most. Each takes about 1 GB of tar a second and memory for
/// decoding; more only help where nothing else is the limit.
const MOST_LAYERS: usize = 8;

pub(super) fn run(args: BuildArgs, reporter: &Reporter) -> Result<ExitCode> {
    let spec = ImageSpec::resolve(&args.env, args.overrides())?;
    warn_all(&spec.warnings, reporter);
    if args.dry_run {
        return dry_run(&args, &spec, reporter);
    }
    args.outputs.iter().try_for_each(Output::check)?;
    if args.push {
        push::check_online(args.locking.offline)?;
        push::check_names(&spec.tags)?;
    }
    let bound = cache::bound()?;
    let job = args.probe.then(|| probe::job(&args.job, &spec.probe));
    let store = open_store(reporter)?;
    let runtime = runtime()?;
    let outputs = args.outputs.clone();
    let clean_up = move || outputs.iter().for_each(sweep_unfinished);
    let builder = Builder {
        args: &args,
        spec: &spec,
        store: &store,
        runtime: &runtime,
        reporter,
    };
    let image = stoppable(&runtime, reporter, clean_up, || {
        let image = builder.image()?;
        for output in &args.outputs {
            write_output(&image, &spec, output, &store)?;
            reporter.step(format!("Wrote {}", output.dest.display()));
        }
        Ok(image)
    })?;
    let loaded = match args.load || args.probe {
        true => Some(runtime.block_on(interruptible(load(&image, &spec.tags, &store, reporter)))?),
        false => None,
    };
    print(image.digest);
    let exit = match (job, loaded) {
        (Some(job), Some(id)) => {
            let name = spec.tags.first().unwrap_or(&id);
            probe::probe_and_print(name, &job, Format::Text, &runtime, &store, reporter)?
        }
        _ => ExitCode::SUCCESS,
    };
    // An image that failed its probe is not given to others.
    if args.push && !only_pushes(&args) && exit == ExitCode::SUCCESS {
        push::push(&image, &spec.tags, &runtime, &store, reporter)?;
    }
    args.metadata.write(&image, &spec.tags)?;
    if let Some(bytes) = bound {
        cache::keep_bound(bytes, &image.digest, &store, reporter);
    }
    Ok(exit)
}

/// Prints the plan; `--load`, `--output`, `--probe` and the files for scripts have no effect.
fn dry_run(args: &BuildArgs, spec: &ImageSpec, reporter: &Reporter) -> Result<ExitCode> {
    let store = open_store(reporter)?;
    let runtime = runtime()?;
    let builder = Builder {
        args,
        spec,
        store: &store,
        runtime: &runtime,
        reporter,
    };
    let plan = stoppable(&runtime, reporter, || {}, || builder.plan())?;
    match args.format {
        Format::Text => print(plan),
        Format::Json => print(
            serde_json::to_string_pretty(&plan)
                .map_err(|e| Error::new(Exit::Internal, "cannot write the plan").why(e))?,
        ),
    }
    Ok(ExitCode::SUCCESS)
}

/// What a build needs.
struct Builder<'a> {
    args: &'a BuildArgs,
    spec: &'a ImageSpec,
    store: &'a Store,
    runtime: &'a Runtime,
    reporter: &'a Reporter,
}

impl Builder<'_> {
    /// Builds the image; one that only goes to registries is pushed too, so that its layers need
    /// not come here. Others have all layers in the store then.
    ///
    /// What cannot be taken over after all, because a registry does not have what it told of, is
    /// built.
    fn image(&self) -> Result<Image> {
        let loader = self.loader();
        let mut cache_from = self.cache_from(&loader);
        loop {
            let image = self.make(&cache_from)?;
            let origins = Origins::of(&image, &cache_from, &self.spec.base, &loader);
            let Err(e) = self.give(&image, &origins) else {
                return Ok(image);
            };
            let Some(name) = origins.failed() else {
                return Err(e);
            };
            self.reporter.warn(format!(
                "--cache-from {name} is not used, its layers are built: {}",
                in_a_line(&e)
            ));
            cache_from.forget(&name);
        }
    }

    fn loader(&self) -> Loader {
        Loader {
            store: self.store.clone(),
            reporter: self.reporter.clone(),
            platform: Platform::linux_amd64(),
            offline: self.args.locking.offline,
        }
    }

    fn cache_from(&self, loader: &Loader) -> CacheFrom {
        let wanted = wanted(self.args, self.spec);
        if loader.offline && !wanted.is_empty() {
            self.reporter
                .warn("--cache-from is not used: --offline asks no registry");
            return CacheFrom::default();
        }
        self.runtime.block_on(CacheFrom::read(&wanted, loader))
    }

    fn give(&self, image: &Image, origins: &Origins<'_>) -> Result<()> {
        if !only_pushes(self.args) {
            self.runtime.block_on(origins.bring_all())?;
            return keep(image, self.spec, self.store);
        }
        keep(image, self.spec, self.store)?;
        let push = registry::push(image, &self.spec.tags, origins, self.reporter);
        self.runtime.block_on(push)
    }

    fn plan(&self) -> Result<BuildPlan> {
        let Self {
            args,
            spec,
            store,
            reporter,
            ..
        } = *self;
        let online = Online::open(spec, args.locking.offline, reporter)?;
        let cache_from = self.cache_from(&self.loader());
        let locker = self.locker(&online, &cache_from);
        let lock = locker.planned(&args.env)?;
        let ground = self.ground_here(&lock, &locker)?;
        let known = Planned {
            ground: ground.as_ref(),
            store,
            cache_from: &cache_from,
            reporter,
        };
        build::dry_run(spec, &lock, &known)
    }

    fn locker<'a>(&'a self, online: &'a Online, cache_from: &'a CacheFrom) -> Locker<'a> {
        Locker {
            spec: self.spec,
            store: self.store,
            online,
            runtime: self.runtime.handle(),
            reporter: self.reporter,
            locking: &self.args.locking,
            cache_from,
        }
    }

    /// The base image, unless its layers would have to come over a network or from a daemon.
    fn ground_here(&self, lock: &Lock, locker: &Locker<'_>) -> Result<Option<Ground>> {
        let base = match &self.spec.base {
            BaseSource::Registry(_) | BaseSource::DockerDaemon(_) => {
                self.store.base(&self.spec.base.to_string())
            }
            _ => Some(locker.load_base(None)?),
        };
        if let Some(base) = base {
            return locker.ground(base).map(Some);
        }
        match &self.spec.base {
            BaseSource::Registry(_) if !locker.cache_from.is_empty() => {
                Ok(locker.known_ground(&locker.load_base(Some(lock))?))
            }
            _ => Ok(None),
        }
    }

    fn make(&self, cache_from: &CacheFrom) -> Result<Image> {
        let Self {
            args,
            spec,
            store,
            runtime,
            reporter,
        } = *self;
        let online = Online::open(spec, args.locking.offline, reporter)?;
        let locker = self.locker(&online, cache_from);
        let (lock, ground) = locker.current(&args.env)?;
        let here = |layer: &BaseLayer| store.has_blob(&layer.digest, layer.size);
        if ground.image.layers.iter().all(here) {
            store.put_base(&spec.base.to_string(), &ground.image)?;
        }
        let threads = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let tools = Tools {
            store,
            reporter,
            client: &online.client,
            runtime: runtime.handle(),
            compressors: &Compressors::new(threads, spec.compression),
            decoders: Decoders::new(threads.get()),
            threads: threads.get().min(MOST_LAYERS),
            cache_from,
        };
        let image =
            build::build(spec, &lock, &ground, &tools).map_err(|e| args.locking.explain(e))?;
        reporter.step(format!(
            "Image  {} ({} layers, {})",
            image.digest,
            image.layers.len(),
            human_bytes(image.layers.iter().map(|layer| layer.size).sum())
        ));
        Ok(image)
    }
}

/// Names the image in the store, if all its blobs are there. A name must not stay that of an older
/// image.
fn keep(image: &Image, spec: &ImageSpec, store: &Store) -> Result<()> {
    let here = |layer: &Layer| store.has_blob(&layer.digest, layer.size);
    let whole = image.layers.iter().all(here);
    for tag in &spec.tags {
        if !whole {
            store.forget_image(tag)?;
            continue;
        }
        store.put_image(&StoredImage {
            reference: tag.clone(),
            manifest: image.digest,
            size: image.manifest.len() as u64,
        })?;
    }
    let env = Path::new(&spec.env.file);
    store.put_last_build(env, image.digest, image.manifest.len() as u64)
}

fn write_output(image: &Image, spec: &ImageSpec, output: &Output, store: &Store) -> Result<()> {
    match output.kind {
        OutputKind::Oci => write_layout(image, &spec.tags, &output.dest, store),
        OutputKind::Archive(kind) => write_archive(image, &spec.tags, kind, &output.dest, store),
    }
}

/// Returns the ID under which the daemon holds the image.
async fn load(
    image: &Image,
    tags: &[String],
    store: &Store,
    reporter: &Reporter,
) -> Result<String> {
    let daemon = docker::connect().await?;
    docker::load(&daemon, image, tags, store, reporter).await
}
