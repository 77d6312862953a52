//! The flags.

use std::path::PathBuf;

use clap::{Args as Group, Parser, Subcommand, ValueEnum};
use rattler_solve::ChannelPriority;

use super::{
    attest::AttestArgs,
    auth::AuthArgs,
    cache::CacheArgs,
    cache_from::CacheSource,
    metadata::MetadataArgs,
    probe_args::{JobArgs, ProbeArgs},
    push::PushArgs,
    registry_args::RegistryArgs,
    sbom::SbomArgs,
};
use crate::{
    base::BaseSource,
    error::{Error, Exit},
    explain,
    gate::{Driver, Fleet, Gpu},
    layer::Compression,
    lock,
    machine::Machine,
    sink::Output,
    spec::{CodeSpec, LockChoice, MinicondaChoice, Overrides, ProbeSpec, check, words},
};

const AFTER_HELP: &str = "\
Exit status:
  0    success
  1    a fault of imgbuild itself
  2    bad input: a file, a flag, specs that cannot be met
  3    the environment: network, disk, Docker daemon, registry
  4    the probe ran and failed
  5    the probe could not run
  6    diff --exit-code: the two differ
  130  stopped by Ctrl-C or SIGTERM";

/// Turn a conda environment file into a layered OCI image, and prove that it trains.
#[derive(Parser)]
#[command(name = "imgbuild", version, after_help = AFTER_HELP)]
pub(super) struct Args {
    /// Print nothing but results, warnings and errors.
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// How progress is shown on stderr: auto, tty, plain, json or quiet.
    #[arg(long, global = true, value_name = "HOW", value_enum, conflicts_with = "quiet",
          default_value_t = Progress::Auto, hide_possible_values = true)]
    pub progress: Progress,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Choose the exact packages and write them to a lock beside the environment file.
    Lock(LockArgs),
    /// Build an image; lock first if the lock is missing or out of date.
    Build(Box<BuildArgs>),
    /// Push an image that was built here to registries.
    Push(PushArgs),
    /// Print an image's bill of materials (SPDX).
    Sbom(SbomArgs),
    /// Run a real multi-process DDP training job in an image.
    Probe(ProbeArgs),
    /// Compare two locks, images or plans.
    Diff(DiffArgs),
    /// Write out a ready image definition.
    Init(InitArgs),
    /// Say what a code means, why it comes, and the way out; list all codes without one.
    Explain(ExplainArgs),
    /// Show which login a registry gets, and what it may do there.
    Auth(AuthArgs),
    /// Look at the cache, make it smaller, check it.
    Cache(CacheArgs),
}

#[derive(Group)]
pub(super) struct LockArgs {
    /// A conda environment file; or a lock of another tool, to make imgbuild's of it.
    pub env: PathBuf,
    #[command(flatten)]
    pub choice: ChoiceArgs,
    /// The settings file [default: imgbuild.yaml beside the environment file].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Lock a Miniconda base below the environment too.
    #[arg(long)]
    pub miniconda: bool,
    /// The CUDA version that the machines which run the image offer, such as 12.9.
    #[arg(long, value_name = "VERSION", value_parser = check::cuda)]
    pub cuda: Option<String>,
    /// How channels compete [default: condarc's, else strict].
    #[arg(long, value_name = "HOW", value_enum)]
    pub channel_priority: Option<Priority>,
    /// Lock for linux/amd64, linux/arm64, or both: linux/amd64,linux/arm64 [default: what the lock
    /// has, else what the environment file lists, else linux/amd64].
    #[arg(long = "platform", value_name = "OS/ARCH", value_delimiter = ',')]
    pub platforms: Vec<Machine>,
    /// The base image [default: docker.io/library/debian:bookworm-slim].
    #[arg(long, value_name = "IMAGE")]
    pub base: Option<BaseSource>,
    /// Move this package and what it needs, and nothing else; may be given more than once.
    #[arg(long, value_name = "PACKAGE", conflicts_with = "locked")]
    pub update: Vec<String>,
    /// Lock the base image that the tag points to by now.
    #[arg(long, conflicts_with = "locked")]
    pub update_base: bool,
    /// Choose everything anew, as if there was no lock.
    #[arg(long, conflicts_with_all = ["locked", "update", "update_base"])]
    pub update_all: bool,
    #[command(flatten)]
    pub locking: LockingArgs,
    #[command(flatten)]
    pub fleet: FleetArgs,
}

/// How the lock is used and renewed.
#[derive(Group, Clone)]
#[command(next_help_heading = "Locking")]
pub(super) struct LockingArgs {
    /// Fail when the lock does not answer the environment file, and write none.
    #[arg(long)]
    pub locked: bool,
    /// Ask nothing of the network: use what the cache has.
    #[arg(long)]
    pub offline: bool,
    /// Packages published later do not count: a day, in UTC, or an RFC 3339 time.
    #[arg(long, value_name = "DATE", value_parser = lock::cutoff)]
    pub exclude_newer: Option<jiff::Timestamp>,
    #[command(flatten)]
    pub registries: RegistryArgs,
}

impl LockingArgs {
    /// An error with the way out where being offline is the reason.
    pub(super) fn explain(&self, error: Error) -> Error {
        match self.offline && error.exit() == Exit::Environment {
            true => error.hint("the cache does not have it: run once without --offline"),
            false => error,
        }
    }
}

/// Which part of a given lock is meant.
#[derive(Group)]
pub(super) struct ChoiceArgs {
    /// The environment of a pixi lock [default: default].
    #[arg(long, value_name = "NAME")]
    pub environment: Option<String>,
    /// A category of a conda-lock file besides main; may be given more than once.
    #[arg(long = "category", value_name = "NAME")]
    pub categories: Vec<String>,
}

#[derive(Group)]
pub(super) struct BuildArgs {
    /// A conda environment file; or a lock, which is used as it is: conda-lock.yml, pixi.lock, an
    /// @EXPLICIT list, or imgbuild's own.
    pub env: PathBuf,
    #[command(flatten)]
    pub choice: ChoiceArgs,
    /// Name the image; may be given more than once.
    #[arg(short, long = "tag", value_name = "NAME[:TAG]")]
    pub tags: Vec<String>,
    /// Build for linux/amd64, linux/arm64, or both, under one index: linux/amd64,linux/arm64
    /// [default: linux/amd64].
    #[arg(long = "platform", value_name = "OS/ARCH", value_delimiter = ',')]
    pub platforms: Vec<Machine>,
    /// Load the image into the Docker daemon.
    #[arg(long)]
    pub load: bool,
    /// Push the image to the registries that its names say; not if --probe fails.
    #[arg(long)]
    pub push: bool,
    /// Take over layers of this earlier image in a registry that are the same; may be given more
    /// than once [default with --push: the image's names; '' for none].
    #[arg(long, value_name = "REF")]
    pub cache_from: Vec<CacheSource>,
    /// Write the image: type=oci,dest=DIR, type=oci-archive,dest=FILE or
    /// type=docker-archive,dest=FILE.
    #[arg(short, long = "output", value_name = "TYPE,DEST")]
    pub outputs: Vec<Output>,
    /// Load the image, then probe it; exit status 4 or 5 is the probe's.
    #[arg(long)]
    pub probe: bool,
    /// The base image: oci:DIR, oci-archive:FILE, docker-archive:FILE, docker-daemon:REF, a
    /// registry reference, or scratch [default: docker.io/library/debian:bookworm-slim].
    #[arg(long, value_name = "IMAGE")]
    pub base: Option<BaseSource>,
    /// Put a folder of your code into the image [default destination: /workspace].
    #[arg(long, value_name = "DIR[:/DEST]")]
    pub code: Option<CodeSpec>,
    /// Where the environment stands in the image [default: /opt/conda].
    #[arg(long, value_name = "PATH")]
    pub prefix: Option<String>,
    /// Put the environment at /opt/conda/envs/NAME over a Miniconda base with its own Python.
    #[arg(long)]
    pub miniconda: bool,
    /// The CUDA version that the machines which run the image offer, such as 12.9.
    #[arg(long, value_name = "VERSION", value_parser = check::cuda)]
    pub cuda: Option<String>,
    /// How channels compete [default: condarc's, else strict].
    #[arg(long, value_name = "HOW", value_enum)]
    pub channel_priority: Option<Priority>,
    /// The user to run as.
    #[arg(long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// The working directory.
    #[arg(long, value_name = "PATH")]
    pub workdir: Option<String>,
    /// Set an environment variable in the image.
    #[arg(short = 'e', long = "env", value_name = "KEY=VALUE", value_parser = pair)]
    pub variables: Vec<(String, String)>,
    /// The entrypoint, in words as a shell splits them.
    #[arg(long, value_name = "COMMAND", value_parser = command_words)]
    pub entrypoint: Option<Words>,
    /// The default command, in words as a shell splits them.
    #[arg(long, value_name = "COMMAND", value_parser = command_words)]
    pub cmd: Option<Words>,
    /// Add a label.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    pub labels: Vec<(String, String)>,
    /// Add an annotation to the manifest.
    #[arg(long = "annotation", value_name = "KEY=VALUE", value_parser = pair)]
    pub annotations: Vec<(String, String)>,
    /// Let pip packages take the place of conda packages' files of the same path.
    #[arg(long)]
    pub pip_overwrites: bool,
    /// Print what would be built, fetched and reused, and do none of it.
    #[arg(long)]
    pub dry_run: bool,
    /// How to print the plan of --dry-run.
    #[arg(long, value_enum, default_value_t = Format::Text, requires = "dry_run")]
    pub format: Format,
    /// The most layers that the image may have, the base's included [default: 125].
    #[arg(long, value_name = "N")]
    pub max_layers: Option<u32>,
    /// Do not compile the Python files of packages that ship no .pyc: every fresh container does
    /// it then.
    #[arg(long)]
    pub no_compile: bool,
    /// What layers are compressed with: zstd, gzip or none, with a level if you like [default:
    /// zstd:1].
    #[arg(long, value_name = "CODEC[:LEVEL]")]
    pub compression: Option<Compression>,
    /// The settings file [default: imgbuild.yaml beside the environment file].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub locking: LockingArgs,
    #[command(flatten)]
    pub fleet: FleetArgs,
    #[command(flatten)]
    pub job: JobArgs,
    #[command(flatten)]
    pub attest: AttestArgs,
    #[command(flatten)]
    pub metadata: MetadataArgs,
}

/// The machines that the image is for; a lock that cannot run there is refused.
#[derive(Group, Clone)]
#[command(next_help_heading = "Machines")]
pub(super) struct FleetArgs {
    /// The oldest NVIDIA driver of the machines, such as 535.104.05.
    #[arg(long, value_name = "VERSION")]
    pub driver: Option<Driver>,
    /// A GPU of the machines, such as h200 or sm_90; may be given more than once.
    // `gpus` is the probe's, and clap tells arguments apart by their fields' names.
    #[arg(long = "gpu", value_name = "NAME")]
    pub models: Vec<Gpu>,
    /// Go on where `imgbuild explain CODE` says what is wrong; may be given more than once.
    #[arg(long, value_name = "CODE", value_parser = explain::allowable)]
    pub allow: Vec<&'static str>,
}

#[derive(Group)]
pub(super) struct ExplainArgs {
    /// The code, as an error, a warning or a probe's report shows it.
    pub code: Option<String>,
}

#[derive(Group)]
pub(super) struct DiffArgs {
    /// A lock (imgbuild's, conda-lock.yml, pixi.lock, an @EXPLICIT list), an image (a name in
    /// imgbuild's store, oci:DIR, oci-archive:FILE, docker-archive:FILE, docker-daemon:REF, a
    /// registry reference), or a plan (the JSON of build --dry-run).
    pub left: String,
    /// What it is compared with: the same, or another of these.
    pub right: String,
    #[command(flatten)]
    pub choice: ChoiceArgs,
    /// Which of their platforms is compared.
    #[arg(long, value_name = "OS/ARCH", default_value_t = Machine::Amd64)]
    pub platform: Machine,
    /// How to print what is different.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// End with status 6 when something is different.
    #[arg(long)]
    pub exit_code: bool,
    /// Ask nothing of the network.
    #[arg(long)]
    pub offline: bool,
    #[command(flatten)]
    pub registries: RegistryArgs,
}

#[derive(Group)]
pub(super) struct InitArgs {
    /// The definition to write out.
    #[arg(required_unless_present = "list")]
    pub name: Option<String>,
    /// List the definitions.
    #[arg(long, conflicts_with = "name")]
    pub list: bool,
    /// The folder to write to.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// Replace files that are there.
    #[arg(long)]
    pub force: bool,
}

/// How channels that have the same package compete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Priority {
    /// A package comes from the first channel that has it.
    Strict,
    /// A lower channel is used where the higher ones' builds do not fit.
    Flexible,
    /// The newest version wins, wherever it is.
    Disabled,
}

impl From<Priority> for ChannelPriority {
    fn from(priority: Priority) -> Self {
        match priority {
            Priority::Strict => Self::Strict,
            Priority::Flexible => Self::Flexible,
            Priority::Disabled => Self::Disabled,
        }
    }
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Progress {
    /// As tty on a terminal, as plain elsewhere and in CI.
    Auto,
    /// A line a blob, drawn over and over.
    Tty,
    /// A line a step.
    Plain,
    /// A line of JSON an event.
    Json,
    /// Warnings and errors only, as with --quiet.
    Quiet,
}

/// How a report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// A command in words; a type of its own because clap takes a `Vec` as a repeated flag.
#[derive(Clone, Debug)]
pub(super) struct Words(pub Vec<String>);

fn command_words(text: &str) -> Result<Words, String> {
    words::split(text).map(Words)
}

fn pair(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| "write KEY=VALUE".to_owned())
}

impl ChoiceArgs {
    pub(super) fn choice(&self) -> LockChoice {
        LockChoice {
            environment: self.environment.clone(),
            categories: self.categories.clone(),
        }
    }
}

impl LockArgs {
    /// What is set, where these platforms are locked already.
    pub(super) fn overrides(&self, locked: Vec<Machine>) -> Overrides {
        Overrides {
            config: self.config.clone(),
            machines: self.platforms.clone(),
            locked: Some(locked),
            lock: self.choice.choice(),
            miniconda: miniconda(self.miniconda),
            cuda: cuda(self.cuda.as_ref()),
            channel_priority: self.channel_priority.map(Into::into),
            base: self.base.clone(),
            fleet: self.fleet.fleet(),
            ..Overrides::default()
        }
    }
}

impl BuildArgs {
    pub(super) fn overrides(&self) -> Overrides {
        Overrides {
            config: self.config.clone(),
            machines: self.platforms.clone(),
            locked: None,
            lock: self.choice.choice(),
            base: self.base.clone(),
            tags: self.tags.clone(),
            code: self.code.clone(),
            user: self.user.clone(),
            workdir: self.workdir.clone(),
            env: self.variables.clone(),
            entrypoint: self.entrypoint.clone().map(|words| words.0),
            cmd: self.cmd.clone().map(|words| words.0),
            labels: self.labels.clone(),
            annotations: self.annotations.clone(),
            prefix: self.prefix.clone(),
            cuda: cuda(self.cuda.as_ref()),
            channel_priority: self.channel_priority.map(Into::into),
            miniconda: miniconda(self.miniconda),
            layers: self.max_layers,
            pip_overwrites: self.pip_overwrites.then_some(true),
            compile: self.no_compile.then_some(false),
            compression: self.compression,
            probe: ProbeSpec::default(),
            fleet: self.fleet.fleet(),
        }
    }
}

impl FleetArgs {
    fn fleet(&self) -> Fleet {
        Fleet {
            driver: self.driver.clone(),
            gpus: self.models.clone(),
            allow: self.allow.clone(),
        }
    }
}

/// conda's own override wins over a file and loses to a flag; empty means unset, as conda has it.
fn cuda(flag: Option<&String>) -> Option<String> {
    let variable = || std::env::var("CONDA_OVERRIDE_CUDA").ok();
    flag.cloned()
        .or_else(variable)
        .filter(|version| !version.is_empty())
}

fn miniconda(wanted: bool) -> Option<MinicondaChoice> {
    wanted.then(|| MinicondaChoice::On(Vec::new()))
}
