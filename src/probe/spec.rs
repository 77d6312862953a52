//! What to probe, as a container.

use std::{borrow::Cow, time::Duration};

use serde::{Deserialize, Serialize};

use crate::docker::{GpuRequest, RunFile, RunSpec};

/// How long a probe may take when nothing else is said.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);

/// How long the ranks have to say where they are when the time is up.
pub(super) const GRACE: Duration = Duration::from_secs(8);

const GIB: u64 = 1 << 30;
const FOLDER: &str = "/tmp/imgbuild-probe";
/// The job, next to what it imports.
pub(super) const SCRIPTS: [(&str, &str); 7] = [
    ("ddp_probe.py", include_str!("../../templates/ddp_probe.py")),
    ("ddp_lines.py", include_str!("../../templates/ddp_lines.py")),
    (
        "ddp_report.py",
        include_str!("../../templates/ddp_report.py"),
    ),
    (
        "ddp_machine.py",
        include_str!("../../templates/ddp_machine.py"),
    ),
    ("ddp_alone.py", include_str!("../../templates/ddp_alone.py")),
    ("ddp_speed.py", include_str!("../../templates/ddp_speed.py")),
    ("ddp_p2p.py", include_str!("../../templates/ddp_p2p.py")),
];

/// A job to run, wherever it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeRequest {
    /// Where the ranks compute.
    pub backend: Backend,
    /// Wall-clock limit of the job, from its start.
    pub timeout: Duration,
    /// The size of a container's `/dev/shm` in bytes; by the number of ranks when `None`.
    pub shm_size: Option<u64>,
    /// How long nothing may move; the script's own choice when `None`.
    pub stall_timeout: Option<Duration>,
    /// A container's memory limit in bytes; none when `None`.
    pub memory: Option<u64>,
    /// Epochs of training; the script's own choice when `None`.
    pub epochs: Option<u32>,
    /// The least speed-up that passes, in percent of the number of ranks.
    pub min_efficiency: Option<u32>,
}

/// Where the ranks compute, and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backend {
    /// One rank a GPU, over NCCL.
    Gpus(u32),
    /// Ranks on the CPU, over gloo.
    Cpu {
        /// How many ranks.
        nproc: u32,
    },
}

impl Backend {
    /// The number of ranks.
    pub fn ranks(self) -> u32 {
        match self {
            Self::Gpus(ranks) | Self::Cpu { nproc: ranks } => ranks,
        }
    }

    /// torch.distributed's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpus(_) => "nccl",
            Self::Cpu { .. } => "gloo",
        }
    }
}

impl ProbeRequest {
    /// A probe with the defaults.
    pub fn new(backend: Backend) -> Self {
        Self {
            backend,
            timeout: DEFAULT_TIMEOUT,
            shm_size: None,
            stall_timeout: None,
            memory: None,
            epochs: None,
            min_efficiency: None,
        }
    }

    /// The size of `/dev/shm` in bytes.
    pub fn shm(&self) -> u64 {
        self.shm_size
            .unwrap_or_else(|| default_shm_size(self.backend.ranks()))
    }
}

/// A GiB a rank, from 2 to 64 GiB. It is a limit: pages are taken only when they are written.
pub fn default_shm_size(ranks: u32) -> u64 {
    (u64::from(ranks) * GIB).clamp(2 * GIB, 64 * GIB)
}

/// The container of a probe. `wrapper` is the program that activates the image's environment.
pub fn run_spec(
    request: &ProbeRequest,
    image_id: &str,
    wrapper: Option<&str>,
    gpus: Option<GpuRequest>,
) -> RunSpec {
    let file = |(name, content): (&str, &'static str)| RunFile {
        path: format!("{FOLDER}/{name}"),
        mode: 0o755,
        content: Cow::Borrowed(content),
    };
    RunSpec {
        image: image_id.to_owned(),
        entrypoint: wrapper.map(str::to_owned).into_iter().collect(),
        cmd: command(request),
        env: Vec::new(),
        // torchrun meets under the host's own name, which nothing resolves without a network: it
        // would wait for minutes. This one always resolves.
        hostname: Some("localhost".into()),
        // `python -m` looks for modules in the working directory first: not among the user's.
        workdir: Some(FOLDER.into()),
        shm_size: request.shm(),
        memory: request.memory,
        lift_limits: gpus.is_some(),
        gpus,
        ipc: None,
        files: SCRIPTS.into_iter().map(file).collect(),
    }
}

fn command(request: &ProbeRequest) -> Vec<String> {
    let mut words = vec!["python".to_owned()];
    words.extend(launch(request, &["--standalone".to_owned()], FOLDER));
    words
}

/// What Python is to run: torchrun, its `rendezvous` flags, and the job in `folder`.
pub(super) fn launch(request: &ProbeRequest, rendezvous: &[String], folder: &str) -> Vec<String> {
    let seconds = request.timeout.as_secs().max(1);
    let mut words = vec!["-m".to_owned(), "torch.distributed.run".into()];
    words.extend_from_slice(rendezvous);
    words.extend([
        format!("--nproc_per_node={}", request.backend.ranks()),
        format!("{folder}/{}", SCRIPTS[0].0),
        format!("--backend={}", request.backend.name()),
        // Ends the job also when imgbuild itself is gone.
        format!("--timeout={seconds}"),
    ]);
    let stall = request.stall_timeout.map(|limit| limit.as_secs().max(1));
    words.extend(stall.map(|seconds| format!("--stall-timeout={seconds}")));
    words.extend(request.epochs.map(|epochs| format!("--epochs={epochs}")));
    let least = request
        .min_efficiency
        .map(|percent| f64::from(percent) / 100.0);
    words.extend(least.map(|least| format!("--min-efficiency={least}")));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_probe() {
        let request = ProbeRequest::new(Backend::Gpus(4));
        let spec = run_spec(&request, "sha256:1", None, Some(GpuRequest::Count(4)));
        assert_eq!(
            spec.cmd.join(" "),
            "python -m torch.distributed.run --standalone --nproc_per_node=4 \
             /tmp/imgbuild-probe/ddp_probe.py --backend=nccl --timeout=300"
        );
        assert!(spec.entrypoint.is_empty());
        assert!(spec.lift_limits);
        assert_eq!(spec.shm_size, 4 << 30);
        assert_eq!(spec.image, "sha256:1");
    }

    #[test]
    fn a_cpu_probe_through_the_wrapper() {
        let request = ProbeRequest {
            epochs: Some(2),
            stall_timeout: Some(Duration::from_secs(9)),
            memory: Some(8),
            min_efficiency: Some(85),
            shm_size: Some(7),
            timeout: Duration::from_millis(10),
            ..ProbeRequest::new(Backend::Cpu { nproc: 2 })
        };
        let spec = run_spec(&request, "sha256:1", Some("/opt/run"), None);
        assert_eq!(spec.entrypoint, ["/opt/run"]);
        assert!(spec.cmd.join(" ").ends_with(
            "--backend=gloo --timeout=1 --stall-timeout=9 --epochs=2 --min-efficiency=0.85"
        ));
        assert_eq!(
            (spec.gpus, spec.lift_limits, spec.shm_size, spec.memory),
            (None, false, 7, Some(8))
        );
    }

    #[test]
    fn the_files_are_what_the_script_imports() {
        let spec = run_spec(
            &ProbeRequest::new(Backend::Cpu { nproc: 1 }),
            "x",
            None,
            None,
        );
        assert!(spec.files.iter().all(|file| file.mode == 0o755));
        let imports = spec.files[0].content.lines().filter_map(|line| {
            let module = line.strip_prefix("from ")?.split(' ').next()?;
            module
                .starts_with("ddp_")
                .then(|| format!("{FOLDER}/{module}.py"))
        });
        for path in imports {
            assert!(spec.files.iter().any(|file| file.path == path), "{path}");
        }
    }

    #[test]
    fn shm_has_bounds() {
        let sizes = [1, 2, 8, 1000].map(|ranks| default_shm_size(ranks) >> 30);
        assert_eq!(sizes, [2, 2, 8, 64]);
    }
}
