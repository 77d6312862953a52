//! Whether GPUs can be had, before and when a container asks for them.

use std::{fs, path::Path, process::Command};

use super::spec::{Backend, ProbeRequest};
use crate::{
    docker::{Daemon, GpuRequest, HostFacts, Refusal},
    error::{Error, Exit, Result},
};

const CPU_WAY: &str = "to test the software path without GPUs: imgbuild probe IMAGE --cpu";
/// With this program on its PATH, dockerd serves `--gpus` without a configured runtime.
const HOOK: &str = "nvidia-container-runtime-hook";

/// What this machine, when the daemon runs on it, tells about GPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Host {
    /// Whether dockerd can be expected to find NVIDIA's hook.
    pub hook: bool,
    /// NVIDIA devices in CDI specifications: `nvidia.com/gpu=0`.
    pub cdi: bool,
    /// How many GPUs there are, when that can be known.
    pub gpus: Option<u32>,
}

/// How to ask for the GPUs of a request; `None` when it asks for none.
///
/// # Errors
/// When the daemon cannot give them, as far as that is known before a container is made.
pub(super) fn plan(
    request: &ProbeRequest,
    daemon: &Daemon,
    facts: &HostFacts,
) -> Result<Option<GpuRequest>> {
    let Backend::Gpus(wanted) = request.backend else {
        return Ok(None);
    };
    if daemon.facts.podman {
        return Err(through_podman(wanted).at(&daemon.how));
    }
    let host = facts.local.then(|| look_around(facts));
    choose(wanted, facts, host.as_ref(), &daemon.how).map(Some)
}

/// Whether this machine itself has the GPUs, as far as that is known before the job begins.
///
/// # Errors
/// When it has no driver that tells of any, or too few.
pub(super) fn on_this_machine(backend: Backend) -> Result<()> {
    let Backend::Gpus(wanted) = backend else {
        return Ok(());
    };
    match count_gpus() {
        Some(have) if have < wanted => Err(too_few(wanted, &format!("this machine has {have}"))),
        // The job's own first check tells more than we could without a driver.
        _ => Ok(()),
    }
}

/// The choice itself. `host` is `None` for a daemon elsewhere: its own errors must tell then.
fn choose(wanted: u32, facts: &HostFacts, host: Option<&Host>, how: &str) -> Result<GpuRequest> {
    let runtime = facts.runtimes.iter().any(|name| name.contains("nvidia"));
    let hook = runtime || host.is_some_and(|host| host.hook);
    let cdi = facts.knows_nvidia() || host.is_some_and(|host| host.cdi);
    if host.is_some() && !hook && !cdi {
        return Err(no_runtime("it has neither an NVIDIA runtime nor a CDI device").at(how));
    }
    let told = facts.cdi_devices.iter().filter(|id| is_one_gpu(id)).count();
    let told = (told > 0).then(|| u32::try_from(told).unwrap_or(u32::MAX));
    if let Some(have) = host
        .and_then(|host| host.gpus)
        .or(told)
        .filter(|&have| have < wanted)
    {
        return Err(too_few(wanted, &format!("the daemon's host has {have}")).at(how));
    }
    Ok(if cdi && !hook {
        GpuRequest::Cdi((0..wanted).map(|n| format!("nvidia.com/gpu={n}")).collect())
    } else {
        GpuRequest::Count(wanted)
    })
}

/// How many GPUs the daemon's host has, when that can be known.
pub(super) fn visible(facts: &HostFacts) -> Option<u32> {
    let told = facts.cdi_devices.iter().filter(|id| is_one_gpu(id)).count();
    let told = (told > 0).then(|| u32::try_from(told).unwrap_or(u32::MAX));
    facts.local.then(count_gpus).flatten().or(told)
}

/// `nvidia.com/gpu=0`, not `=all` nor a UUID of the same GPU.
fn is_one_gpu(id: &str) -> bool {
    id.strip_prefix("nvidia.com/gpu=")
        .is_some_and(|n| n.parse::<u32>().is_ok())
}

fn look_around(facts: &HostFacts) -> Host {
    let hook = [
        "/usr/bin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/local/nvidia/toolkit",
    ]
    .iter()
    .any(|folder| Path::new(folder).join(HOOK).exists());
    Host {
        hook,
        cdi: facts.cdi_dirs.iter().any(|folder| names_gpus(folder)),
        gpus: count_gpus(),
    }
}

fn names_gpus(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else {
        return false;
    };
    entries
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .any(|text| text.contains("nvidia.com/gpu"))
}

/// `None` without a driver that tells: a GPU may still be reachable in a way unknown here.
pub(super) fn count_gpus() -> Option<u32> {
    if let Ok(entries) = fs::read_dir("/proc/driver/nvidia/gpus") {
        return u32::try_from(entries.count()).ok();
    }
    let listed = Command::new("nvidia-smi").arg("-L").output().ok()?;
    let text = String::from_utf8(listed.stdout).ok()?;
    let gpus = text.lines().filter(|line| line.starts_with("GPU ")).count();
    listed.status.success().then(|| u32::try_from(gpus).ok())?
}

fn not_run(what: impl Into<String>) -> Error {
    Error::new(Exit::ProbeNotRun, what)
}

fn no_runtime(why: &str) -> Error {
    not_run("the Docker daemon cannot give GPUs to containers [no-runtime]")
        .why(why)
        .hint(format!(
            "install nvidia-container-toolkit on the daemon's host, then:\n\
         sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker\n\
         {CPU_WAY}"
        ))
}

/// Podman takes a request for GPUs through this API, and starts the container without them
/// (podman issue 22645).
fn through_podman(wanted: u32) -> Error {
    not_run("Podman gives no GPUs to containers that are made through Docker's API [no-runtime]").hint(
        format!(
            "run the probe inside, as a job would be:\n\
             podman run --rm --device nvidia.com/gpu=all --shm-size {wanted}g \\\n\
             -v $(command -v imgbuild):/imgbuild:ro IMAGE /imgbuild probe --runtime host --gpus {wanted}\n\
             {CPU_WAY}"
        ),
    )
}

fn too_few(wanted: u32, why: &str) -> Error {
    let gpus = if wanted == 1 { "GPU was" } else { "GPUs were" };
    not_run(format!("{wanted} {gpus} asked for [too-few-gpus]"))
        .why(why)
        .hint(format!(
            "ask for fewer with --gpus; see `nvidia-smi -L` there\n{CPU_WAY}"
        ))
}

/// A daemon's refusal to create or start the probe's container, in our words.
pub(super) fn explain(refusal: &Refusal, image: &str, backend: Backend, how: &str) -> Error {
    let message = refusal.message.as_str();
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    let error = match backend {
        Backend::Gpus(_)
            if says(&[
                "could not select device driver",
                "unknown or invalid runtime name: nvidia",
                "Unknown runtime specified nvidia",
                "CDI device injection failed",
                "unresolvable CDI devices",
            ]) =>
        {
            no_runtime(message)
        }
        Backend::Gpus(wanted) if says(&["device error", "unknown device"]) => {
            too_few(wanted, message)
        }
        Backend::Gpus(_)
            if says(&[
                "driver not loaded",
                "libnvidia-ml.so",
                "/dev/nvidia0",
                "nvml error",
            ]) =>
        {
            not_run("the daemon's host has no working NVIDIA driver")
                .why(message)
                .hint(format!("see `nvidia-smi` on the daemon's host\n{CPU_WAY}"))
        }
        Backend::Gpus(_) if says(&["unsatisfied condition"]) => {
            not_run("the host's NVIDIA driver is too old for this image [driver-too-old]")
                .why(message)
                .hint("update the driver, or build the image with an older CUDA")
        }
        _ if says(&["docker-init", "catatonit"]) => not_run(
            "the Docker daemon lacks its init program",
        )
        .why(message)
        .hint("install it on the daemon's host (Debian: tini for Docker, catatonit for Podman)"),
        _ if says(&["executable file not found", "no such file or directory"])
            && refusal.doing == "start" =>
        {
            no_python(image, message)
        }
        _ => not_run(format!(
            "the Docker daemon does not {} the probe's container",
            refusal.doing
        ))
        .why(message),
    };
    error.at(how)
}

/// The image cannot start Python.
pub(super) fn no_python(image: &str, why: &str) -> Error {
    not_run(format!("'{image}' has no Python on its PATH"))
        .why(why)
        .hint("the probe runs the image's own `python`; add python and pytorch to env.yml")
}

/// The image has Python but not torch.
pub(super) fn no_torch(image: &str, why: &str) -> Error {
    not_run(format!("'{image}' has no torch for its Python"))
        .why(why)
        .hint("add pytorch to the dependencies in env.yml, and build again")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(runtimes: &[&str], devices: &[&str]) -> HostFacts {
        HostFacts {
            runtimes: runtimes.iter().map(|&s| s.to_owned()).collect(),
            cdi_devices: devices.iter().map(|&s| s.to_owned()).collect(),
            ..HostFacts::default()
        }
    }

    fn host(hook: bool, cdi: bool, gpus: Option<u32>) -> Host {
        Host { hook, cdi, gpus }
    }

    #[test]
    fn gpus_are_asked_for_as_the_daemon_gives_them() {
        let plain = facts(&["runc"], &[]);
        let nvidia = facts(&["nvidia", "runc"], &[]);
        let asked = |facts: &HostFacts, host: Option<Host>| {
            choose(2, facts, host.as_ref(), "how").map_err(|e| e.to_string())
        };
        let cdi = GpuRequest::Cdi(vec!["nvidia.com/gpu=0".into(), "nvidia.com/gpu=1".into()]);
        assert_eq!(
            asked(&nvidia, Some(host(false, false, Some(2)))),
            Ok(GpuRequest::Count(2))
        );
        assert_eq!(
            asked(&plain, Some(host(true, false, None))),
            Ok(GpuRequest::Count(2))
        );
        assert_eq!(
            asked(&plain, Some(host(false, true, None))),
            Ok(cdi.clone())
        );
        let all = ["nvidia.com/gpu=0", "nvidia.com/gpu=1", "nvidia.com/gpu=all"];
        assert_eq!(asked(&facts(&["runc"], &all), None), Ok(cdi));
        // Elsewhere nothing is known: the daemon's own error will tell.
        assert_eq!(asked(&plain, None), Ok(GpuRequest::Count(2)));

        let none = asked(&plain, Some(host(false, false, Some(2)))).unwrap_err();
        assert!(
            none.contains("nvidia-container-toolkit") && none.contains("--cpu"),
            "{none}"
        );
        let few = asked(&nvidia, Some(host(false, false, Some(1)))).unwrap_err();
        assert!(few.contains("the daemon's host has 1"), "{few}");
        let few = asked(&facts(&["runc"], &all[..1]), None).unwrap_err();
        assert!(few.contains("the daemon's host has 1"), "{few}");
    }

    #[test]
    fn refusals_are_put_into_words() {
        let gpu = Backend::Gpus(4);
        let cpu = Backend::Cpu { nproc: 4 };
        for (backend, message, words) in [
            (
                gpu,
                r#"could not select device driver "" with capabilities: [[gpu]]"#,
                "cannot give GPUs",
            ),
            (
                gpu,
                "unknown or invalid runtime name: nvidia",
                "cannot give GPUs",
            ),
            (gpu, "Unknown runtime specified nvidia", "cannot give GPUs"),
            (
                gpu,
                "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=all",
                "cannot give GPUs",
            ),
            (
                gpu,
                "nvidia-container-cli: device error: 3: unknown device: unknown",
                "4 GPUs were asked for",
            ),
            (
                gpu,
                "nvidia-container-cli: initialization error: nvml error: driver not loaded",
                "no working NVIDIA driver",
            ),
            (
                gpu,
                "error gathering device information while adding custom device \"/dev/nvidia0\": no such file or directory",
                "no working NVIDIA driver",
            ),
            (
                gpu,
                "requirement error: unsatisfied condition: cuda>=12.9",
                "[driver-too-old]",
            ),
            (
                cpu,
                r#"exec: "/opt/wrap": stat /opt/wrap: no such file or directory"#,
                "no Python",
            ),
            (
                cpu,
                "disk quota exceeded",
                "does not start the probe's container",
            ),
        ] {
            let refusal = Refusal {
                doing: "start",
                message: message.into(),
            };
            let error = explain(
                &refusal,
                "train:dev",
                backend,
                "unix:///d.sock (the default)",
            );
            assert_eq!(error.exit(), Exit::ProbeNotRun);
            let text = error.to_string();
            assert!(text.contains(words), "{message}: {text}");
            assert!(text.contains("unix:///d.sock"), "{text}");
        }
    }
}
