//! The verdict, built from what the job wrote.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

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
    /// The last lines on stderr, when it failed.
    pub stderr: Vec<String>,
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

    /// The likeliest first cause: a rank's own error; then a rank that died without a word; then
    /// ranks that waited for it; then those that only stopped with the others.
    fn find_failure(&self, outcome: &Outcome, output: &Output) -> Option<Failure> {
        let failed = |grade: fn(&RankResult) -> bool| {
            let mut ranks: Vec<_> = self.ranks.iter().filter(|r| !r.ok && grade(r)).collect();
            ranks.sort_by(|a, b| ended(a).total_cmp(&ended(b)));
            ranks.first().map(|rank| rank_failure(rank))
        };
        let found = match outcome.timed_out {
            true => Some(self.time_was_up(output)),
            false => failed(|r| !r.secondary && !waited(r))
                .or_else(|| self.wrong_job())
                .or_else(|| self.hung_rank(output))
                .or_else(|| self.dead_rank(outcome, output))
                .or_else(|| failed(waited))
                .or_else(|| failed(|_| true))
                .or_else(|| self.bad_end(outcome, output))
                .or_else(|| self.distrust()),
        };
        found.map(
            |failure| match outcome.oom_killed && somebody_is_gone(&failure) {
                true => Failure {
                    code: "memory".into(),
                    message: format!(
                        "the kernel killed a process at the memory limit: {}",
                        failure.message
                    ),
                    ..failure
                },
                false => failure,
            },
        )
    }

    /// A rank without a word, when the job ended only because another had waited for too long: had
    /// it died, torchrun would have seen that first.
    fn hung_rank(&self, output: &Output) -> Option<Failure> {
        let rank = *self.missing_ranks.first()?;
        let first = output.first_failed()?;
        let waiter = self.ranks.iter().find(|r| r.rank == first && waited(r))?;
        let why = waiter.error.as_deref().unwrap_or_default();
        Some(Failure {
            rank: Some(rank),
            step: waiter.failed_step.clone(),
            ..job_failure(
                waiter.code.as_deref().unwrap_or("stall"),
                format!(
                    "no sign of life from {} while rank {first} waited: {why}",
                    names(&self.missing_ranks)
                ),
            )
        })
    }

    /// Where the ranks were that got least far.
    fn last_step(&self) -> Option<String> {
        let failed = self.ranks.iter().filter(|r| !r.ok);
        failed.min_by_key(|r| r.checks.len())?.failed_step.clone()
    }

    /// The rank that got least far holds up the others.
    fn time_was_up(&self, output: &Output) -> Failure {
        let limit = format!("not finished after {} s", self.timeout);
        let silent = match &self.missing_ranks[..] {
            silent if silent.is_empty() || self.ranks.is_empty() => String::new(),
            silent => format!("; no word from {}", names(silent)),
        };
        let slowest = self
            .ranks
            .iter()
            .filter(|r| !r.ok)
            .min_by_key(|r| r.checks.len());
        let meeting = output.stderr_with(&["[c10d]"]);
        let (code, seen) = match (slowest, &output.last_progress, meeting) {
            (Some(rank), _, _) => ("timeout", place(rank)),
            (None, Some(last), _) => ("timeout", format!(", last seen of rank 0: {last}")),
            (None, None, Some(line)) => ("rendezvous", format!(", no rank began: {line}")),
            (None, None, None) => ("timeout", ", no rank began".to_owned()),
        };
        Failure {
            code: code.into(),
            rank: slowest.map(|rank| rank.rank),
            step: slowest.and_then(|rank| rank.failed_step.clone()),
            message: format!("{limit}{seen}{silent}"),
            fix: None,
        }
    }

    fn dead_rank(&self, outcome: &Outcome, output: &Output) -> Option<Failure> {
        let first = *self.missing_ranks.first()?;
        // torchrun names the rank that died first; the others it stopped itself.
        let told = self
            .missing_ranks
            .iter()
            .find_map(|&rank| Some((rank, output.torchrun_exit(rank)?)));
        let rank = told.map_or(first, |(rank, _)| rank);
        let silent = names(&self.missing_ranks);
        let message = match told {
            Some((_, code)) => format!("it {} and gave no result", ended_by(code)),
            None if self.ranks.is_empty() => {
                let last = output.stderr_tail(1).pop().unwrap_or_default();
                format!(
                    "no rank gave a result; {}: {last}",
                    exit_words(outcome.exit_code)
                )
            }
            None => format!("no result from {silent}; {}", exit_words(outcome.exit_code)),
        };
        let garbled = match output.garbled {
            0 => String::new(),
            n => format!(" ({n} unreadable result lines)"),
        };
        let code = if self.ranks.is_empty() && mixed_cuda(output) {
            "cuda-mixed"
        } else if self.ranks.is_empty() && output.stderr_with(&["client socket has"]).is_some() {
            // torchrun itself did not reach its own store (c10d's words since torch 1.12).
            "rendezvous"
        } else if self.ranks.is_empty() && told.is_none() {
            "no-results"
        } else {
            "rank-missing"
        };
        Some(Failure {
            code: code.into(),
            rank: (told.is_some() || !self.ranks.is_empty()).then_some(rank),
            step: self.last_step(),
            message: message + &garbled,
            fix: None,
        })
    }

    /// All ranks passed, but the job did not end well.
    fn bad_end(&self, outcome: &Outcome, output: &Output) -> Option<Failure> {
        let message = match (outcome.exit_code, &output.summary) {
            (Some(0), Some(summary)) if summary.ok => return None,
            (Some(0), _) => "rank 0 gave no summary".to_owned(),
            (code, _) => format!("all ranks passed, then {}", exit_words(code)),
        };
        Some(job_failure("bad-end", message))
    }

    /// The ranks must be those that were asked for.
    fn wrong_job(&self) -> Option<Failure> {
        let odd = self.ranks.iter().find(|r| {
            r.backend != self.backend || r.world_size != self.nproc || r.rank >= self.nproc
        });
        let rank = odd?;
        let (world, backend) = (rank.world_size, &rank.backend);
        let message = format!(
            "ran as one of {world} ranks over {backend}, asked for were {} over {}",
            self.nproc, self.backend
        );
        Some(Failure {
            rank: Some(rank.rank),
            ..job_failure("wrong-job", message)
        })
    }

    /// What the ranks say must agree with each other.
    fn distrust(&self) -> Option<Failure> {
        let params: BTreeSet<_> = self.ranks.iter().map(|r| &r.params_sha256).collect();
        if params.len() != 1 || params.contains(&None) {
            let message = "the ranks' parameters differ after training".to_owned();
            return Some(job_failure("mismatch", message));
        }
        let uuids: BTreeSet<_> = self
            .ranks
            .iter()
            .filter_map(|r| r.gpu.as_ref()?.uuid.as_ref())
            .collect();
        if self.proves == Proves::Gpus && uuids.len() != self.ranks.len() {
            let message = format!(
                "{} ranks used {} distinct GPUs",
                self.ranks.len(),
                uuids.len()
            );
            return Some(job_failure("same-gpu", message));
        }
        None
    }
}

fn job_failure(code: &str, message: String) -> Failure {
    Failure {
        code: code.to_owned(),
        rank: None,
        step: None,
        message,
        fix: None,
    }
}

fn rank_failure(rank: &RankResult) -> Failure {
    Failure {
        code: rank.code.clone().unwrap_or_else(|| "error".into()),
        rank: Some(rank.rank),
        step: rank.failed_step.clone(),
        message: rank
            .error
            .clone()
            .unwrap_or_else(|| "failed without a word".into()),
        fix: None,
    }
}

/// Failures that a kill for lack of memory explains: of a rank, of its worker, of its check's child.
fn somebody_is_gone(failure: &Failure) -> bool {
    const CODES: [&str; 9] = [
        "rank-missing",
        "no-results",
        "worker-killed",
        "gpu-hang",
        "peer-lost",
        "terminated",
        "stall",
        "timeout",
        "bad-end",
    ];
    CODES.contains(&failure.code.as_str())
}

/// A rank that gave up waiting; the cause is likely elsewhere.
fn waited(rank: &RankResult) -> bool {
    matches!(rank.code.as_deref(), Some("stall" | "p2p" | "timeout"))
}

fn ended(rank: &RankResult) -> f64 {
    rank.ended_at.unwrap_or(f64::INFINITY)
}

fn place(rank: &RankResult) -> String {
    match rank.place.as_deref() {
        Some(place) if !place.is_empty() => format!(" ({place})"),
        _ => String::new(),
    }
}

fn names(ranks: &[u32]) -> String {
    let list: Vec<String> = ranks.iter().map(u32::to_string).collect();
    let word = if ranks.len() == 1 { "rank" } else { "ranks" };
    format!("{word} {}", list.join(", "))
}

fn ended_by(code: i64) -> String {
    match code {
        -9 => "was killed (signal 9, SIGKILL)".into(),
        -7 => "was killed (signal 7, SIGBUS)".into(),
        -11 => "crashed (signal 11, SIGSEGV)".into(),
        -6 => "aborted (signal 6, SIGABRT)".into(),
        code if code < 0 => format!("was killed by signal {}", -code),
        code => format!("ended with status {code}"),
    }
}

/// Whether Python ended on CUDA libraries that do not belong together, as the dynamic linker words it.
fn mixed_cuda(output: &Output) -> bool {
    let linker = output.stderr_with(&["undefined symbol", "cannot open shared object file"]);
    const CUDA: &[&str] = &["libcu", "libnv", "libnccl", "libtorch_cuda", "libc10_cuda"];
    linker.is_some_and(|line| CUDA.iter().any(|name| line.contains(name)))
}

fn exit_words(code: Option<i64>) -> String {
    match code {
        Some(code) => format!("the job ended with status {code}"),
        None => "nothing tells how the job ended".into(),
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
pub(in crate::probe) mod tests;
