//! From specs to the exact packages, and the lock file that keeps them.

mod channels;
mod client;
mod file;
mod satisfies;
mod solve;

use rattler_conda_types::{PackageRecord, RepoDataRecord};

pub use channels::resolve_channels;
pub use client::http_client;
pub use file::{parse, render};
pub use satisfies::unsatisfied;
pub use solve::{SolveRequest, VirtualPackages, solve};

/// The exact packages of one environment.
#[derive(Clone, Debug)]
pub struct LockedEnv {
    /// The channels they were chosen from, in priority order, as URLs.
    pub channels: Vec<String>,
    /// The packages in topological order, dependencies first.
    packages: Vec<RepoDataRecord>,
}

impl LockedEnv {
    /// An environment of these packages, put into topological order.
    pub fn new(channels: Vec<String>, packages: Vec<RepoDataRecord>) -> Self {
        Self {
            channels,
            packages: PackageRecord::sort_topologically(packages),
        }
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
