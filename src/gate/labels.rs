//! What the image says of its needs: labels for people and tools, variables for container
//! runtimes.

use std::collections::BTreeMap;

use super::{
    facts::{Facts, join},
    version::numbers,
};

/// The labels: `dev.imgbuild.torch`, and for CUDA `.cuda`, `.cudnn`, `.nccl`, `.sm` (`75,80,90`),
/// `.driver-min` (the lowest that runs it) and `.driver-toolkit` (the lowest that runs all of
/// it); each only where it is known.
pub fn labels(facts: &Facts) -> BTreeMap<String, String> {
    let torch = facts.torch.as_ref().map(|torch| torch.item.version.clone());
    let toolkit = facts.floors.and_then(|floors| floors.toolkit);
    [
        ("cuda", facts.cuda.map(|cuda| cuda.to_string())),
        ("cudnn", facts.cudnn.clone()),
        ("nccl", facts.nccl.clone()),
        ("torch", torch),
        ("sm", facts.archs.map(|list| join(list, ","))),
        ("driver-min", facts.floors.map(|f| f.least.to_owned())),
        ("driver-toolkit", toolkit.map(str::to_owned)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((format!("dev.imgbuild.{name}"), value?)))
    .collect()
}

/// The variables by which NVIDIA's container runtime gives a container GPUs, and refuses a host
/// whose driver is too old; none for an environment without CUDA. `base` is the base image's
/// `Env`: what it says of devices and capabilities is kept, its requirement is not, since other
/// libraries run now (NVIDIA Container Toolkit docs, "Specialized Configurations with Docker").
pub fn variables(facts: &Facts, base: &[&str]) -> BTreeMap<String, String> {
    if !facts.uses_cuda() {
        return BTreeMap::new();
    }
    let has = |name: &str| {
        base.iter()
            .any(|pair| pair.split_once('=').is_some_and(|(key, _)| key == name))
    };
    let mut variables = BTreeMap::new();
    for (name, value) in [
        ("NVIDIA_VISIBLE_DEVICES", "all"),
        ("NVIDIA_DRIVER_CAPABILITIES", "compute,utility"),
    ] {
        if !has(name) {
            variables.insert(name.to_owned(), value.to_owned());
        }
    }
    if let Some(requirement) = requirement(facts) {
        variables.insert("NVIDIA_REQUIRE_CUDA".into(), requirement);
    }
    variables
}

/// `cuda>=11.0,driver>=450.80.2`: both must hold.
///
/// The toolkit's own version (`cuda>=11.8`, as in NVIDIA's images) would refuse machines on which
/// the image runs by minor-version compatibility; NVIDIA's images name those drivers one by one.
/// So the CUDA part is the major version's, which is what its lowest driver reports, and the exact
/// driver is asked for beside it: some runtimes know only the first of the two. A part of a
/// version must not have leading zeros, or the toolkit's own check calls it no version.
fn requirement(facts: &Facts) -> Option<String> {
    let (cuda, floors) = (facts.cuda?, facts.floors?);
    let minor = match cuda.major {
        ..11 => cuda.minor?,
        _ => 0,
    };
    let driver: Vec<String> = numbers(floors.least).iter().map(u32::to_string).collect();
    Some(format!(
        "cuda>={}.{minor},driver>={}",
        cuda.major,
        driver.join(".")
    ))
}
