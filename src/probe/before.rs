//! The checks before the job begins: what will run it, and what it will be given.

use std::{collections::HashMap, fs, path::Path, time::Instant};

use super::{
    output::Check,
    spec::{Backend, ProbeRequest},
    text::binary_size,
};
use crate::{
    docker::{Daemon, GpuRequest},
    error::{Error, Exit, Result},
    gate::Driver,
};

const DRIVER_MIN: &str = "dev.imgbuild.driver-min";
const DRIVER_TOOLKIT: &str = "dev.imgbuild.driver-toolkit";
const CPU: &str = "not run: CPU ranks";

/// Named checks in order, each with the time since the one before it.
pub(super) struct Before {
    checks: Vec<Check>,
    mark: Instant,
}

impl Before {
    pub(super) fn start() -> Self {
        Self {
            checks: Vec::new(),
            mark: Instant::now(),
        }
    }

    fn add(&mut self, name: &str, detail: String) {
        let seconds = (self.mark.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
        self.checks.push(Check {
            name: name.to_owned(),
            ok: true,
            skipped: detail.starts_with("not run: "),
            seconds: Some(seconds),
            detail,
        });
        self.mark = Instant::now();
    }

    pub(super) fn daemon(&mut self, daemon: &Daemon, local: bool) {
        let facts = &daemon.facts;
        let place = match local {
            true => "on this machine",
            false => "not on this machine, as far as can be told",
        };
        let detail = format!(
            "{}, version {}, API {}, {place}",
            daemon.how, facts.server, facts.api
        );
        self.add("daemon", detail);
    }

    pub(super) fn python(&mut self, python: &Path) {
        self.add("python", python.display().to_string());
    }

    pub(super) fn gpu_runtime(&mut self, gpus: Option<&GpuRequest>) {
        self.add(
            "gpu_runtime",
            match gpus {
                None => CPU.into(),
                Some(GpuRequest::Count(count)) => {
                    format!("{count} GPUs through the NVIDIA runtime's hook")
                }
                Some(GpuRequest::Cdi(ids)) => format!("CDI: {}", ids.join(", ")),
            },
        );
    }

    pub(super) fn gpus(&mut self, backend: Backend, visible: Option<u32>) {
        self.add(
            "gpus",
            match (backend, visible) {
                (Backend::Cpu { .. }, _) => CPU.into(),
                (Backend::Gpus(wanted), Some(have)) => format!("{wanted} asked for, {have} there"),
                (Backend::Gpus(wanted), None) => {
                    format!("{wanted} asked for; the ranks will tell how many there are")
                }
            },
        );
    }

    /// The host's driver against what the image says it needs.
    ///
    /// # Errors
    /// When the driver is certainly too old for the image.
    pub(super) fn driver(
        &mut self,
        backend: Backend,
        driver: Option<&str>,
        labels: &HashMap<String, String>,
    ) -> Result<()> {
        let detail = match backend {
            Backend::Cpu { .. } => CPU.to_owned(),
            Backend::Gpus(_) => judge(driver, labels)?,
        };
        self.add("driver", detail);
        Ok(())
    }

    /// What a container is given: its daemon lifts the limit on locked memory only for GPUs.
    pub(super) fn given(&mut self, request: &ProbeRequest, lifted: bool) {
        let memlock = match lifted {
            true => "unlimited (--ulimit memlock=-1)",
            false => "the daemon's own limit",
        };
        self.add("memlock", memlock.to_owned());
        self.add(
            "shm",
            format!("{} (--shm-size)", binary_size(request.shm())),
        );
        if let Some(limit) = request.memory {
            self.add("memory", format!("{} (--memory)", binary_size(limit)));
        }
    }

    /// What processes of this machine have.
    pub(super) fn found(&mut self) {
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let memlock = memlock(&limits).unwrap_or_else(|| "unknown".into());
        self.add("memlock", memlock);
        let shm = nix::sys::statvfs::statvfs("/dev/shm").map_or_else(
            |_| "there is no /dev/shm".to_owned(),
            |found| {
                let size = |blocks: u64| binary_size(blocks * found.fragment_size());
                let (all, free) = (size(found.blocks()), size(found.blocks_available()));
                format!("{all}, {free} free")
            },
        );
        self.add("shm", shm);
    }

    pub(super) fn checks(self) -> Vec<Check> {
        self.checks
    }
}

/// The kernel's driver of this machine: `580.65.06`.
pub(super) fn driver_here() -> Option<String> {
    driver_of(&fs::read_to_string("/proc/driver/nvidia/version").ok()?)
}

/// `NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build ...`.
fn driver_of(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with("NVRM"))?;
    line.split_whitespace()
        .find(|word| word.contains('.') && word.parse::<Driver>().is_ok())
        .map(str::to_owned)
}

fn judge(driver: Option<&str>, labels: &HashMap<String, String>) -> Result<String> {
    let Some(least) = labels.get(DRIVER_MIN) else {
        let driver = driver.unwrap_or("unknown");
        return Ok(format!("{driver}; nothing says what it has to be"));
    };
    let Some((text, version)) = driver.and_then(|text| Some((text, text.parse::<Driver>().ok()?)))
    else {
        return Ok(format!("unknown; the image needs {least}"));
    };
    if !version.at_least(least) {
        return Err(Error::new(
            Exit::ProbeNotRun,
            "the host's NVIDIA driver is too old for this image [driver-too-old]",
        )
        .why(format!(
            "it is {text}, the image's label {DRIVER_MIN} says {least}"
        ))
        .hint("update the driver, or build the image with an older CUDA"));
    }
    let toolkit = labels.get(DRIVER_TOOLKIT).filter(|t| !version.at_least(t));
    Ok(match toolkit {
        Some(toolkit) => format!(
            "{text}, the image needs {least}; older than its CUDA's own {toolkit} [driver-below-cuda]"
        ),
        None => format!("{text}, the image needs {least}"),
    })
}

/// The soft limit on locked memory, as the kernel's table of limits tells it.
fn memlock(limits: &str) -> Option<String> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"))?;
    let soft = line.split_whitespace().next()?;
    Some(match soft.parse() {
        Ok(bytes) => binary_size(bytes),
        Err(_) => soft.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(least: &str, toolkit: &str) -> HashMap<String, String> {
        let pairs = [(DRIVER_MIN, least), (DRIVER_TOOLKIT, toolkit)];
        pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).into()
    }

    #[test]
    fn drivers_are_held_against_the_images_labels() {
        let labels = labels("525.60.13", "560.28.03");
        let error = judge(Some("520.61.05"), &labels).unwrap_err();
        assert_eq!(error.exit(), Exit::ProbeNotRun);
        assert!(error.to_string().contains("[driver-too-old]"), "{error}");
        let between = judge(Some("535.104.05"), &labels).unwrap();
        assert!(between.contains("[driver-below-cuda]"), "{between}");
        let new = judge(Some("580.65.06"), &labels).unwrap();
        assert_eq!(new, "580.65.06, the image needs 525.60.13");
        assert!(judge(None, &labels).unwrap().starts_with("unknown"));
        assert!(judge(Some("520.1"), &HashMap::new()).is_ok());
    }

    #[test]
    fn both_kernel_modules_tell_their_version() {
        for text in [
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:18:19 UTC 2025\nGCC version: 12.2.0",
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (x)",
        ] {
            assert_eq!(driver_of(text).as_deref(), Some("580.65.06"));
        }
        assert_eq!(driver_of("GCC version: 12.2.0"), None);
    }

    #[test]
    fn limits_are_read_from_the_kernels_table() {
        let line = |soft: &str| format!("Max locked memory         {soft}      unlimited  bytes");
        assert_eq!(memlock(&line("8388608")).as_deref(), Some("8 MiB"));
        assert_eq!(memlock(&line("unlimited")).as_deref(), Some("unlimited"));
        assert_eq!(memlock(""), None);
    }
}
