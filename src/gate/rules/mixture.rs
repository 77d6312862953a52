//! Do the packages belong together?

use super::{error, warning};
use crate::gate::{
    Device, Driver, Facts, Finding, Item, Manager, Target,
    facts::{cudnns, has_libraries, is_library, torches},
    version::Cuda,
};

pub(super) fn findings(items: &[Item], facts: &Facts, target: &Target<'_>) -> Vec<Finding> {
    [
        cpu_torch(items, facts, target),
        torch_twice(items),
        cuda_mixed(items, facts),
        cudnn_twice(items),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A CPU build of torch beside a wish for GPUs.
fn cpu_torch(items: &[Item], facts: &Facts, target: &Target<'_>) -> Option<Finding> {
    let torch = facts.torch.as_ref().filter(|t| t.device == Device::Cpu)?;
    let library = items.iter().find(|item| is_library(item));
    let reason = match (target.means_gpus(), library) {
        (true, _) => "the image is meant for GPUs".to_owned(),
        (false, Some(library)) => format!("{library} is locked beside it"),
        (false, None) => return None,
    };
    let message = format!(
        "torch {} is a build for CPUs, but {reason}",
        torch.item.public_version()
    );
    let fix = match torch.item.manager {
        Manager::Conda => format!(
            "ask for a CUDA build (conda-forge: pytorch-gpu; pytorch channel: the build by name, \
             pytorch=2.5.1=py3.12_cuda12.4_cudnn9.1.0_0), and say what the machines offer: --cuda {}",
            offered(target)
        ),
        Manager::Pip => "take torch from PyPI or a CUDA index \
                         (https://download.pytorch.org/whl/cu128), not from whl/cpu"
            .to_owned(),
    };
    Some(error("cpu-torch", message, fix).at(&torch.item))
}

/// What `--cuda` is to say: it, or what the driver offers, or an example.
fn offered(target: &Target<'_>) -> String {
    let driver = target.fleet.driver.as_ref();
    target
        .cuda
        .or_else(|| driver.and_then(Driver::offers))
        .map_or("12.9".to_owned(), |cuda| cuda.to_string())
}

fn torch_twice(items: &[Item]) -> Option<Finding> {
    let (Some(conda), Some(wheel)) = torches(items) else {
        return None;
    };
    let message = format!(
        "torch comes from conda ({}) and from pip ({})",
        conda.version, wheel.version
    );
    let fix = "drop torch from `pip:`, or pytorch and what needs it from the conda packages";
    Some(error("torch-twice", message, fix).at(format!("{conda} and {wheel}")))
}

/// Libraries of two CUDA major versions.
fn cuda_mixed(items: &[Item], facts: &Facts) -> Option<Finding> {
    let told: Vec<(&Item, Cuda)> = items
        .iter()
        .filter_map(|item| Some((item, major(items, item)?)))
        .collect();
    // What torch is for is right; the other one is the odd one.
    let torch = facts.torch.as_ref().and_then(|torch| {
        let cuda = torch.cuda?;
        Some((&torch.item, cuda))
    });
    let (first, wanted) = torch.or_else(|| told.first().copied())?;
    let (odd, other) = told.iter().find(|(_, cuda)| cuda.major != wanted.major)?;
    let message = format!(
        "{} is for CUDA {}, {} for CUDA {}",
        named(first),
        wanted.major,
        named(odd),
        other.major
    );
    let fix = format!(
        "take all of them for one CUDA: {} for CUDA {}, or the other way round",
        odd.name, wanted.major
    );
    Some(error("cuda-mixed", message, fix).at(format!("{first} and {odd}")))
}

fn named(item: &Item) -> String {
    let from = match item.manager {
        Manager::Conda => "conda",
        Manager::Pip => "pip",
    };
    format!("{} {} ({from})", item.name, item.version)
}

/// The CUDA that a package carries or is compiled for. `cuda-version` only pins.
fn major(items: &[Item], item: &Item) -> Option<Cuda> {
    let by_version = match item.manager {
        Manager::Conda => matches!(
            item.name.as_str(),
            "cudatoolkit" | "cuda-cudart" | "cuda-nvrtc" | "cuda-runtime" | "pytorch-cuda"
        ),
        Manager::Pip => {
            has_libraries(items, Manager::Pip)
                && matches!(
                    item.name.as_str(),
                    "nvidia-cuda-runtime" | "nvidia-cuda-nvrtc" | "nvidia-cuda-cupti"
                )
        }
    };
    match by_version {
        true => Cuda::from_version(&item.version),
        false => item.built_for(),
    }
}

fn cudnn_twice(items: &[Item]) -> Option<Finding> {
    let all: Vec<&Item> = cudnns(items).collect();
    let first = all.first()?;
    let other = all.iter().find(|item| item.version != first.version)?;
    let message = format!(
        "cuDNN is there twice: {} and {}",
        named(first),
        named(other)
    );
    let fix = "pin both to one version, or take torch and cuDNN from one place";
    Some(warning("cudnn-twice", message, fix).at(format!("{first} and {other}")))
}
