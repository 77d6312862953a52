//! The verdict, built from what the job wrote.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    advice,
    output::{Check, Output, RankResult, Summary},
    spec::Backend,
};
use crate::docker::Outcome;

/// The version of the report's JSON; fields may be added without a new one.
pub const SCHEMA: u32 = 1;
/// What a run without GPUs is worth.
pub const CPU_NOTE: &str = "CPU (gloo): proves the software path, not the GPUs";
/// How many of the last lines on stderr a report of a failure holds.
const STDERR_LINES: usize = 40;

/// The report of a probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The verdict on what [`ProbeReport::proves`] says.
    pub verdict: Verdict,
    /// What a PASS proves.
    pub proves: Proves,
    /// [`CPU_NOTE`] where no GPU took part.
    pub note: Option<String>,
    /// `nccl` or `gloo`.
    pub backend: String,
    /// The number of ranks asked for.
    pub nproc: u32,
    /// What was probed, and where.
    #[serde(flatten)]
    pub place: Place,
    /// The checks before the job, in order.
    #[serde(default)]
    pub before: Vec<Check>,
    /// From the job's start to its end, in seconds.
    pub seconds: f64,
    /// The job's exit status.
    pub exit_code: Option<i64>,
    /// Whether it was stopped at the time limit.
    pub timed_out: bool,
    /// The time limit in seconds.
    pub timeout: f64,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// The results, by rank.
    pub ranks: Vec<RankResult>,
    /// Ranks that gave no result.
    pub missing_ranks: Vec<u32>,
    /// Rank 0's summary.
    pub summary: Option<Summary>,
    /// The last lines on stderr of all together, when it failed.
    pub stderr: Vec<String>,
    /// The last lines of each rank by itself, when it failed.
    #[serde(default)]
    pub last_lines: BTreeMap<u32, Vec<String>>,
}

/// What the ranks ran in; `runtime` in the JSON tells which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "runtime", rename_all = "lowercase")]
pub enum Place {
    /// A container.
    Container {
        /// What was probed.
        image: ImageInfo,
        /// What ran it.
        daemon: DaemonInfo,
        /// The size of `/dev/shm` that was asked for, in bytes.
        shm_size: u64,
    },
    /// Processes on a machine.
    Host {
        /// The machine's name.
        hostname: String,
        /// The Python, as a path.
        python: PathBuf,
    },
    /// Several machines under a cluster's engine.
    Cluster {
        /// `slurm`, `kubernetes`, `jobset` or `pytorchjob`.
        engine: String,
        /// The nodes' names, in the order of their ranks.
        nodes: Vec<String>,
        /// How many ranks each has.
        ranks_per_node: u32,
        /// The image; none where the nodes' own Python ran.
        container_image: Option<String>,
    },
}

impl Place {
    /// The node of a rank, where there are several.
    pub(super) fn node(&self, rank: u32) -> Option<&str> {
        let Self::Cluster {
            nodes,
            ranks_per_node,
            ..
        } = self
        else {
            return None;
        };
        let index = rank.checked_div(*ranks_per_node)?;
        nodes.get(usize::try_from(index).ok()?).map(String::as_str)
    }
}

/// The outcome of a probe that ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// Every rank passed every check.
    Pass,
    /// Something failed.
    Fail,
}

/// What a PASS proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proves {
    /// The GPUs train.
    Gpus,
    /// The software works, on CPUs alone.
    SoftwarePath,
}

/// The image that was probed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageInfo {
    /// As the user named it.
    pub name: String,
    /// The daemon's ID of it.
    pub id: String,
}

/// The daemon that ran it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonInfo {
    /// Address and how it was chosen.
    pub address: String,
    /// Its version.
    pub version: String,
}

/// The first cause of a failure, as far as it can be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A stable code.
    pub code: String,
    /// The rank that failed first.
    pub rank: Option<u32>,
    /// The check it was in.
    pub step: Option<String>,
    /// What went wrong.
    pub message: String,
    /// The way out.
    pub fix: Option<String>,
}

/// What is known of a run beside its output.
#[derive(Clone, Debug)]
pub struct RunFacts {
    /// What was asked for.
    pub backend: Backend,
    /// Where it ran.
    pub place: Place,
    /// The time limit.
    pub timeout: Duration,
    /// How the job ended.
    pub outcome: Outcome,
}

impl ProbeReport {
    /// Judges a run: it passes only when every rank that was asked for says so, on the backend
    /// that was asked for, and the job ended well.
    pub fn new(facts: RunFacts, output: &Output) -> Self {
        let nproc = facts.backend.ranks();
        let missing_ranks = (0..nproc)
            .filter(|rank| !output.ranks.contains_key(rank))
            .collect();
        let mut report = Self {
            schema: SCHEMA,
            verdict: Verdict::Pass,
            proves: Proves::Gpus,
            note: None,
            backend: facts.backend.name().to_owned(),
            nproc,
            place: facts.place,
            before: Vec::new(),
            seconds: (facts.outcome.wall.as_secs_f64() * 1000.0).round() / 1000.0,
            exit_code: facts.outcome.exit_code,
            timed_out: facts.outcome.timed_out,
            timeout: facts.timeout.as_secs_f64(),
            failure: None,
            ranks: output.ranks.values().cloned().collect(),
            missing_ranks,
            summary: output.summary.clone(),
            stderr: Vec::new(),
            last_lines: BTreeMap::new(),
        };
        if matches!(facts.backend, Backend::Cpu { .. }) {
            report.proves = Proves::SoftwarePath;
            report.note = Some(CPU_NOTE.to_owned());
        }
        if let Some(mut failure) = report.find_failure(&facts.outcome, output) {
            failure.fix = advice::fix(&failure.code).map(str::to_owned);
            report.failure = Some(failure);
            report.verdict = Verdict::Fail;
            report.stderr = output.stderr_tail(STDERR_LINES);
            report.last_lines = output.last_lines();
        }
        report
    }

    /// The report with the checks that came before the job.
    #[must_use]
    pub(super) fn after(mut self, before: Vec<Check>) -> Self {
        self.before = before;
        self
    }

    /// Whether it passed.
    pub fn passed(&self) -> bool {
        self.verdict == Verdict::Pass
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
pub(in crate::probe) mod tests;
