//! The packages of an environment, conda's and pip's, as one list.

use std::collections::BTreeMap;

use rattler_conda_types::{PackageName, RepoDataRecord};
use serde::Serialize;

use crate::{
    digest::Digest,
    error::Result,
    fetch::sha256_of,
    lock::{LockedEnv, LockedWheel},
    package::wheel_id,
};

/// Which package of an environment: the index in its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Member {
    /// Of [`LockedEnv::packages`].
    Conda(usize),
    /// Of [`LockedEnv::wheels`].
    Wheel(usize),
}

/// A package as a lock has it.
#[derive(Clone, Copy, Debug)]
pub enum Locked<'a> {
    /// A conda package.
    Conda(&'a RepoDataRecord),
    /// A pip package.
    Wheel(&'a LockedWheel),
}

/// A package as the plan sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanItem {
    /// Which one it is.
    pub member: Member,
    /// Its name, normalised.
    pub name: String,
    /// Its version, as a person reads it.
    pub version: String,
    /// The size of its archive in bytes; 0 where nobody knows it yet.
    pub size: u64,
    /// The names of the conda packages that it needs; none for a wheel.
    pub needs: Vec<String>,
}

impl Member {
    /// The package itself; none for an index of another environment.
    pub fn of(self, env: &LockedEnv) -> Option<Locked<'_>> {
        match self {
            Self::Conda(index) => env.packages().get(index).map(Locked::Conda),
            Self::Wheel(index) => env.wheels().get(index).map(Locked::Wheel),
        }
    }
}

impl Locked<'_> {
    /// The name among all packages of the environment: numpy of conda is not numpy of pip.
    pub fn id(&self) -> String {
        match self {
            Self::Conda(record) => record.package_record.name.as_normalized().to_owned(),
            Self::Wheel(wheel) => wheel_id(&wheel.name),
        }
    }

    /// The sha256 of its archive.
    ///
    /// # Errors
    /// When the lock does not say it.
    pub fn sha256(&self) -> Result<Digest> {
        match self {
            Self::Conda(record) => sha256_of(record),
            Self::Wheel(wheel) => Ok(wheel.sha256),
        }
    }

    /// The size of its archive in bytes, where the lock says it.
    pub fn size(&self) -> Option<u64> {
        match self {
            Self::Conda(record) => record.package_record.size,
            Self::Wheel(wheel) => wheel.size,
        }
    }
}

impl PlanItem {
    /// As [`Locked::id`].
    pub fn id(&self) -> String {
        match self.member {
            Member::Conda(_) => self.name.clone(),
            Member::Wheel(_) => wheel_id(&self.name),
        }
    }
}

/// All packages of an environment. `sizes` (of the archives in bytes, by id) go before what the
/// lock says: some locks do not say it.
pub fn items(env: &LockedEnv, sizes: &BTreeMap<String, u64>) -> Vec<PlanItem> {
    let size = |locked: Locked<'_>| sizes.get(&locked.id()).copied().or(locked.size());
    let conda = env.packages().iter().enumerate().map(|(index, record)| {
        let package = &record.package_record;
        PlanItem {
            member: Member::Conda(index),
            name: package.name.as_normalized().to_owned(),
            version: package.version.to_string(),
            size: size(Locked::Conda(record)).unwrap_or(0),
            needs: package
                .depends
                .iter()
                .map(|spec| PackageName::normalized_name_from_matchspec_str(spec).into_owned())
                .collect(),
        }
    });
    let wheels = env
        .wheels()
        .iter()
        .enumerate()
        .map(|(index, wheel)| PlanItem {
            member: Member::Wheel(index),
            name: wheel.name.clone(),
            version: wheel.version.clone(),
            size: size(Locked::Wheel(wheel)).unwrap_or(0),
            needs: Vec::new(),
        });
    conda.chain(wheels).collect()
}
