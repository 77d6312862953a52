//! The flags of `imgbuild probe`, and those of `build --probe`.

use std::path::PathBuf;

use clap::{Args as Group, ValueEnum};

use super::{args::Format, registry_args::RegistryArgs, report_file::ReportFile};
use crate::spec::check;

#[derive(Group)]
pub(super) struct ProbeArgs {
    /// The image: a name or an ID that the Docker daemon or imgbuild's store knows.
    #[arg(required_unless_present_any = ["runtime", "read"])]
    pub image: Option<String>,
    /// Run the job on this machine itself, under its own Python, instead of in an image.
    #[arg(long, value_name = "RUNTIME", conflicts_with_all = ["image", "shm_size", "memory"])]
    pub runtime: Option<Runtime>,
    /// The Python that has torch [default: `python` on the PATH].
    #[arg(long, value_name = "PATH", requires = "runtime")]
    pub python: Option<PathBuf>,
    /// Write the job for a cluster's engine instead of running it; --gpus and --nproc are a node's.
    #[arg(long, value_name = "ENGINE", conflicts_with = "reports")]
    pub emit: Option<EngineChoice>,
    /// How many nodes [default: 2].
    #[arg(long, value_name = "N", requires = "emit", default_value_t = 2,
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub nodes: u32,
    /// Where the job is written [default: stdout].
    #[arg(short, long, value_name = "FILE", requires = "emit")]
    pub output: Option<PathBuf>,
    /// Judge a job that was written with --emit: its folder, a log, or `-` for stdin.
    #[arg(long, value_name = "PATH",
          conflicts_with_all = ["image", "runtime", "emit", "gpus", "cpu", "timeout", "min_efficiency", "shm_size"])]
    pub read: Option<PathBuf>,
    /// Attach the verdict to the image in its registry: where IMAGE says, or REF.
    #[arg(long, value_name = "REF", num_args = 0..=1, require_equals = true,
          conflicts_with_all = ["runtime", "emit"])]
    pub attach: Option<Option<String>>,
    /// Run nothing: judge the image by the verdicts that are attached to it. The newest on GPUs
    /// counts; with --gpus, on at least so many.
    #[arg(long, requires = "image",
          conflicts_with_all = ["runtime", "emit", "read", "attach", "cpu", "timeout", "stall_timeout", "min_efficiency",
                                "shm_size", "memory"])]
    pub check_attached: bool,
    /// How to print the report.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    #[command(flatten)]
    pub job: JobArgs,
    #[command(flatten)]
    pub registries: RegistryArgs,
}

/// The job that a probe runs.
#[derive(Group, Clone)]
#[command(next_help_heading = "Probe")]
pub(super) struct JobArgs {
    /// Run one process a GPU on that many GPUs, over NCCL [default: 4].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub gpus: Option<u32>,
    /// Run on CPUs over gloo: proves the software path, not the GPUs.
    #[arg(long, conflicts_with = "gpus")]
    pub cpu: bool,
    /// How many processes on CPUs [default: 4].
    #[arg(long, value_name = "N", requires = "cpu",
          value_parser = clap::value_parser!(u32).range(1..=64))]
    pub nproc: Option<u32>,
    /// Stop the job after that many seconds [default: 300].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: Option<u64>,
    /// Call it a stall when nothing moves for that many seconds [default: 60].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub stall_timeout: Option<u64>,
    /// Fail when the speed-up on all GPUs is under that many percent of their number.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub min_efficiency: Option<u32>,
    /// The size of /dev/shm, such as 8g.
    #[arg(long, value_name = "SIZE", value_parser = check::size)]
    pub shm_size: Option<u64>,
    /// The container's memory limit, such as 64g, as docker run has it [default: none].
    #[arg(long, value_name = "SIZE", value_parser = check::size)]
    pub memory: Option<u64>,
    /// Write the report to a file too: .html for people, .xml (JUnit) for CI, .json or .txt; may be
    /// given more than once.
    #[arg(long = "report", value_name = "FILE")]
    pub reports: Vec<ReportFile>,
}

/// What runs a probe on several machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum EngineChoice {
    /// An sbatch script: the image through pyxis and enroot, or the nodes' Python with `--runtime host`.
    Slurm,
    /// A ConfigMap, a headless Service and an Indexed Job.
    Kubernetes,
    /// A ConfigMap and a JobSet.
    Jobset,
    /// A ConfigMap and Kubeflow's PyTorchJob.
    Pytorchjob,
}

/// What a probe's job runs in, other than a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Runtime {
    /// Processes of this machine.
    Host,
}
