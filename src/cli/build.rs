//! `imgbuild build`.

use std::{num::NonZeroUsize, path::Path, process::ExitCode, thread};

use super::{
    args::{BuildArgs, Format},
    cache, interruptible,
    lock::Locker,
    online::Online,
    open_store, print, probe, push, runtime, stoppable, warn_all,
};
use crate::{
    base::{BaseImage, BaseSource},
    build::{self, Tools},
    docker,
    error::{Error, Exit, Result},
    image::Image,
    layer::Compressors,
    package::Decoders,
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
    let image = stoppable(&runtime, reporter, clean_up, || {
        let image = make(&args, &spec, &store, &runtime, reporter)?;
        keep(&image, &spec, &store)?;
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
    if args.push && exit == ExitCode::SUCCESS {
        push::push(&image, &spec.tags, &runtime, &store, reporter)?;
    }
    args.metadata.write(&image, &spec.tags)?;
    if let Some(bytes) = bound {
        cache::keep_bound(bytes, &image.digest, &store, reporter);
    }
    Ok(exit)
}

/// Prints the plan; `--load`, `--push`, `--output`, `--probe` and the files for scripts have no effect.
fn dry_run(args: &BuildArgs, spec: &ImageSpec, reporter: &Reporter) -> Result<ExitCode> {
    let store = open_store(reporter)?;
    let runtime = runtime()?;
    let plan = stoppable(
        &runtime,
        reporter,
        || {},
        || {
            let online = Online::open(spec, args.locking.offline, reporter)?;
            let locker = Locker {
                spec,
                store: &store,
                online: &online,
                runtime: runtime.handle(),
                reporter,
                locking: &args.locking,
            };
            let lock = locker.planned(&args.env)?;
            let base = base_here(spec, &store, &locker)?;
            build::dry_run(spec, &lock, base.as_ref(), &store, reporter)
        },
    )?;
    match args.format {
        Format::Text => print(plan),
        Format::Json => print(
            serde_json::to_string_pretty(&plan)
                .map_err(|e| Error::new(Exit::Internal, "cannot write the plan").why(e))?,
        ),
    }
    Ok(ExitCode::SUCCESS)
}

/// The base image, unless that needs a network or a daemon.
fn base_here(spec: &ImageSpec, store: &Store, locker: &Locker<'_>) -> Result<Option<BaseImage>> {
    match &spec.base {
        BaseSource::Registry(_) | BaseSource::DockerDaemon(_) => {
            Ok(store.base(&spec.base.to_string()))
        }
        _ => locker.load_base(None).map(Some),
    }
}

fn make(
    args: &BuildArgs,
    spec: &ImageSpec,
    store: &Store,
    runtime: &tokio::runtime::Runtime,
    reporter: &Reporter,
) -> Result<Image> {
    let online = Online::open(spec, args.locking.offline, reporter)?;
    let locker = Locker {
        spec,
        store,
        online: &online,
        runtime: runtime.handle(),
        reporter,
        locking: &args.locking,
    };
    let (lock, base) = locker.current(&args.env)?;
    store.put_base(&spec.base.to_string(), &base)?;
    let threads = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let tools = Tools {
        store,
        reporter,
        client: &online.client,
        runtime: runtime.handle(),
        compressors: &Compressors::new(threads, spec.compression),
        decoders: Decoders::new(threads.get()),
        threads: threads.get().min(MOST_LAYERS),
    };
    let image = build::build(spec, &lock, &base, &tools).map_err(|e| args.locking.explain(e))?;
    reporter.step(format!(
        "Image  {} ({} layers, {})",
        image.digest,
        image.layers.len(),
        human_bytes(image.layers.iter().map(|layer| layer.size).sum())
    ));
    Ok(image)
}

/// Names the image in the store; its blobs are there already.
fn keep(image: &Image, spec: &ImageSpec, store: &Store) -> Result<()> {
    for tag in &spec.tags {
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
