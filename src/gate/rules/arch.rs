//! Has torch code for the fleet's GPUs?

use super::error;
use crate::gate::{Device, Facts, Finding, Gpu, Target, archs, facts::Torch, facts::join};

const NEWER: &str = "sm_90 needs torch 2.0.1 and CUDA 11.8 or later, sm_100 and sm_120 need torch \
                     2.7 and CUDA 12.8 or later";

pub(super) fn findings(facts: &Facts, target: &Target<'_>) -> Vec<Finding> {
    let Some(torch) = facts.torch.as_ref().filter(|t| t.device == Device::Cuda) else {
        return Vec::new();
    };
    let lacking = |gpu: &Gpu| lacks(facts, torch, gpu);
    target.fleet.gpus.iter().filter_map(lacking).collect()
}

/// A build whose list is not known is only refused where no build could do; that is said.
pub(super) fn unjudged(facts: &Facts, target: &Target<'_>) -> Option<String> {
    let torch = facts.torch.as_ref().filter(|t| t.device != Device::Cpu)?;
    if facts.archs.is_some() || target.fleet.gpus.is_empty() {
        return None;
    }
    Some(format!(
        "The architectures in this build of torch {} are not known here: {} refused only where \
         no build of it could have code",
        torch.item.public_version(),
        match target.fleet.gpus.as_slice() {
            [one] => format!("{one} is"),
            _ => "GPUs are".to_owned(),
        }
    ))
}

fn lacks(facts: &Facts, torch: &Torch, gpu: &Gpu) -> Option<Finding> {
    let cuda = torch.cuda?;
    let version = torch.item.public_version();
    let why = match facts.archs {
        Some(list) if archs::runs(list, gpu.sm) => return None,
        Some(list) => format!("it has sm_{}", join(list, " ")),
        None => archs::ruled_out(version, cuda, gpu.sm)?,
    };
    let message = format!("torch {version} for CUDA {cuda} has no code for {gpu}: {why}");
    Some(error("arch", message, way_out(gpu.sm)).at(&torch.item))
}

fn way_out(sm: u32) -> String {
    match sm {
        90.. => NEWER.to_owned(),
        75..90 => "take a build of torch for CUDA 11.8 or later".to_owned(),
        50..75 => "take a build of torch for CUDA 12.6 or earlier".to_owned(),
        _ => "take a build of torch for CUDA 11.8 or earlier (torch 2.7 is the last that has one)"
            .to_owned(),
    }
}
