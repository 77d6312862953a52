//! `imgbuild probe`, and the probe at the end of `imgbuild build --probe`.

use std::{process::ExitCode, time::Duration};

use tokio::runtime::Runtime;

use super::{
    args::{Format, JobArgs, ProbeArgs},
    interruptible, print, runtime, stored,
};
use crate::{
    error::{Error, Exit, Result},
    probe::{self, Backend, DEFAULT_TIMEOUT, ProbeReport, ProbeRequest, Stored},
    report::Reporter,
    spec::ProbeSpec,
    store::Store,
};

/// Ranks when nothing is said: a node with four GPUs, or a CPU job that stands in for one.
const DEFAULT_RANKS: u32 = 4;

/// What to run, without the image.
pub(super) struct Job {
    backend: Backend,
    timeout: Duration,
    shm_size: Option<u64>,
}

pub(super) fn run(args: ProbeArgs, reporter: &Reporter) -> Result<ExitCode> {
    let job = job(&args.job, &ProbeSpec::default());
    let store = Store::open(Store::default_root()?)?;
    probe_and_print(
        &args.image,
        &job,
        args.format,
        &runtime()?,
        &store,
        reporter,
    )
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
        shm_size: args.shm_size.or(spec.shm_size),
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
    let request = ProbeRequest {
        timeout: job.timeout,
        shm_size: job.shm_size,
        ..ProbeRequest::new(image, job.backend)
    };
    let stored = stored(image, store)?;
    let report = runtime.block_on(interruptible(async {
        let daemon = probe::connect().await?;
        let stored = stored.as_ref().map(|image| Stored { image, store });
        probe::probe(&request, &daemon, stored, reporter).await
    }))?;
    print_report(&report, format)?;
    Ok(if report.passed() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(Exit::ProbeFailed as u8)
    })
}

fn print_report(report: &ProbeReport, format: Format) -> Result<()> {
    match format {
        Format::Text => print(report),
        Format::Json => print(
            serde_json::to_string_pretty(report)
                .map_err(|e| Error::new(Exit::Internal, "cannot write the report").why(e))?,
        ),
    }
    Ok(())
}
