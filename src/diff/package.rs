//! A package as both sides of a comparison know it, and what is different between two sets.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use crate::{digest::Digest, fetch::sha256_of, package::origin, plan::Locked};

/// Whose package it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Manager {
    /// A conda package.
    Conda,
    /// A wheel.
    Pip,
}

/// Which part of an image a package belongs to. Not its prefix: that may change while the
/// packages stay.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Area {
    /// The user's environment.
    Environment,
    /// The Miniconda base below it.
    Miniconda,
    /// The user's code.
    Code,
    /// A prefix of an image that imgbuild did not make.
    #[serde(untagged)]
    At(String),
}

/// A package's name among all of an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PackageId {
    /// The part of the image.
    pub area: Area,
    /// conda's numpy is not pip's.
    pub manager: Manager,
    /// The name, normalised.
    pub name: String,
}

/// What is known of a package; what one side does not know is not compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// The version.
    pub version: String,
    /// conda's build string.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
    /// The channel of a conda package, as a URL without logins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// The sha256 of its archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
    /// The size of its archive in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// Packages by what they are called.
pub type Packages = BTreeMap<PackageId, Package>;

/// One package that is not the same on both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PackageChange {
    /// Which package.
    #[serde(flatten)]
    pub id: PackageId,
    /// What is different.
    pub change: Change,
    /// What it is on the left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Package>,
    /// What it is on the right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Package>,
}

/// What is different about a package: the first that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Only the right has it.
    Added,
    /// Only the left has it.
    Removed,
    /// Another version.
    Version,
    /// Another build of the same version.
    Build,
    /// The same version and build from another channel.
    Channel,
    /// Another archive that calls itself the same.
    Archive,
}

impl Package {
    /// A package as a lock has it.
    pub fn of(locked: Locked<'_>) -> Self {
        match locked {
            Locked::Conda(record) => Self {
                version: record.package_record.version.to_string(),
                build: Some(record.package_record.build.to_string()),
                channel: Some(origin::channel(&record.url)),
                sha256: sha256_of(record).ok(),
                size: locked.size(),
            },
            Locked::Wheel(wheel) => Self {
                version: wheel.version.clone(),
                build: None,
                channel: None,
                sha256: Some(wheel.sha256),
                size: locked.size(),
            },
        }
    }

    /// What is different in `other`, as far as both know it.
    pub fn change(&self, other: &Self) -> Option<Change> {
        if self.version != other.version {
            Some(Change::Version)
        } else if differ(&self.build, &other.build) {
            Some(Change::Build)
        } else if differ(&self.channel, &other.channel) {
            Some(Change::Channel)
        } else if differ(&self.sha256, &other.sha256) {
            Some(Change::Archive)
        } else {
            None
        }
    }

    /// Both in words that show the difference.
    pub fn pair(&self, other: &Self) -> (String, String) {
        let said = |package: &Self| match self.change(other) {
            Some(Change::Version) | None => package.version.clone(),
            Some(Change::Channel) => {
                format!(
                    "{package} from {}",
                    package.channel.as_deref().unwrap_or("?")
                )
            }
            Some(Change::Archive) => match &package.sha256 {
                Some(sha256) => format!("{package} ({})", short(sha256)),
                None => package.to_string(),
            },
            Some(_) => package.to_string(),
        };
        (said(self), said(other))
    }
}

/// A digest for people: enough of it to tell two apart.
pub(super) fn short(digest: &Digest) -> String {
    format!("sha256:{}", &digest.hex()[..12])
}

/// Whether both are known and not the same.
pub(super) fn differ<T: PartialEq>(one: &Option<T>, other: &Option<T>) -> bool {
    matches!((one, other), (Some(one), Some(other)) if one != other)
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.build {
            Some(build) => write!(f, "{} {build}", self.version),
            None => f.write_str(&self.version),
        }
    }
}

impl PackageId {
    /// The id of a package as a lock has it.
    pub fn of(area: Area, locked: Locked<'_>) -> Self {
        let (manager, name) = match locked {
            Locked::Conda(record) => (
                Manager::Conda,
                record.package_record.name.as_normalized().to_owned(),
            ),
            Locked::Wheel(wheel) => (Manager::Pip, wheel.name.clone()),
        };
        Self {
            area,
            manager,
            name,
        }
    }
}

/// `numpy`, `numpy (pip)`, `python (Miniconda base)`.
impl fmt::Display for PackageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if self.manager == Manager::Pip {
            f.write_str(" (pip)")?;
        }
        match &self.area {
            Area::Environment | Area::Code => Ok(()),
            Area::Miniconda => f.write_str(" (Miniconda base)"),
            Area::At(prefix) => write!(f, " ({prefix})"),
        }
    }
}

/// What is different, ordered by part of the image, manager and name.
pub fn changes(left: &Packages, right: &Packages) -> Vec<PackageChange> {
    let ids: BTreeSet<&PackageId> = left.keys().chain(right.keys()).collect();
    let change = |id: &PackageId| {
        let (from, to) = (left.get(id), right.get(id));
        let change = match (from, to) {
            (Some(from), Some(to)) => from.change(to)?,
            (None, _) => Change::Added,
            (_, None) => Change::Removed,
        };
        Some(PackageChange {
            id: id.clone(),
            change,
            from: from.cloned(),
            to: to.cloned(),
        })
    };
    ids.into_iter().filter_map(change).collect()
}
