//! `imgbuild probe`, and the probe at the end of `imgbuild build --probe`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use tokio::runtime::Runtime;

use super::{
    args::Format,
    interruptible, open_store, print,
    probe_args::{JobArgs, ProbeArgs},
    probe_attach::{Attach, Target, check_attached, probed},
    probe_cluster,
    report_file::{ReportFile, json},
    runtime, stored,
};
use crate::{
    error::{Exit, Result},
    machine::Machine,
    probe::{self, Backend, DEFAULT_TIMEOUT, ProbeReport, ProbeRequest, Stored},
    report::Reporter,
    spec::ProbeSpec,
    store::Store,
};

/// Ranks when nothing is said: a node with four GPUs, or a CPU job that stands in for one.
const DEFAULT_RANKS: u32 = 4;

/// What to run, without the image, and what becomes of the report.
pub(super) struct Job {
    backend: Backend,
    timeout: Duration,
    stall_timeout: Option<Duration>,
    shm_size: Option<u64>,
    memory: Option<u64>,
    min_efficiency: Option<u32>,
    reports: Vec<ReportFile>,
    attach: Option<Attach>,
}

impl Job {
    fn request(&self) -> ProbeRequest {
        ProbeRequest {
            timeout: self.timeout,
            stall_timeout: self.stall_timeout,
            shm_size: self.shm_size,
            memory: self.memory,
            min_efficiency: self.min_efficiency,
            ..ProbeRequest::new(self.backend)
        }
    }
}

pub(super) fn run(mut args: ProbeArgs, reporter: &Reporter) -> Result<ExitCode> {
    let settings = args.registries.settings();
    let attach = args.attach.take().map(|to| Attach { to, settings });
    let job = Job {
        attach,
        ..job(&args.job, &ProbeSpec::default())
    };
    if let Some(path) = &args.read {
        return read(path, &job, args.format, reporter);
    }
    if let Some(engine) = args.emit {
        return probe_cluster::emit(engine, &args, job.request(), reporter);
    }
    let Some(image) = &args.image else {
        return on_host(args.python, &job, args.format, reporter);
    };
    if args.check_attached {
        let settings = args.registries.settings();
        let gpus = args.job.gpus.unwrap_or(1);
        let check = check_attached(image, gpus, &settings, reporter);
        return show(
            &runtime()?.block_on(interruptible(check))?,
            &job,
            args.format,
        );
    }
    let store = open_store(reporter)?;
    probe_and_print(image, &job, args.format, &runtime()?, &store, reporter)
}

/// A verdict on what a cluster ran.
fn read(path: &Path, job: &Job, format: Format, reporter: &Reporter) -> Result<ExitCode> {
    let report = probe_cluster::read(path)?;
    let exit = show(&report, job, format)?;
    if let Some(attach) = &job.attach {
        let (image, _) = probed(&report)?;
        let work = async {
            let target = Target::to_write(image, attach, reporter).await?;
            target.attach(&report, reporter).await
        };
        runtime()?.block_on(interruptible(work))?;
    }
    Ok(exit)
}

fn on_host(
    python: Option<PathBuf>,
    job: &Job,
    format: Format,
    reporter: &Reporter,
) -> Result<ExitCode> {
    let python = python.unwrap_or_else(probe::default_python);
    let request = job.request();
    let work = probe::probe_host(&python, &request, reporter);
    let report = runtime()?.block_on(interruptible(work))?;
    show(&report, job, format)
}

/// Flags first, then imgbuild.yaml's `probe:`.
pub(super) fn job(args: &JobArgs, spec: &ProbeSpec) -> Job {
    let backend = match (args.gpus, args.cpu) {
        (Some(gpus), _) => Backend::Gpus(gpus),
        (None, true) => Backend::Cpu {
            nproc: args.nproc.or(spec.nproc).unwrap_or(DEFAULT_RANKS),
        },
        (None, false) => Backend::Gpus(spec.gpus.unwrap_or(DEFAULT_RANKS)),
    };
    Job {
        backend,
        timeout: args
            .timeout
            .or(spec.timeout)
            .map_or(DEFAULT_TIMEOUT, Duration::from_secs),
        stall_timeout: args.stall_timeout.map(Duration::from_secs),
        shm_size: args.shm_size.or(spec.shm_size),
        memory: args.memory,
        min_efficiency: args.min_efficiency.or(spec.min_efficiency),
        reports: args.reports.clone(),
        attach: None,
    }
}

pub(super) fn probe_and_print(
    image: &str,
    job: &Job,
    format: Format,
    runtime: &Runtime,
    store: &Store,
    reporter: &Reporter,
) -> Result<ExitCode> {
    let request = job.request();
    let stored = stored(image, store)?;
    let (report, target) = runtime.block_on(interruptible(async {
        let daemon = probe::connect().await?;
        let here = Machine::here().unwrap_or_default();
        let stored = stored.as_ref().and_then(|set| set.for_machine(here));
        let stored = stored.map(|image| Stored { image, store });
        let mut target = None;
        if let Some(attach) = &job.attach {
            // Told before the job runs, not after.
            let found = Target::to_write(image, attach, reporter).await?;
            if let Some(id) = probe::image_id(image, &daemon, stored).await? {
                found.check(&id)?;
            }
            target = Some(found);
        }
        let report = probe::probe(image, &request, &daemon, stored, reporter).await?;
        Ok((report, target))
    }))?;
    let exit = show(&report, job, format)?;
    if let Some(target) = target {
        runtime.block_on(interruptible(target.attach(&report, reporter)))?;
    }
    Ok(exit)
}

fn show(report: &ProbeReport, job: &Job, format: Format) -> Result<ExitCode> {
    match format {
        Format::Text => print(report),
        Format::Json => print(json(report)?),
    }
    job.reports.iter().try_for_each(|file| file.write(report))?;
    Ok(if report.passed() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(Exit::ProbeFailed as u8)
    })
}
