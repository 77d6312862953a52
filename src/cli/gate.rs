//! The gate at the head of `imgbuild lock` and `imgbuild build`: what the lock needs, said once,
//! and an end before anything is downloaded where it cannot run.

use jiff::{Timestamp, tz::TimeZone};

use crate::{
    error::{Error, Result},
    gate::{self, Cuda, Facts, Finding, Severity, Target},
    lock::Lock,
    report::Reporter,
    spec::ImageSpec,
};

/// Says what a lock needs of a machine, and holds it against the rules. One of several platforms is
/// named first, where there is something to say.
///
/// # Errors
/// When a rule refuses it and `--allow` does not let that pass.
pub(super) fn check(
    spec: &ImageSpec,
    lock: &Lock,
    one_of_several: bool,
    reporter: &Reporter,
) -> Result<()> {
    let facts = Facts::of(&lock.env);
    let target = Target {
        fleet: &spec.fleet,
        cuda: spec.cuda.as_deref().and_then(Cuda::from_version),
        probed_on_gpus: spec.probe.gpus.is_some(),
        today: Timestamp::now().to_zoned(TimeZone::UTC).date(),
    };
    let unjudged = gate::unjudged(&facts, &target);
    let lines: Vec<String> = facts.lines().into_iter().chain(unjudged).collect();
    let findings = gate::review(lock, &target);
    if one_of_several && !(lines.is_empty() && findings.is_empty()) {
        reporter.step(format!("For {}:", spec.machine));
    }
    for line in lines {
        reporter.step(line);
    }
    report(findings, reporter)
}

/// Prints the findings; the last error is the one that ends the program.
fn report(findings: Vec<Finding>, reporter: &Reporter) -> Result<()> {
    let (mut errors, warnings): (Vec<_>, Vec<_>) = findings
        .into_iter()
        .partition(|finding| finding.severity == Severity::Error);
    for warning in &warnings {
        reporter.warn(in_one_line(warning));
    }
    let Some(last) = errors.pop() else {
        return Ok(());
    };
    for error in &errors {
        reporter.error(&refusal(error));
    }
    Err(refusal(&last))
}

fn in_one_line(finding: &Finding) -> String {
    let at = finding.at.as_ref().map(|at| format!(" ({at})"));
    format!(
        "{}{}; {} [{}]",
        finding.message,
        at.unwrap_or_default(),
        finding.fix,
        finding.code
    )
}

fn refusal(finding: &Finding) -> Error {
    let error = Error::input(format!("{} [{}]", finding.message, finding.code));
    let error = match &finding.at {
        Some(at) => error.at(at),
        None => error,
    };
    error.hint(format!(
        "{}\nmore: imgbuild explain {}; to go on anyway: --allow {}",
        finding.fix, finding.code, finding.code
    ))
}
