//! From specs to the exact packages, and the lock file that keeps them.

mod channels;
mod client;
mod file;
mod satisfies;
mod solve;
mod wheel;

use rattler_conda_types::{PackageRecord, RepoDataRecord};

pub use channels::resolve_channels;
pub use client::http_client;
pub use file::{parse, render};
pub use satisfies::unsatisfied;
pub use solve::{SolveRequest, VirtualPackages, solve};
pub use wheel::LockedWheel;

/// The exact packages of one environment.
#[derive(Clone, Debug)]
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

/// All environments of an image.
#[derive(Clone, Debug)]
pub struct Lock {
    /// The user's environment.
    pub env: LockedEnv,
    /// The Miniconda base below it, if the image has one.
    pub miniconda: Option<LockedEnv>,
}
