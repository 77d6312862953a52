//! The kinds of machines that images are built for.

use std::{fmt, str::FromStr};

use rattler_conda_types::Subdir;

use crate::base::Platform;

/// A kind of machine that images are built for. The order is that of an image index, whatever
/// order they were asked for in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Machine {
    /// 64-bit x86.
    #[default]
    Amd64,
    /// 64-bit ARM.
    Arm64,
}

impl Machine {
    /// All of them, in order.
    pub const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// The machine that this program runs on; none where its programs are not Linux's.
    pub const fn here() -> Option<Self> {
        if cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            Some(Self::Amd64)
        } else if cfg!(all(target_os = "linux", target_arch = "aarch64")) {
            Some(Self::Arm64)
        } else {
            None
        }
    }

    /// What conda calls it.
    pub const fn subdir(self) -> Subdir {
        match self {
            Self::Amd64 => Subdir::Linux64,
            Self::Arm64 => Subdir::LinuxAarch64,
        }
    }

    /// The machine of one of conda's platforms.
    pub fn of_subdir(subdir: Subdir) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|machine| machine.subdir() == subdir)
    }

    /// What Go, and with it OCI, calls it (OCI image-spec, image-index.md).
    pub const fn architecture(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// What the kernel calls it (uname(1)), and with it wheels' tags and markers (PEP 508, 600).
    pub const fn uname(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    /// The platform to look for in an image index; any variant will do.
    pub fn platform(self) -> Platform {
        Platform {
            os: "linux".into(),
            architecture: self.architecture().into(),
            variant: None,
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "linux/{}", self.architecture())
    }
}

impl FromStr for Machine {
    type Err = String;

    /// Takes docker's names, the kernel's in their place, and conda's.
    fn from_str(text: &str) -> Result<Self, String> {
        // arm64 has no older variant (containerd, platforms/database.go).
        let name = text.strip_prefix("linux/").unwrap_or(text);
        let name = name.strip_suffix("/v8").unwrap_or(name);
        let known = |machine: &Self| {
            [machine.architecture(), machine.uname()].contains(&name)
                || machine.subdir().as_str() == text
        };
        let mut all = Self::ALL.into_iter();
        all.find(|machine| known(machine) && (*machine == Self::Arm64 || !text.ends_with("/v8")))
            .ok_or_else(|| "images are built for linux/amd64 and linux/arm64".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_many_names() {
        for (machine, names) in [
            (
                Machine::Amd64,
                ["linux/amd64", "amd64", "linux/x86_64", "linux-64"],
            ),
            (
                Machine::Arm64,
                ["linux/arm64", "linux/arm64/v8", "aarch64", "linux-aarch64"],
            ),
        ] {
            for name in names {
                assert_eq!(name.parse(), Ok(machine), "{name}");
            }
            assert_eq!(machine.to_string().parse(), Ok(machine));
            assert_eq!(Machine::of_subdir(machine.subdir()), Some(machine));
        }
        for other in [
            "",
            "linux",
            "linux/",
            "linux/amd64/v2",
            "linux/amd64/v8",
            "linux/arm/v7",
            "windows/amd64",
            "linux/linux/amd64",
            "linux/linux-64",
            "osx-arm64",
        ] {
            assert!(other.parse::<Machine>().is_err(), "{other}");
        }
    }
}
