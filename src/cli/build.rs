//! `imgbuild build`.

use std::{collections::BTreeMap, process::ExitCode, sync::Arc};

use super::{
    args::{BuildArgs, Format},
    builder::Builder,
    cache,
    cache_from::only_pushes,
    interruptible, open_store, print, probe, push, runtime, stoppable, warn_all, warnings,
};
use tokio::{runtime::Runtime, task::JoinHandle};

use crate::{
    build::BuildPlan,
    docker::{self, Daemon, Early},
    error::{Error, Exit, Result},
    image::ImageSet,
    machine::Machine,
    report::Reporter,
    sink::{
        ArchiveKind, Outgoing, Output, OutputKind, sweep_unfinished, write_archive, write_layout,
    },
    spec::ImageSpec,
    store::Store,
};

pub(super) fn run(args: BuildArgs, reporter: &Reporter) -> Result<ExitCode> {
    let runtime = runtime()?;
    // Found while the settings are read.
    let daemon = wants_daemon(&args).then(|| runtime.spawn(docker::connect()));
    let specs = ImageSpec::resolve(&args.env, args.overrides())?;
    warn_all(&warnings(&specs), reporter);
    if args.dry_run {
        return dry_run(&args, &specs, &runtime, reporter);
    }
    args.outputs.iter().try_for_each(Output::check)?;
    // What is not the platform's is the same in all of them.
    let Some(spec) = specs.first() else {
        return Err(Error::new(Exit::Internal, "there is nothing to build for"));
    };
    args.attest.check(args.push, &args.outputs)?;
    if args.push {
        push::check_online(args.locking.offline)?;
        push::check_names(&spec.tags)?;
    }
    check_one_platform(&args, &specs)?;
    let bound = cache::bound()?;
    let job = args.probe.then(|| probe::job(&args.job, &spec.probe));
    let store = open_store(reporter)?;
    let early = daemon.map(|daemon| early(daemon, spec, &runtime, &store, reporter));
    let early = early.transpose()?;
    let (outputs, begun) = (args.outputs.clone(), early.clone());
    let clean_up = move || {
        outputs.iter().for_each(sweep_unfinished);
        begun.iter().for_each(|early| early.stop());
    };
    let builder = Builder {
        args: &args,
        specs: &specs,
        store: &store,
        runtime: &runtime,
        reporter,
        early: early.as_deref(),
    };
    let built = stoppable(&runtime, reporter, clean_up, || {
        let built = builder.images()?;
        write_outputs(&built, &args, spec, &store, reporter)?;
        Ok(built)
    })?;
    let loading = early.as_deref().zip(built.single());
    let loading = loading.map(|(early, image)| docker::load(early, image, &spec.tags));
    let loaded = loading
        .map(|loading| runtime.block_on(interruptible(loading)))
        .transpose()?;
    print(built.digest());
    let exit = match (job, loaded) {
        (Some(job), Some(id)) => {
            let name = spec.tags.first().unwrap_or(&id);
            probe::probe_and_print(name, &job, Format::Text, &runtime, &store, reporter)?
        }
        _ => ExitCode::SUCCESS,
    };
    // An image that failed its probe is not given to others.
    if args.push && !only_pushes(&args) && exit == ExitCode::SUCCESS {
        let loader = push::loader(&args.locking.registries, &store, reporter);
        let names = args.attest.names(&built, &spec.tags)?;
        push::push(&built, &names, &runtime, &loader)?;
    }
    if args.push && exit == ExitCode::SUCCESS {
        let loader = push::loader(&args.locking.registries, &store, reporter);
        args.attest.attach(&built, &spec.tags, &runtime, &loader)?;
    }
    args.metadata.write(&built, &spec.tags)?;
    if let Some(bytes) = bound {
        cache::keep_bound(bytes, &built.digest(), &store, reporter);
    }
    Ok(exit)
}

/// Refuses, before anything is built, to give the images of several platforms to what holds one.
fn check_one_platform(args: &BuildArgs, specs: &[ImageSpec]) -> Result<()> {
    let docker = OutputKind::Archive(ArchiveKind::Docker);
    let taker = if args.load {
        "--load"
    } else if args.probe {
        "--probe"
    } else if args.outputs.iter().any(|output| output.kind == docker) {
        "type=docker-archive"
    } else {
        return Ok(());
    };
    let machine = Machine::here().unwrap_or_default();
    match specs.len() {
        1 => Ok(()),
        several => Err(Error::input(format!(
            "{taker} takes one platform, and there are {several}"
        ))
        .why("Docker does not load an image index (manifest list) from an archive")
        .hint(format!(
            "build again with --platform {machine}, which finds its layers in the cache; for all \
             platforms use --push or -o type=oci,dest=DIR"
        ))),
    }
}

/// Prints the plan; `--load`, `--push`, `--output`, `--probe` and the files for scripts have no effect.
fn dry_run(
    args: &BuildArgs,
    specs: &[ImageSpec],
    runtime: &Runtime,
    reporter: &Reporter,
) -> Result<ExitCode> {
    let store = open_store(reporter)?;
    let builder = Builder {
        args,
        specs,
        store: &store,
        runtime,
        reporter,
        early: None,
    };
    let plans = stoppable(runtime, reporter, || {}, || builder.plans())?;
    print_plans(&plans, args.format)
}

/// A plan by itself, or each under its platform.
fn print_plans(plans: &[(Machine, BuildPlan)], format: Format) -> Result<ExitCode> {
    let failed = |e| Error::new(Exit::Internal, "cannot write the plan").why(e);
    match (format, plans) {
        (Format::Text, [(_, plan)]) => print(plan),
        (Format::Text, plans) => {
            for (machine, plan) in plans {
                print(format_args!("{machine}\n{plan}"));
            }
        }
        (Format::Json, [(_, plan)]) => print(serde_json::to_string_pretty(plan).map_err(failed)?),
        (Format::Json, plans) => {
            let by_name = plans
                .iter()
                .map(|(machine, plan)| (machine.to_string(), plan));
            let by_name: BTreeMap<String, &BuildPlan> = by_name.collect();
            print(serde_json::to_string_pretty(&by_name).map_err(failed)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write_outputs(
    set: &ImageSet,
    args: &BuildArgs,
    spec: &ImageSpec,
    store: &Store,
    reporter: &Reporter,
) -> Result<()> {
    let attested = match args.outputs.iter().any(Output::holds_attestations) {
        true => args.attest.in_layout(set, (store, reporter))?,
        false => None,
    };
    let outgoing = Outgoing {
        set,
        attested: attested.as_ref(),
        names: &spec.tags,
    };
    for Output { kind, dest } in &args.outputs {
        match *kind {
            OutputKind::Oci => write_layout(&outgoing, dest, store),
            OutputKind::Archive(kind) => write_archive(&outgoing, kind, dest, store),
        }?;
        reporter.step(format!("Wrote {}", dest.display()));
    }
    Ok(())
}

fn wants_daemon(args: &BuildArgs) -> bool {
    (args.load || args.probe) && !args.dry_run
}

/// The daemon that the image is to be given to; layers go there while others are being made.
fn early(
    daemon: JoinHandle<Result<Daemon>>,
    spec: &ImageSpec,
    runtime: &Runtime,
    store: &Store,
    reporter: &Reporter,
) -> Result<Arc<Early>> {
    runtime.block_on(interruptible(async {
        let lost = |e| Error::new(Exit::Internal, "a thread was lost").why(e);
        let daemon = daemon.await.map_err(lost)??;
        Ok(Arc::new(Early::new(daemon, &spec.tags, store, reporter)))
    }))
}
