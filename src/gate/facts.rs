//! What a lock says of CUDA: the versions, the torch, and what they need of a machine.

use super::{
    archs,
    drivers::{Floors, floors},
    item::{Item, Manager},
    version::{Cuda, numbers},
};
use crate::lock::LockedEnv;

/// Conda packages whose version is the CUDA version, the one that decides first.
const CONDA_CUDA: &[&str] = &[
    "cuda-version",
    "cudatoolkit",
    "cuda-cudart",
    "cuda-runtime",
    "cuda-toolkit",
    "pytorch-cuda",
    "cuda-nvrtc",
    "cuda-libraries",
];

/// The same for wheels; before CUDA 13 their names end in `-cu11` or `-cu12`.
const WHEEL_CUDA: &[&str] = &[
    "nvidia-cuda-runtime",
    "nvidia-cuda-nvrtc",
    "nvidia-cuda-cupti",
    "cuda-toolkit",
];

/// CUDA's libraries in conda; `cuda-version` is none, it only pins.
const CONDA_LIBRARIES: &[&str] = &[
    "cudatoolkit",
    "cuda-cudart",
    "cuda-nvrtc",
    "cuda-runtime",
    "cudnn",
    "libcublas",
    "libcudnn",
    "nccl",
    "pytorch-cuda",
];

/// The NCCL inside PyTorch's own builds that bring none as a package, but link it statically: from
/// that torch on, until the next row (pytorch/pytorch, `third_party/nccl`).
const INNER_NCCL: &[(&str, Option<&str>)] = &[
    ("1.12", Some("2.10.3")),
    ("1.13", Some("2.14.3")),
    ("2.1", None),
    ("2.2", Some("2.19.3")),
    ("2.3", Some("2.20.5")),
    ("2.5", Some("2.21.5")),
    ("2.6", None),
];

/// What a build of torch computes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// CPUs only.
    Cpu,
    /// NVIDIA GPUs.
    Cuda,
    /// Neither the build's name nor its neighbours tell.
    Unknown,
}

/// The torch of an environment.
#[derive(Clone, Debug)]
pub struct Torch {
    /// The package.
    pub item: Item,
    /// What it computes on.
    pub device: Device,
    /// The CUDA version that it was compiled for.
    pub cuda: Option<Cuda>,
}

impl Torch {
    /// Whether PyTorch's own scripts built it, as opposed to a channel's.
    fn is_official(&self) -> bool {
        self.item.manager == Manager::Pip || self.item.channel == "pytorch"
    }
}

/// What a lock says of CUDA.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The CUDA version whose libraries are installed.
    pub cuda: Option<Cuda>,
    /// The version of cuDNN.
    pub cudnn: Option<String>,
    /// The version of NCCL.
    pub nccl: Option<String>,
    /// The torch; the wheel, where both conda and pip bring one.
    pub torch: Option<Torch>,
    /// The architectures that torch has code for, where that is known.
    pub archs: Option<&'static [u32]>,
    /// The drivers that the CUDA version needs, where they are known.
    pub floors: Option<Floors>,
}

impl Facts {
    /// Reads them off a lock.
    pub fn of(env: &LockedEnv) -> Self {
        Self::read(&Item::all(env))
    }

    pub(super) fn read(items: &[Item]) -> Self {
        let torch = torch(items);
        let cuda = cuda(items, torch.as_ref());
        let archs = torch
            .as_ref()
            .filter(|torch| torch.is_official())
            .and_then(|torch| archs::official(torch.item.public_version(), torch.cuda?));
        Self {
            cudnn: cuda.and_then(|_| cudnn(items, torch.as_ref())),
            nccl: cuda.and_then(|_| nccl(items, torch.as_ref())),
            floors: cuda.and_then(floors),
            cuda,
            torch,
            archs,
        }
    }

    /// Whether the environment computes on NVIDIA GPUs.
    pub fn uses_cuda(&self) -> bool {
        self.cuda.is_some()
            || self
                .torch
                .as_ref()
                .is_some_and(|t| t.device == Device::Cuda)
    }

    /// One or two short lines for people; none where there is neither CUDA nor torch.
    pub fn lines(&self) -> Vec<String> {
        let mut parts = Vec::new();
        if let Some(cuda) = self.cuda {
            parts.push(format!("CUDA {cuda}"));
        }
        for (name, version) in [("cuDNN", &self.cudnn), ("NCCL", &self.nccl)] {
            parts.extend(version.as_ref().map(|v| format!("{name} {}", short(v))));
        }
        parts.extend(self.torch_words());
        let first = (!parts.is_empty()).then(|| parts.join(", "));
        first.into_iter().chain(self.driver_words()).collect()
    }

    fn torch_words(&self) -> Option<String> {
        let torch = self.torch.as_ref()?;
        let from = match torch.item.manager {
            Manager::Conda => "conda",
            Manager::Pip => "pip",
        };
        let archs = self
            .archs
            .map(|list| format!(" for sm_{}", join(list, " ")));
        let only = (torch.device == Device::Cpu).then(|| " for CPUs only".to_owned());
        Some(format!(
            "torch {} ({from}){}",
            torch.item.public_version(),
            archs.or(only).unwrap_or_default()
        ))
    }

    fn driver_words(&self) -> Option<String> {
        let floors = self.floors?;
        let least = format!("Needs NVIDIA driver {} or newer", floors.least);
        let all = match floors.toolkit {
            Some(toolkit) if toolkit != floors.least => format!(", {toolkit} for all of it"),
            _ => String::new(),
        };
        let beyond = match floors.known {
            true => "",
            false => " (at least: this CUDA is newer than the table of drivers)",
        };
        Some(format!("{least}{all}{beyond}"))
    }
}

/// `8.7.0.84` -> `8.7`.
fn short(version: &str) -> String {
    let parts: Vec<&str> = version.split('.').take(2).collect();
    parts.join(".")
}

/// The numbers of a list, with something between.
pub(super) fn join(list: &[u32], between: &str) -> String {
    let words: Vec<String> = list.iter().map(u32::to_string).collect();
    words.join(between)
}

/// The packages that are torch itself: conda's names, and the wheel's.
pub(super) fn torches(items: &[Item]) -> (Option<&Item>, Option<&Item>) {
    let conda = |name| items.iter().find(|item| item.is_conda(name));
    let wheel = items.iter().find(|item| item.is_wheel("torch"));
    (conda("pytorch").or_else(|| conda("libtorch")), wheel)
}

fn torch(items: &[Item]) -> Option<Torch> {
    let (conda, wheel) = torches(items);
    // pip installs over conda.
    let item = wheel.or(conda)?.clone();
    let own = item.built_for();
    let cuda = own.or_else(|| runtime(items, item.manager));
    let says_cpu = match item.manager {
        Manager::Conda => item.build.split('_').any(|part| part.starts_with("cpu")),
        Manager::Pip => item.local_version().starts_with("cpu"),
    };
    let device = match (own, says_cpu, item.manager) {
        (Some(_), ..) => Device::Cuda,
        (None, true, _) => Device::Cpu,
        // PyPI's wheels for Linux are CUDA builds that bring their libraries as wheels.
        (None, false, Manager::Pip) if cuda.is_some() => Device::Cuda,
        _ => Device::Unknown,
    };
    Some(Torch {
        cuda: cuda.filter(|_| device == Device::Cuda),
        item,
        device,
    })
}

/// The CUDA version of the libraries that one manager installs.
fn runtime(items: &[Item], manager: Manager) -> Option<Cuda> {
    let names = match manager {
        Manager::Conda => CONDA_CUDA,
        Manager::Pip => WHEEL_CUDA,
    };
    let exact = names.iter().find_map(|name| {
        let item = items.iter().find(|item| {
            item.manager == manager && (item.name == *name || is_suffixed(&item.name, name))
        })?;
        Cuda::from_version(&item.version)
    });
    exact.or_else(|| {
        let mut own = items.iter().filter(|item| item.manager == manager);
        own.find(|item| item.name.starts_with("nvidia-"))
            .and_then(Item::built_for)
    })
}

/// `nvidia-cuda-runtime-cu12` of `nvidia-cuda-runtime`.
fn is_suffixed(name: &str, plain: &str) -> bool {
    name.strip_prefix(plain)
        .is_some_and(|rest| rest.starts_with("-cu"))
}

fn cuda(items: &[Item], torch: Option<&Torch>) -> Option<Cuda> {
    // Where torch comes from decides which of two counts; elsewhere conda's.
    let first = torch.map_or(Manager::Conda, |torch| torch.item.manager);
    let second = match first {
        Manager::Conda => Manager::Pip,
        Manager::Pip => Manager::Conda,
    };
    let of_torch = || torch.and_then(|torch| torch.cuda);
    let libraries = |manager| runtime(items, manager).filter(|_| has_libraries(items, manager));
    libraries(first)
        .or_else(of_torch)
        .or_else(|| libraries(second))
        .or_else(|| items.iter().find_map(Item::built_for))
}

/// Whether a manager installs CUDA's libraries, or something that is compiled for CUDA.
pub(super) fn has_libraries(items: &[Item], manager: Manager) -> bool {
    let mut own = items.iter().filter(|item| item.manager == manager);
    own.any(|item| is_library(item) || item.built_for().is_some())
}

/// Whether it is one of CUDA's own libraries.
pub(super) fn is_library(item: &Item) -> bool {
    match item.manager {
        Manager::Conda => CONDA_LIBRARIES.contains(&item.name.as_str()),
        Manager::Pip => item.name.starts_with("nvidia-c") || item.name.starts_with("nvidia-n"),
    }
}

/// cuDNN's packages, conda's and wheels.
pub(super) fn cudnns(items: &[Item]) -> impl Iterator<Item = &Item> {
    items.iter().filter(|item| match item.manager {
        Manager::Conda => matches!(item.name.as_str(), "cudnn" | "libcudnn"),
        Manager::Pip => item.name == "nvidia-cudnn" || is_suffixed(&item.name, "nvidia-cudnn"),
    })
}

/// torch's own, where its build string names it, else the package's.
fn cudnn(items: &[Item], torch: Option<&Torch>) -> Option<String> {
    let built_in = torch.and_then(|torch| {
        let (_, rest) = torch.item.build.split_once("cudnn")?;
        let version = rest.split('_').next()?;
        (!numbers(version).is_empty()).then(|| version.to_owned())
    });
    built_in.or_else(|| by_manager(cudnns(items), torch))
}

fn nccl(items: &[Item], torch: Option<&Torch>) -> Option<String> {
    let packages = items.iter().filter(|item| match item.manager {
        Manager::Conda => item.name == "nccl",
        Manager::Pip => item.name == "nvidia-nccl" || is_suffixed(&item.name, "nvidia-nccl"),
    });
    by_manager(packages, torch).or_else(|| inner_nccl(torch?))
}

/// The version of a library's package, torch's manager's first.
fn by_manager<'a>(
    packages: impl Iterator<Item = &'a Item>,
    torch: Option<&Torch>,
) -> Option<String> {
    let packages: Vec<&Item> = packages.collect();
    let beside = packages
        .iter()
        .find(|item| torch.is_some_and(|torch| torch.item.manager == item.manager));
    beside
        .or_else(|| packages.first())
        .map(|item| item.version.clone())
}

fn inner_nccl(torch: &Torch) -> Option<String> {
    if !torch.is_official() || torch.device != Device::Cuda {
        return None;
    }
    let version = torch.item.public_version();
    let row = INNER_NCCL
        .iter()
        .rev()
        .find(|(from, _)| super::version::at_least(version, from));
    row.and_then(|(_, nccl)| nccl.map(str::to_owned))
}
