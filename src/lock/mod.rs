//! From specs to the exact packages, and the lock file that keeps them.

mod change;
mod channels;
mod client;
pub mod complete;
mod conditions;
mod credentials;
mod cuda;
mod file;
pub mod foreign;
mod graph;
mod header;
pub mod pip;
mod renew;
mod satisfies;
mod solve;
mod wheel;

use rattler_conda_types::{PackageRecord, RepoDataRecord};

pub use change::changes;
pub use channels::{Channels, WantedSpec};
pub use client::{ClientOptions, http_client};
pub use conditions::{Conditions, LockedBase, PipConditions, cutoff};
pub use cuda::{CudaIntent, CudaTarget, CudaVersion, Flavour, cuda_intent, flavour};
pub use file::{Locks, agree, parse, parse_all, render};
pub use header::is_own;
pub use renew::{Unmet, Wanted, keep, pip_conditions, unmet, unmet_base};
pub use satisfies::WantedChannel;
pub use solve::{
    ASSUMED_GLIBC, Index, IndexRequest, SolveRequest, VirtualPackages, glibc_unmet, solve,
};
pub use wheel::LockedWheel;

/// The exact packages of one environment.
#[derive(Clone, Debug, Default)]
pub struct LockedEnv {
    /// The channels they were chosen from, in priority order, as URLs.
    pub channels: Vec<String>,
    /// The packages in topological order, dependencies first.
    packages: Vec<RepoDataRecord>,
    /// The pip packages, by name.
    wheels: Vec<LockedWheel>,
}

impl LockedEnv {
    /// An environment of these packages, put into topological order.
    pub fn new(channels: Vec<String>, packages: Vec<RepoDataRecord>) -> Self {
        Self {
            channels,
            packages: PackageRecord::sort_topologically(packages),
            wheels: Vec::new(),
        }
    }

    /// The same environment with these pip packages over the conda ones.
    #[must_use]
    pub fn with_wheels(mut self, mut wheels: Vec<LockedWheel>) -> Self {
        wheels.sort_by(|a, b| a.name.cmp(&b.name));
        self.wheels = wheels;
        self
    }

    /// The pip packages, by name.
    pub fn wheels(&self) -> &[LockedWheel] {
        &self.wheels
    }

    /// The packages, dependencies first.
    pub fn packages(&self) -> &[RepoDataRecord] {
        &self.packages
    }

    /// The package of that normalised name.
    pub fn package(&self, name: &str) -> Option<&RepoDataRecord> {
        self.packages
            .iter()
            .find(|record| record.package_record.name.as_normalized() == name)
    }
}

/// All environments of an image, and what they were chosen under.
#[derive(Clone, Debug, Default)]
pub struct Lock {
    /// The user's environment.
    pub env: LockedEnv,
    /// The Miniconda base below it, if the image has one.
    pub miniconda: Option<LockedEnv>,
    /// The base image; absent for `scratch`, and in locks of other tools.
    pub base: Option<LockedBase>,
    /// What the solver was told besides specs and channels.
    pub conditions: Conditions,
}

impl Lock {
    /// The environments in the order of the image's layers: the Miniconda base, then the user's.
    pub fn environments(&self) -> impl Iterator<Item = &LockedEnv> {
        self.miniconda.iter().chain([&self.env])
    }
}
