//! Is the fleet's driver new enough?

use super::{error, warning};
use crate::gate::{Cuda, Driver, Facts, Finding, Manager, Target, drivers::Floors};

pub(super) fn findings(facts: &Facts, target: &Target<'_>) -> Vec<Finding> {
    let (Some(cuda), Some(floors)) = (facts.cuda, facts.floors) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    match (&target.fleet.driver, target.cuda) {
        (Some(driver), _) => {
            let wheel = facts.torch.as_ref().map(|torch| torch.item.manager) == Some(Manager::Pip);
            findings.extend(by_driver(driver, cuda, floors, wheel));
        }
        (None, Some(offered)) => findings.extend(by_cuda(offered, cuda, floors)),
        (None, None) => {}
    }
    let place = facts.torch.as_ref().map(|torch| torch.item.to_string());
    for finding in &mut findings {
        finding.at.clone_from(&place);
    }
    findings
}

/// `wheel` is whether torch, and so the choice of CUDA, is pip's.
fn by_driver(driver: &Driver, cuda: Cuda, floors: Floors, wheel: bool) -> Option<Finding> {
    if !driver.at_least(floors.least) {
        let message = format!(
            "driver {driver} is too old for CUDA {cuda}, which needs {} or newer",
            floors.least
        );
        return Some(error(
            "driver-too-old",
            message,
            older_cuda(driver, floors, wheel),
        ));
    }
    let toolkit = floors.toolkit?;
    if driver.at_least(toolkit) {
        return (!floors.known).then(|| unknown(driver, cuda));
    }
    let message = format!(
        "driver {driver} runs CUDA {cuda} only by minor-version compatibility: code that is \
         compiled at run time (PTX) needs {toolkit} or newer"
    );
    let fix = format!("update the driver to {toolkit}, or pin an older CUDA");
    Some(warning("driver-below-cuda", message, fix))
}

fn unknown(driver: &Driver, cuda: Cuda) -> Finding {
    let message = format!(
        "whether driver {driver} runs CUDA {cuda} is not known: it is newer than the table"
    );
    let fix = "look its driver up in the CUDA Toolkit release notes, and update imgbuild";
    warning("driver-unknown", message, fix)
}

fn older_cuda(driver: &Driver, floors: Floors, wheel: bool) -> String {
    let way = match driver.offers() {
        Some(Cuda { major, .. }) if major >= 11 => {
            let pin = match wheel {
                true => format!("a torch from PyTorch's index for CUDA {major}"),
                false => format!("cuda-version={major}"),
            };
            format!("update the driver, or build with CUDA {major} ({pin})")
        }
        _ => "update the driver".to_owned(),
    };
    match driver.may_reach(floors.least) {
        true => format!("give the driver's version in full, as nvidia-smi shows it; or {way}"),
        false => way,
    }
}

fn by_cuda(offered: Cuda, cuda: Cuda, floors: Floors) -> Option<Finding> {
    if !offered.is_before(cuda) {
        return None;
    }
    if offered.major < cuda.major {
        let message = format!(
            "the machines offer CUDA {offered}, the packages are for CUDA {cuda}, which needs \
             driver {} or newer",
            floors.least
        );
        let fix = format!("build with CUDA {offered}, or update the driver and say so with --cuda");
        return Some(error("driver-too-old", message, fix));
    }
    let message = format!(
        "the machines offer CUDA {offered} and run CUDA {cuda} only by minor-version \
         compatibility: code that is compiled at run time (PTX) needs a newer driver"
    );
    let fix = format!("pin cuda-version={offered}, or update the driver and say so with --cuda");
    Some(warning("driver-below-cuda", message, fix))
}
