//! What to build: env.yml, imgbuild.yaml and flags, merged into one [`ImageSpec`].

pub mod catalog;
pub mod check;
pub mod config;
mod detect;
pub mod env_yaml;
mod expand;
pub mod pip;
mod resolve;
mod selectors;
pub mod source;
pub mod words;
pub mod yaml;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    str::FromStr,
};

use rattler_solve::ChannelPriority;

use crate::{base::BaseSource, error::Result, gate::Fleet, layer::Compression, machine::Machine};

pub use detect::{InputKind, LOCK_LIMITS, LockChoice, LockInput, detect};
pub use env_yaml::{ChannelName, EnvYaml, Spec};
pub use expand::expand;
pub use pip::{PipRequirement, PipSection, PipSources};

/// The base image when none is chosen: what the Miniconda image itself is built on. It has
/// glibc, a shell and certificates' folder, and nothing that conda would bring again.
pub const DEFAULT_BASE: &str = "docker.io/library/debian:bookworm-slim";
/// The environment's prefix when none is chosen, and the prefix of a Miniconda base.
pub const CONDA: &str = "/opt/conda";
/// The most layers that an image may have, base included: 126 do not load in Docker's classic
/// store ("max depth exceeded").
pub const MAX_LAYERS: u32 = 125;

/// What a build starts from: merged, validated, owned.
#[derive(Clone, Debug)]
pub struct ImageSpec {
    /// The environment; without specs and channels when a lock was given.
    pub env: EnvYaml,
    /// The lock that was given in place of an environment file.
    pub lock: Option<LockInput>,
    /// What the image runs on.
    pub machine: Machine,
    /// The base image.
    pub base: BaseSource,
    /// Names for the image, each with a tag; may be empty.
    pub tags: Vec<String>,
    /// The user's code, when there is any.
    pub code: Option<CodeSpec>,
    /// Where the environment stands in the image: absolute, normalised, without blanks.
    pub prefix: String,
    /// The CUDA version that the machines which run the image offer (`__cuda`), such as `12.9`.
    pub cuda: Option<String>,
    /// How channels compete; condarc's way, else strictly, when not chosen.
    pub channel_priority: Option<ChannelPriority>,
    /// The Miniconda base below the environment, when there is one.
    pub miniconda: Option<MinicondaSpec>,
    /// The user to run as: `name|uid[:group|gid]`; the base image's when absent.
    pub user: Option<String>,
    /// The working directory; the code's folder, else the base image's, when not chosen.
    pub workdir: Option<String>,
    /// Environment variables: env.yml's `variables:`, then imgbuild.yaml's, then flags', where a
    /// later one of the same name wins and keeps the earlier one's position.
    pub variables: Vec<(String, String)>,
    /// The entrypoint; absent when not chosen.
    pub entrypoint: Option<Vec<String>>,
    /// The default command; absent when not chosen.
    pub cmd: Option<Vec<String>>,
    /// Labels of the image config.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// The most layers that the image may have, base included; 1 to [`MAX_LAYERS`].
    pub layer_budget: u32,
    /// Whether a wheel may take the place of a conda package's file.
    pub pip_overwrites: bool,
    /// Whether Python files are compiled for packages that ship no `.pyc`.
    pub compile: bool,
    /// What layers are compressed with.
    pub compression: Compression,
    /// What `imgbuild probe` runs with when flags do not say otherwise.
    pub probe: ProbeSpec,
    /// The machines that the image is for, as far as they are told.
    pub fleet: Fleet,
    /// What was read but has no effect, in words.
    pub warnings: Vec<String>,
}

/// A folder of user code and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeSpec {
    /// The folder on this machine.
    pub dir: PathBuf,
    /// The folder in the image: absolute, normalised.
    pub dest: String,
}

/// A Miniconda base: an environment of its own with `conda` in it, below the user's.
#[derive(Clone, Debug)]
pub struct MinicondaSpec {
    /// Its prefix, [`CONDA`].
    pub prefix: String,
    /// What is in it.
    pub specs: Vec<Spec>,
}

/// Whether a Miniconda base is wanted.
#[derive(Clone, Debug)]
pub enum MinicondaChoice {
    /// The environment stands alone.
    Off,
    /// With these packages; none means python, conda and pip.
    On(Vec<Spec>),
}

/// Settings of the probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeSpec {
    /// The number of GPUs.
    pub gpus: Option<u32>,
    /// The number of processes.
    pub nproc: Option<u32>,
    /// The wall-clock limit in seconds.
    pub timeout: Option<u64>,
    /// The size of `/dev/shm` in bytes.
    pub shm_size: Option<u64>,
    /// The least speed-up that passes, in percent of the number of ranks.
    pub min_efficiency: Option<u32>,
}

/// What flags or an imgbuild.yaml set; everything else stays as it is.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Another imgbuild.yaml than the one beside the environment file (flag only).
    pub config: Option<PathBuf>,
    /// Which part of a given lock is meant (flags only).
    pub lock: LockChoice,
    /// What images are built for; replace the file's when there are any.
    pub machines: Vec<Machine>,
    /// For which machines a lock is made when nothing else says it (flags only): those that are
    /// locked already; empty, those of env.yml's `platforms:`. A build is for amd64 then.
    pub locked: Option<Vec<Machine>>,
    /// The base image.
    pub base: Option<BaseSource>,
    /// The image's names; replace the file's when there are any.
    pub tags: Vec<String>,
    /// The user's code.
    pub code: Option<CodeSpec>,
    /// The user to run as.
    pub user: Option<String>,
    /// The working directory.
    pub workdir: Option<String>,
    /// Environment variables; added to the file's.
    pub env: Vec<(String, String)>,
    /// The entrypoint.
    pub entrypoint: Option<Vec<String>>,
    /// The default command.
    pub cmd: Option<Vec<String>>,
    /// Labels; added to the file's.
    pub labels: Vec<(String, String)>,
    /// Annotations; added to the file's.
    pub annotations: Vec<(String, String)>,
    /// The environment's prefix.
    pub prefix: Option<String>,
    /// The CUDA version of the machines that run the image.
    pub cuda: Option<String>,
    /// How channels compete.
    pub channel_priority: Option<ChannelPriority>,
    /// Whether there is a Miniconda base.
    pub miniconda: Option<MinicondaChoice>,
    /// The most layers that the image may have, base included.
    pub layers: Option<u32>,
    /// Whether a wheel may take the place of a conda package's file.
    pub pip_overwrites: Option<bool>,
    /// Whether Python files are compiled for packages that ship no `.pyc`.
    pub compile: Option<bool>,
    /// What layers are compressed with.
    pub compression: Option<Compression>,
    /// Settings of the probe.
    pub probe: ProbeSpec,
    /// The machines that the image is for; what is allowed is added to the file's.
    pub fleet: Fleet,
}

impl ImageSpec {
    /// Reads an environment file and the imgbuild.yaml beside it, and applies flags. There is one
    /// spec for each machine that is built for, in their order, and at least one.
    ///
    /// # Errors
    /// An input error that names the file and place, or the flag, of what is wrong.
    pub fn resolve(env_file: &Path, overrides: Overrides) -> Result<Vec<Self>> {
        resolve::resolve(env_file, overrides)
    }

    /// The paths of the image at which something is put.
    pub fn places(&self) -> BTreeSet<String> {
        let miniconda = self.miniconda.iter().map(|miniconda| &miniconda.prefix);
        let code = self.code.iter().map(|code| &code.dest);
        let all = miniconda.chain(code).chain([&self.prefix]);
        all.cloned().collect()
    }

    /// What the cache knows the base image by: an index has one for each platform.
    pub fn base_name(&self) -> String {
        match self.machine {
            Machine::Amd64 => self.base.to_string(),
            other => format!("{} for {other}", self.base),
        }
    }
}

impl CodeSpec {
    /// Where code goes when nothing else is said.
    pub const DEFAULT_DEST: &'static str = "/workspace";
}

impl FromStr for CodeSpec {
    type Err = String;

    /// Takes `DIR` or `DIR:/dest`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (dir, dest) = match text.rfind(":/") {
            Some(at) => (&text[..at], &text[at + 1..]),
            None => (text, Self::DEFAULT_DEST),
        };
        if dir.is_empty() {
            return Err("it names no folder; write DIR or DIR:/dest".into());
        }
        Ok(Self {
            dir: dir.into(),
            dest: check::own_folder(dest)?,
        })
    }
}
