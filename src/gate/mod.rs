//! The gate: from the lock alone, what an image needs of a machine, and whether machines that are
//! named have it.
//!
//! [`facts`] reads the lock; [`drivers`], [`archs`] and [`gpus`] are the tables; [`rules`] judge;
//! [`mod@labels`] are what the image says of it. All of it is pure: no rule looks at this machine, and
//! the day that one needs comes in with the [`Target`].

mod archs;
mod drivers;
mod facts;
mod gpus;
mod item;
mod labels;
mod rules;
mod version;

use jiff::civil::Date;

pub use facts::{Device, Facts, Torch};
pub use gpus::Gpu;
pub use item::{Item, Manager};
pub use labels::{labels, variables};
pub use version::{Cuda, Driver};

use crate::lock::Lock;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Nothing is built.
    Error,
    /// It is said once.
    Warning,
}

/// Something that a rule holds against a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its code; [`crate::explain`] has an entry for it.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one line.
    pub message: String,
    /// The package, or the packages, that it is about.
    pub at: Option<String>,
    /// The way out.
    pub fix: String,
}

/// What a user says of the machines that run the image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fleet {
    /// The oldest NVIDIA driver among them.
    pub driver: Option<Driver>,
    /// Their GPUs.
    pub gpus: Vec<Gpu>,
    /// Codes that are let pass: an error becomes a warning, a warning is left out.
    pub allow: Vec<&'static str>,
}

impl Fleet {
    /// These settings over others: a driver and GPUs replace the others', what is allowed adds up.
    #[must_use]
    pub fn over(self, other: Self) -> Self {
        Self {
            driver: self.driver.or(other.driver),
            gpus: match self.gpus.is_empty() {
                true => other.gpus,
                false => self.gpus,
            },
            allow: [other.allow, self.allow].concat(),
        }
    }
}

/// What a lock is judged for.
#[derive(Clone, Debug)]
pub struct Target<'a> {
    /// The machines.
    pub fleet: &'a Fleet,
    /// The CUDA version that they offer (`__cuda`).
    pub cuda: Option<Cuda>,
    /// Whether the image is to be probed on GPUs.
    pub probed_on_gpus: bool,
    /// The day, for ends of life.
    pub today: Date,
}

impl Target<'_> {
    /// Whether the image is meant for GPUs, as far as the user says.
    fn means_gpus(&self) -> bool {
        self.fleet.driver.is_some()
            || !self.fleet.gpus.is_empty()
            || self.cuda.is_some()
            || self.probed_on_gpus
    }
}

/// What the lock does not tell enough about to be judged for these machines, in words.
pub fn unjudged(facts: &Facts, target: &Target<'_>) -> Option<String> {
    rules::unjudged(facts, target)
}

/// Holds a lock against the rules; what is allowed is let pass.
pub fn review(lock: &Lock, target: &Target<'_>) -> Vec<Finding> {
    let env = Item::all(&lock.env);
    let below = lock.miniconda.as_ref().map(Item::all).unwrap_or_default();
    let mut findings = rules::cuda(&env, target);
    let environments = [Some(&lock.env), lock.miniconda.as_ref()];
    let channels = environments.into_iter().flatten().flat_map(|e| &e.channels);
    let channels: Vec<&str> = channels.map(String::as_str).collect();
    findings.extend(rules::upkeep(&[&env, &below], &channels, target));
    let allowed = |finding: &Finding| target.fleet.allow.contains(&finding.code);
    findings.retain(|finding| finding.severity == Severity::Error || !allowed(finding));
    for finding in &mut findings {
        if allowed(finding) {
            finding.severity = Severity::Warning;
        }
    }
    findings
}

#[cfg(test)]
mod tests;
