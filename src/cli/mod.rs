//! The command line: flags to settings, settings to commands, errors to exit statuses.

mod args;
mod attest;
mod auth;
mod build;
mod builder;
mod cache;
mod cache_from;
mod diff;
mod explain;
mod gate;
mod given;
mod init;
mod lock;
mod lock_base;
mod lock_file;
mod locks;
mod metadata;
mod online;
mod probe;
mod probe_args;
mod probe_attach;
mod probe_cluster;
mod progress;
mod push;
mod registry_args;
mod report_file;
mod sbom;
mod target;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    error::{Error, Exit, Result},
    image::{Image, ImageSet, Index, Manifest},
    report::Reporter,
    spec::{ImageSpec, check},
    store::Store,
};
use args::{Args, Command};

/// Runs the program. Results go to stdout, all else to stderr.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return progress::refuse(&error),
    };
    let reporter = match progress::reporter(args.progress, args.quiet) {
        Ok(reporter) => reporter,
        Err(error) => return progress::fail(&Reporter::stderr(true), &error),
    };
    match run(args.command, &reporter) {
        Ok(exit) => {
            reporter.end(progress::number(exit));
            exit
        }
        Err(error) => progress::fail(&reporter, &error),
    }
}

fn run(command: Command, reporter: &Reporter) -> Result<ExitCode> {
    // One provider for all of TLS; it can only be there already when a test runs in-process.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match command {
        Command::Lock(args) => lock::run(args, reporter),
        Command::Build(args) => build::run(*args, reporter),
        Command::Push(args) => push::run(&args, reporter),
        Command::Sbom(args) => sbom::run(&args, reporter),
        Command::Probe(args) => probe::run(args, reporter),
        Command::Diff(args) => diff::run(&args, reporter),
        Command::Init(args) => init::run(&args, reporter),
        Command::Explain(args) => explain::run(&args),
        Command::Auth(args) => auth::run(&args, reporter),
        Command::Cache(args) => cache::run(&args, reporter),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Error::environment("cannot start the I/O threads").why(e))
}

/// Runs a future; Ctrl-C and SIGTERM end it, so that guards in it can clean up.
async fn interruptible<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        done = work => done,
        stop = stopped() => Err(stop),
    }
}

/// Runs work on this thread; Ctrl-C and SIGTERM end the process wherever the work is, once
/// `clean_up` has run. What was being written to the cache is left to the next run.
fn stoppable<T>(
    runtime: &tokio::runtime::Runtime,
    reporter: &Reporter,
    clean_up: impl FnOnce() + Send + 'static,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let reporter = reporter.clone();
    let watcher = runtime.spawn(async move {
        let stop = stopped().await;
        clean_up();
        reporter.error(&stop);
        reporter.end(stop.exit() as u8);
        std::process::exit(stop.exit() as i32);
    });
    let done = work();
    watcher.abort();
    done
}

/// Waits for Ctrl-C or SIGTERM.
async fn stopped() -> Error {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminated = match signal(SignalKind::terminate()) {
        Ok(terminated) => terminated,
        Err(e) => return Error::environment("cannot listen for signals").why(e),
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated.recv() => {}
    }
    Error::new(Exit::Interrupted, "stopped")
}

/// Opens the user's cache; waits while another imgbuild removes things from it.
fn open_store(reporter: &Reporter) -> Result<Store> {
    Store::open_or_wait(Store::default_root()?, || {
        reporter.step("Waiting for another imgbuild that removes things from the cache");
    })
}

/// The image, or images, that imgbuild's own store has under this name.
fn stored(name: &str, store: &Store) -> Result<Option<ImageSet>> {
    let Some(found) = check::tag(name).ok().and_then(|full| store.image(&full)) else {
        return Ok(None);
    };
    let image = |manifest: Vec<u8>| {
        let config = store.read_blob(&Manifest::parse(&manifest)?.config.digest)?;
        Image::from_documents(manifest, config)
    };
    let document = store.read_blob(&found.manifest)?;
    let Ok(index) = Index::parse(&document) else {
        return Ok(Some(ImageSet::one(image(document)?)));
    };
    let images = index.manifests.iter();
    let images = images.map(|entry| image(store.read_blob(&entry.digest)?));
    let images = images.collect::<Result<_>>()?;
    Ok(Some(ImageSet::stored(document, images)))
}

/// Prints a result. A closed pipe is the reader's wish, not an error.
fn print(line: impl std::fmt::Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// What the specs of one command warn of, each once.
fn warnings(specs: &[ImageSpec]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for warning in specs.iter().flat_map(|spec| &spec.warnings) {
        if !all.contains(warning) {
            all.push(warning.clone());
        }
    }
    all
}

fn warn_all(warnings: &[String], reporter: &Reporter) {
    for warning in warnings {
        reporter.warn(warning);
    }
}
