//! The rules. Each is a function from packages to findings.

mod arch;
mod channels;
mod driver;
mod mixture;
mod python;

use super::{Facts, Finding, Item, Severity, Target};

/// What is wrong with CUDA and torch, for these machines.
pub(super) fn cuda(items: &[Item], target: &Target<'_>) -> Vec<Finding> {
    let facts = Facts::read(items);
    let mut findings = driver::findings(&facts, target);
    findings.extend(arch::findings(&facts, target));
    findings.extend(mixture::findings(items, &facts, target));
    findings
}

/// What cannot be judged for these machines, in words.
pub(super) fn unjudged(facts: &Facts, target: &Target<'_>) -> Option<String> {
    arch::unjudged(facts, target)
}

/// What ages or costs, for all environments of an image.
pub(super) fn upkeep(
    environments: &[&[Item]],
    channels: &[&str],
    target: &Target<'_>,
) -> Vec<Finding> {
    let pythons = environments.iter().copied();
    let mut findings: Vec<Finding> = pythons
        .filter_map(|items| python::finding(items, target.today))
        .collect();
    findings.dedup();
    let all: Vec<&Item> = environments.iter().copied().flatten().collect();
    findings.extend(channels::findings(&all, channels));
    findings
}

fn error(code: &'static str, message: String, fix: impl Into<String>) -> Finding {
    Finding {
        code,
        severity: Severity::Error,
        message,
        at: None,
        fix: fix.into(),
    }
}

fn warning(code: &'static str, message: String, fix: impl Into<String>) -> Finding {
    Finding {
        severity: Severity::Warning,
        ..error(code, message, fix)
    }
}

impl Finding {
    fn at(mut self, place: impl ToString) -> Self {
        self.at = Some(place.to_string());
        self
    }
}
