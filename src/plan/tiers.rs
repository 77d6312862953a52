//! The tiers of an environment, from least to most often changed.

use std::collections::{BTreeMap, BTreeSet};

use rattler_conda_types::{PackageName, RepoDataRecord};
use serde::Serialize;

/// Where a package's layer stands in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// Python, pip, conda, and what they need.
    Miniconda,
    /// CUDA libraries, PyTorch, and what they need beyond the base.
    Cuda,
    /// All other conda packages.
    Other,
}

impl Tier {
    /// All tiers, lowest first.
    pub const ALL: [Self; 3] = [Self::Miniconda, Self::Cuda, Self::Other];

    /// The words for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Miniconda => "Miniconda base",
            Self::Cuda => "CUDA + PyTorch",
            Self::Other => "Conda packages",
        }
    }
}

const BASE: [&str; 3] = ["python", "pip", "conda"];

/// Packages that make an environment one for GPUs or for PyTorch.
fn is_cuda_root(name: &str) -> bool {
    const NAMES: [&str; 14] = [
        "pytorch",
        "torchvision",
        "torchaudio",
        "torchtriton",
        "triton",
        "cudnn",
        "nccl",
        "cudatoolkit",
        "cuda",
        "mkl",
        "cutensor",
        "libtorch",
        "magma",
        "libmagma",
    ];
    const PREFIXES: [&str; 13] = [
        "pytorch-", "cuda-", "libcu", "libnpp", "libnv", "libcudnn", "nvidia-", "nccl-", "magma-",
        "mkl-", "cutlass", "cupti", "nvshmem",
    ];
    // libcurl is the one well-known library that looks like a CUDA one.
    name != "libcurl"
        && (NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
}

/// The tier of each package, in the order given.
pub(super) fn assign(packages: &[RepoDataRecord], over_miniconda: bool) -> Vec<Tier> {
    let needs = dependencies(packages);
    let base = if over_miniconda {
        BTreeSet::new()
    } else {
        closure(&needs, |name| BASE.contains(&name))
    };
    let cuda = closure(&needs, is_cuda_root);
    packages
        .iter()
        .map(|record| {
            let name = record.package_record.name.as_normalized();
            if base.contains(name) {
                Tier::Miniconda
            } else if cuda.contains(name) {
                Tier::Cuda
            } else {
                Tier::Other
            }
        })
        .collect()
}

type Needs<'a> = BTreeMap<&'a str, Vec<String>>;

fn dependencies(packages: &[RepoDataRecord]) -> Needs<'_> {
    let name = |spec: &String| PackageName::normalized_name_from_matchspec_str(spec).into_owned();
    packages
        .iter()
        .map(|record| {
            let package = &record.package_record;
            let needs = package.depends.iter().map(name).collect();
            (package.name.as_normalized(), needs)
        })
        .collect()
}

fn closure<'a>(needs: &'a Needs<'a>, root: impl Fn(&str) -> bool) -> BTreeSet<&'a str> {
    let mut queue: Vec<&str> = needs.keys().copied().filter(|name| root(name)).collect();
    let mut found = BTreeSet::new();
    while let Some(name) = queue.pop() {
        let Some((name, direct)) = needs.get_key_value(name) else {
            continue;
        };
        if found.insert(*name) {
            queue.extend(direct.iter().map(String::as_str));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuda_names() {
        for name in [
            "pytorch",
            "libcublas",
            "cuda-cudart",
            "nccl",
            "libnvjitlink",
            "pytorch-gpu",
        ] {
            assert!(is_cuda_root(name), "{name}");
        }
        for name in ["numpy", "libcurl", "python", "curl", "torchmetrics"] {
            assert!(!is_cuda_root(name), "{name}");
        }
    }

    #[test]
    fn closures_follow_cycles_and_ignore_virtual_packages() {
        let needs = Needs::from([
            ("pip", vec!["python".into()]),
            (
                "python",
                vec!["pip".into(), "openssl".into(), "__unix".into()],
            ),
            ("openssl", vec![]),
            ("numpy", vec!["python".into()]),
        ]);
        let found = closure(&needs, |name| name == "python");
        assert_eq!(found, BTreeSet::from(["openssl", "pip", "python"]));
    }
}
