//! The cause of a failure: which of all that went wrong came first.

use std::collections::BTreeSet;

use super::{
    output::{Output, RankResult},
    report::{Failure, ProbeReport, Proves},
};
use crate::docker::Outcome;

impl ProbeReport {
    /// The likeliest first cause: a rank's own error; then a rank that died without a word; then
    /// ranks that waited for it; then those that only stopped with the others.
    pub(super) fn find_failure(&self, outcome: &Outcome, output: &Output) -> Option<Failure> {
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
            step: output.begun(rank).or_else(|| waiter.failed_step.clone()),
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
        self.slowest()?.failed_step.clone()
    }

    fn slowest(&self) -> Option<&RankResult> {
        let failed = self.ranks.iter().filter(|r| !r.ok);
        failed.min_by_key(|r| r.checks.len())
    }

    /// The rank that got least far holds up the others.
    fn time_was_up(&self, output: &Output) -> Failure {
        let limit = format!("not finished after {} s", self.timeout);
        let silent = match &self.missing_ranks[..] {
            silent if silent.is_empty() || self.ranks.is_empty() => String::new(),
            silent => format!(
                "; no word from {}{}",
                names(silent),
                last_seen(silent, output)
            ),
        };
        let slowest = self.slowest();
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
        let root = output.first_failed();
        let root = root.filter(|rank| self.missing_ranks.contains(rank));
        let told = root
            .iter()
            .chain(&self.missing_ranks)
            .find_map(|&rank| Some((rank, output.torchrun_exit(rank)?)));
        let rank = told.map_or(first, |(rank, _)| rank);
        let silent = names(&self.missing_ranks);
        let message = match told {
            Some((_, code)) => format!("it {} and gave no result", ended_by(code)),
            None if self.ranks.is_empty() => {
                let ended = exit_words(outcome.exit_code);
                match output.last_words() {
                    Some(last) => format!("no rank gave a result; {ended}: {last}"),
                    None => format!("no rank gave a result; {ended}"),
                }
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
            step: output.begun(rank).or_else(|| self.last_step()),
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

/// Where a single silent rank was.
fn last_seen(silent: &[u32], output: &Output) -> String {
    let step = match silent {
        [rank] => output.begun(*rank),
        _ => None,
    };
    step.map_or_else(String::new, |step| format!(", which had begun {step}"))
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
