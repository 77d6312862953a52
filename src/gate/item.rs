//! A package of a lock as the gate sees it, conda's and pip's alike.

use std::fmt;

use rattler_conda_types::RepoDataRecord;
use url::Url;

use super::version::Cuda;
use crate::lock::{LockedEnv, LockedWheel};

/// Where a package comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manager {
    /// A conda channel.
    Conda,
    /// A wheel.
    Pip,
}

/// A locked package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The normalised name.
    pub name: String,
    /// The version, a wheel's local part (`+cu118`) included.
    pub version: String,
    /// The build string; empty for a wheel.
    pub build: String,
    /// Where it comes from.
    pub manager: Manager,
    /// The channel's name, its last path segment (`conda-forge`, `main`); empty for a wheel.
    pub channel: String,
    /// The host that it is fetched from.
    pub host: String,
}

impl Item {
    /// All packages of an environment, conda's first.
    pub fn all(env: &LockedEnv) -> Vec<Self> {
        let conda = env.packages().iter().map(Self::of_record);
        conda
            .chain(env.wheels().iter().map(Self::of_wheel))
            .collect()
    }

    fn of_record(record: &RepoDataRecord) -> Self {
        Self {
            name: record.package_record.name.as_normalized().to_owned(),
            version: record.package_record.version.to_string(),
            build: record.package_record.build.to_string(),
            manager: Manager::Conda,
            channel: channel(&record.url).unwrap_or_default().to_owned(),
            host: host(&record.url),
        }
    }

    fn of_wheel(wheel: &LockedWheel) -> Self {
        Self {
            name: wheel.name.clone(),
            version: wheel.version.clone(),
            build: String::new(),
            manager: Manager::Pip,
            channel: String::new(),
            host: host(&wheel.url),
        }
    }

    /// Whether it is conda's package of that name.
    pub fn is_conda(&self, name: &str) -> bool {
        self.manager == Manager::Conda && self.name == name
    }

    /// Whether it is the wheel of that name.
    pub fn is_wheel(&self, name: &str) -> bool {
        self.manager == Manager::Pip && self.name == name
    }

    /// The channel's name, or its host where it has none.
    fn place(&self) -> &str {
        match self.channel.as_str() {
            "" => &self.host,
            name => name,
        }
    }

    /// The version without a wheel's local part.
    pub fn public_version(&self) -> &str {
        self.version
            .split_once('+')
            .map_or(&self.version, |(public, _)| public)
    }

    /// What follows the `+` of a wheel's version; empty without one.
    pub fn local_version(&self) -> &str {
        self.version.split_once('+').map_or("", |(_, local)| local)
    }

    /// The CUDA version that the package is built for, where its build string, its local version
    /// or the suffix of its name says so.
    pub fn built_for(&self) -> Option<Cuda> {
        match self.manager {
            Manager::Conda => Cuda::from_tag(&self.build),
            Manager::Pip => Cuda::from_tag(self.local_version()).or_else(|| self.suffix()),
        }
    }

    /// `nvidia-cudnn-cu12`, `cupy-cuda12x`, `jax-cuda13-plugin`: the major version alone.
    fn suffix(&self) -> Option<Cuda> {
        self.name.split('-').skip(1).find_map(|part| {
            let rest = part
                .strip_prefix("cuda")
                .or_else(|| part.strip_prefix("cu"))?;
            rest.starts_with(|c: char| c.is_ascii_digit())
                .then(|| Cuda::from_tag(part))?
        })
    }
}

/// `https://host/NAME/linux-64/file.conda`: the name.
fn channel(url: &Url) -> Option<&str> {
    url.path_segments()?.rev().nth(2)
}

fn host(url: &Url) -> String {
    url.host_str().unwrap_or_default().to_owned()
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)?;
        match self.manager {
            Manager::Conda => write!(f, " {} (conda, {})", self.build, self.place()),
            Manager::Pip => f.write_str(" (pip)"),
        }
    }
}
