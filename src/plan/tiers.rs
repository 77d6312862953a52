//! The tiers of an environment, from least to most often changed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Member, PlanItem};

/// Where a package's layer stands in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// Python, pip, conda, and what they need.
    Miniconda,
    /// CUDA libraries, PyTorch, and what they need beyond the base; from pip too.
    Cuda,
    /// All other conda packages.
    Other,
    /// All other pip packages.
    Pip,
}

impl Tier {
    /// All tiers, lowest first.
    pub const ALL: [Self; 4] = [Self::Miniconda, Self::Cuda, Self::Other, Self::Pip];

    /// The words for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Miniconda => "Miniconda base",
            Self::Cuda => "CUDA + PyTorch",
            Self::Other => "Conda packages",
            Self::Pip => "pip packages",
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

/// The same for the names that wheels have on package indexes (PEP 503). What torch needs beyond
/// these is pure Python, and a lock does not say who needs it.
fn is_cuda_wheel(name: &str) -> bool {
    const NAMES: [&str; 6] = [
        "torch",
        "torchvision",
        "torchaudio",
        "triton",
        "pytorch-triton",
        "cuda",
    ];
    const PREFIXES: [&str; 2] = ["nvidia-", "cuda-"];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The tier of each package, in the order given.
pub(super) fn assign(items: &[PlanItem], over_miniconda: bool) -> Vec<Tier> {
    let conda = |item: &&PlanItem| matches!(item.member, Member::Conda(_));
    let needs: Needs<'_> = items
        .iter()
        .filter(conda)
        .map(|item| (item.name.as_str(), item.needs.as_slice()))
        .collect();
    let base = if over_miniconda {
        BTreeSet::new()
    } else {
        closure(&needs, |name| BASE.contains(&name))
    };
    let cuda = closure(&needs, is_cuda_root);
    let tier = |item: &PlanItem| match item.member {
        Member::Conda(_) if base.contains(item.name.as_str()) => Tier::Miniconda,
        Member::Conda(_) if cuda.contains(item.name.as_str()) => Tier::Cuda,
        Member::Conda(_) => Tier::Other,
        Member::Wheel(_) if is_cuda_wheel(&item.name) => Tier::Cuda,
        Member::Wheel(_) => Tier::Pip,
    };
    items.iter().map(tier).collect()
}

type Needs<'a> = BTreeMap<&'a str, &'a [String]>;

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
    fn cuda_wheels() {
        for name in [
            "torch",
            "pytorch-triton",
            "nvidia-cudnn-cu13",
            "cuda-bindings",
        ] {
            assert!(is_cuda_wheel(name), "{name}");
        }
        for name in ["torchmetrics", "numpy", "cudf", "nvitop"] {
            assert!(!is_cuda_wheel(name), "{name}");
        }
    }

    #[test]
    fn closures_follow_cycles_and_ignore_virtual_packages() {
        let python = ["python".to_owned()];
        let others = ["pip", "openssl", "__unix"].map(str::to_owned);
        let needs = Needs::from([
            ("pip", &python[..]),
            ("python", &others),
            ("openssl", &[]),
            ("numpy", &python),
        ]);
        let found = closure(&needs, |name| name == "python");
        assert_eq!(found, BTreeSet::from(["openssl", "pip", "python"]));
    }
}
