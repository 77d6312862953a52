//! Running a probe in a daemon.

use std::collections::HashMap;

use super::{
    before::{Before, driver_here},
    gpus,
    output::Output,
    report::{DaemonInfo, ImageInfo, Place, ProbeReport, RunFacts},
    spec::{GRACE, ProbeRequest, run_spec},
};
use crate::{
    docker::{self, Channel, Daemon, Limits, Outcome},
    error::{Error, Exit, Result},
    image::{ENTRYPOINT_LABEL, Image},
    report::Reporter,
    store::Store,
};

/// A shell's and an init's statuses for "no such program" and "not executable".
const NOT_FOUND: [i64; 2] = [127, 126];

/// An image that imgbuild's own store has under the name that is to be probed.
#[derive(Clone, Copy)]
pub struct Stored<'a> {
    /// The image.
    pub image: &'a Image,
    /// Its blobs.
    pub store: &'a Store,
}

/// What the daemon says about the image to probe.
struct Found {
    id: String,
    labels: HashMap<String, String>,
    wrapper: Option<String>,
}

/// As [`docker::connect`], for a probe: without a daemon it cannot run.
///
/// # Errors
/// As there, with the exit status of a probe that could not run.
pub async fn connect() -> Result<Daemon> {
    docker::connect()
        .await
        .map_err(|e| e.with_exit(Exit::ProbeNotRun))
}

/// Runs the job in the image and judges it. A job that ran and failed is a report, not an error.
///
/// Safe to drop, as Ctrl-C does: the container is gone when the drop returns.
///
/// # Errors
/// With `Exit::ProbeNotRun` when the job could not be started: no such image, no GPUs to be had,
/// no Python or torch in the image.
pub async fn probe(
    image: &str,
    request: &ProbeRequest,
    daemon: &Daemon,
    stored: Option<Stored<'_>>,
    reporter: &Reporter,
) -> Result<ProbeReport> {
    if request.backend.ranks() == 0 {
        return Err(Error::input("a probe needs at least one process"));
    }
    let mut before = Before::start();
    let host = daemon.host().await;
    let host = host.map_err(|e| e.with_exit(Exit::ProbeNotRun))?;
    before.daemon(daemon, host.local);
    let gpus = gpus::plan(request, daemon, &host)?;
    before.gpu_runtime(gpus.as_ref());
    before.gpus(request.backend, gpus::visible(&host));
    let found = find_image(image, daemon, stored, reporter).await?;
    let driver = host.local.then(driver_here).flatten();
    before.driver(request.backend, driver.as_deref(), &found.labels)?;
    before.given(request, gpus.is_some());
    let spec = run_spec(request, &found.id, found.wrapper.as_deref(), gpus);
    let limits = Limits {
        wall: request.timeout,
        grace: GRACE,
    };
    reporter.step(format!(
        "Probing {} with {} ranks over {}",
        image,
        request.backend.ranks(),
        request.backend.name()
    ));
    let mut output = Output::default();
    let mut each_line = |channel: Channel, line: &str| {
        if let Some(progress) = output.take(channel, line) {
            reporter.step(format_args!("  {progress}"));
        }
    };
    let outcome = docker::run_container(&daemon.docker, &spec, limits, reporter, &mut each_line)
        .await
        .map_err(|refusal| gpus::explain(&refusal, image, request.backend, &daemon.how))?;
    if let Some(error) = never_began(image, &outcome, &output) {
        return Err(error);
    }
    let facts = RunFacts {
        backend: request.backend,
        place: Place::Container {
            image: ImageInfo {
                name: image.to_owned(),
                id: found.id,
            },
            daemon: DaemonInfo {
                address: daemon.how.clone(),
                version: daemon.facts.server.clone(),
            },
            shm_size: request.shm(),
        },
        timeout: request.timeout,
        outcome,
    };
    Ok(ProbeReport::new(facts, &output).after(before.checks()))
}

/// The ID of the image that [`probe`] would run, if there is one: the daemon's, else the stored one's.
///
/// # Errors
/// With `Exit::ProbeNotRun` when the daemon does not tell.
pub async fn image_id(
    image: &str,
    daemon: &Daemon,
    stored: Option<Stored<'_>>,
) -> Result<Option<String>> {
    let found = inspect(daemon, image).await?.map(|found| found.id);
    Ok(found.or_else(|| Some(stored?.image.config_digest.to_string())))
}

async fn find_image(
    name: &str,
    daemon: &Daemon,
    stored: Option<Stored<'_>>,
    reporter: &Reporter,
) -> Result<Found> {
    let not_run = |e: Error| e.with_exit(Exit::ProbeNotRun);
    let found = match (inspect(daemon, name).await?, stored) {
        (Some(found), Some(stored)) => {
            if !docker::is_id_of(stored.image, Some(&found.id)) {
                reporter.warn(format_args!(
                    "Docker's '{name}' is not the image that imgbuild built last under this name; \
                     probing Docker's\n  hint: imgbuild build ... --load gives Docker the new one"
                ));
            }
            Some(found)
        }
        (None, Some(stored)) => {
            reporter.step(format!(
                "Docker does not hold {name}, imgbuild's store does: loading it"
            ));
            let names: &[String] = match name.starts_with("sha256:") {
                true => &[],
                false => &[name.to_owned()],
            };
            docker::load(
                &docker::Early::new(daemon.clone(), names, stored.store, reporter),
                stored.image,
                names,
            )
            .await
            .map_err(not_run)?;
            inspect(daemon, name).await?
        }
        (found, None) => found,
    };
    found.ok_or_else(|| {
        Error::new(Exit::ProbeNotRun, format!("there is no image '{name}'"))
            .at(&daemon.how)
            .why("neither the Docker daemon nor imgbuild's store has it")
            .hint(format!(
                "imgbuild build env.yml -t {name} --load, or docker pull {name}"
            ))
    })
}

async fn inspect(daemon: &Daemon, name: &str) -> Result<Option<Found>> {
    match daemon.docker.inspect_image(name).await {
        Ok(image) => {
            let mut labels = image
                .config
                .and_then(|config| config.labels)
                .unwrap_or_default();
            Ok(Some(Found {
                id: image.id.unwrap_or_else(|| name.to_owned()),
                wrapper: labels.remove(ENTRYPOINT_LABEL),
                labels,
            }))
        }
        Err(e) if docker::is_absent(&e) => Ok(None),
        Err(e) => Err(Error::new(
            Exit::ProbeNotRun,
            format!("the Docker daemon does not tell of '{name}'"),
        )
        .at(&daemon.how)
        .why(docker::words(&e))),
    }
}

/// The image lacks what the job needs even to begin: that is no verdict on the machine.
fn never_began(image: &str, outcome: &Outcome, output: &Output) -> Option<Error> {
    if !output.ranks.is_empty() || outcome.timed_out {
        return None;
    }
    let code = outcome.exit_code?;
    let last = || output.stderr_tail(1).pop().unwrap_or_default();
    if NOT_FOUND.contains(&code) {
        return Some(gpus::no_python(image, &last()));
    }
    // With the closing quote: 'torch.distributed' would be a torch that is there, but broken.
    let line = (code != 0).then(|| output.stderr_with(&["No module named 'torch'"]))??;
    Some(gpus::no_torch(image, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: i64, line: &str) -> Option<String> {
        let mut output = Output::default();
        output.take(Channel::Err, line);
        let outcome = Outcome {
            exit_code: Some(code),
            ..Outcome::default()
        };
        never_began("x", &outcome, &output).map(|e| {
            assert_eq!(e.exit(), Exit::ProbeNotRun);
            e.to_string()
        })
    }

    #[test]
    fn an_image_without_python_or_torch_is_no_verdict() {
        let tini = "[FATAL tini (7)] exec python failed: No such file or directory";
        assert!(error(127, tini).unwrap().contains("no Python"));
        let spec = "/opt/conda/bin/python: Error while finding module specification for \
                    'torch.distributed.run' (ModuleNotFoundError: No module named 'torch')";
        assert!(error(1, spec).unwrap().contains("no torch"));
        assert_eq!(error(1, "ImportError: libcudart.so.12: cannot open"), None);
        assert_eq!(
            error(1, "python: No module named torch.distributed.run"),
            None
        );
        assert_eq!(error(0, "No module named 'torch'"), None);
    }
}
