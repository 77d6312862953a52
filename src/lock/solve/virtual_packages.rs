//! The virtual packages of the target.

use rattler_conda_types::{GenericVirtualPackage, MatchSpec, ParseStrictness, Subdir, Version};
use rattler_virtual_packages::{Archspec, Cuda, EnvOverride, LibC, Linux};

use crate::{
    error::{Error, Result, chain},
    lock::LockedEnv,
};

/// The glibc that is assumed where the base image's is not known: conda-forge's own compilers
/// target it, and every current base image has a newer one.
pub const ASSUMED_GLIBC: &str = "2.28";

/// What the machine that runs the image offers. Nothing of it is read off the builder.
///
/// An empty text takes the package away, as conda's overrides do (conda docs, "Managing virtual
/// packages").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VirtualPackages {
    /// `__cuda`: the CUDA version of the target's driver, if it has one.
    pub cuda: Option<String>,
    /// `__glibc` of the base image; [`ASSUMED_GLIBC`] when absent.
    pub glibc: Option<String>,
    /// `__archspec`: the lowest processor that is run on; `x86_64` when absent.
    pub archspec: Option<String>,
    /// `__linux`: the lowest kernel that is run on; RHEL 8's 4.18 when absent.
    pub linux: Option<String>,
}

impl VirtualPackages {
    /// The glibc of the image; empty when it is said to have none.
    pub fn glibc(&self) -> &str {
        self.glibc.as_deref().unwrap_or(ASSUMED_GLIBC)
    }

    /// The packages in the solver's form; `__unix` is always among them.
    ///
    /// # Errors
    /// When a version is none.
    pub fn list(&self, platform: Subdir) -> Result<Vec<GenericVirtualPackage>> {
        let mut packages =
            rattler_virtual_packages::VirtualPackages::baseline_for_platform(platform);
        packages.cuda = self
            .cuda
            .as_deref()
            .filter(|text| !text.is_empty())
            .map(|text| version("--cuda", text).map(|version| Cuda { version }))
            .transpose()?;
        packages.libc = match self.glibc() {
            "" => None,
            text => Some(LibC {
                family: "glibc".into(),
                version: version(LibC::DEFAULT_ENV_NAME, text)?,
            }),
        };
        if let Some(text) = &self.archspec {
            packages.archspec = overridden::<Archspec>(text)?;
        }
        if let Some(text) = &self.linux {
            packages.linux = overridden::<Linux>(text)?;
        }
        Ok(packages.into_generic_virtual_packages().collect())
    }
}

fn version(name: &str, text: &str) -> Result<Version> {
    text.parse()
        .map_err(|e| Error::input(format!("{name} '{text}' is not a version")).why(chain(&e)))
}

/// The first package that needs another glibc than this one, and what it needs.
pub fn glibc_unmet(env: &LockedEnv, glibc: &str) -> Option<(String, String)> {
    let version: Version = glibc.parse().ok()?;
    let unmet = |text: &&String| {
        let spec = MatchSpec::from_str(text, ParseStrictness::Lenient).ok();
        let range = spec
            .filter(|spec| {
                spec.name
                    .as_exact()
                    .is_some_and(|n| n.as_normalized() == "__glibc")
            })
            .and_then(|spec| spec.version);
        range.is_some_and(|range| !range.matches(&version))
    };
    env.packages().iter().find_map(|record| {
        let needed = record.package_record.depends.iter().find(unmet)?;
        Some((record.identifier.to_string(), needed.clone()))
    })
}

fn overridden<T: EnvOverride>(text: &str) -> Result<Option<T>> {
    T::parse_version_opt(text).map_err(|e| {
        Error::input(format!("{} '{text}' has no meaning", T::DEFAULT_ENV_NAME)).why(chain(&e))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(packages: &VirtualPackages) -> Vec<String> {
        listed_for(packages, Subdir::Linux64)
    }

    fn listed_for(packages: &VirtualPackages, platform: Subdir) -> Vec<String> {
        let list = packages.list(platform).unwrap();
        let text = |p: &GenericVirtualPackage| match p.build_string.as_ref() {
            "0" | "" => format!("{}={}", p.name.as_normalized(), p.version),
            build => format!("{}={build}", p.name.as_normalized()),
        };
        list.iter().map(text).collect()
    }

    #[test]
    fn they_are_the_targets() {
        assert_eq!(
            listed(&VirtualPackages::default()),
            [
                "__unix=0",
                "__linux=4.18",
                "__glibc=2.28",
                "__archspec=x86_64"
            ]
        );
        let given = VirtualPackages {
            cuda: Some("11.8".into()),
            glibc: Some("2.36".into()),
            archspec: Some("x86_64_v3".into()),
            linux: Some("5.15".into()),
        };
        assert_eq!(
            listed(&given),
            [
                "__unix=0",
                "__linux=5.15",
                "__glibc=2.36",
                "__cuda=11.8",
                "__archspec=x86_64_v3"
            ]
        );
        let none = VirtualPackages {
            cuda: Some(String::new()),
            glibc: Some(String::new()),
            archspec: Some(String::new()),
            linux: Some(String::new()),
        };
        assert_eq!(listed(&none), ["__unix=0"]);
    }

    #[test]
    fn other_platforms_have_other_processors() {
        let cuda = VirtualPackages {
            cuda: Some("12.9".into()),
            ..VirtualPackages::default()
        };
        let expected = [
            "__unix=0",
            "__linux=4.18",
            "__glibc=2.28",
            "__cuda=12.9",
            "__archspec=aarch64",
        ];
        assert_eq!(listed_for(&cuda, Subdir::LinuxAarch64), expected);
    }

    #[test]
    fn what_is_no_version_is_refused() {
        let odd = || Some("x/y".to_owned());
        for packages in [
            VirtualPackages {
                cuda: odd(),
                ..Default::default()
            },
            VirtualPackages {
                glibc: odd(),
                ..Default::default()
            },
            VirtualPackages {
                archspec: odd(),
                ..Default::default()
            },
            VirtualPackages {
                linux: odd(),
                ..Default::default()
            },
        ] {
            assert!(packages.list(Subdir::Linux64).is_err(), "{packages:?}");
        }
    }
}
