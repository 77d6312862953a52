//! What the job wrote: the ranks' lines among whatever else comes along.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::docker::Channel;

const RANK_MARK: &str = "IMGBUILD_PROBE_RANK ";
const SUMMARY_MARK: &str = "IMGBUILD_PROBE_SUMMARY ";
/// Before a line that tells a person what rank 0 does.
const PROGRESS_MARK: &str = "imgbuild probe: ";
/// What a rank writes when it begins a check.
const BEGIN_MARK: &str = "begins ";
/// How many of the last lines on stderr are kept: torchrun's own report has some 40.
const TAIL: usize = 200;
/// How many of each rank's own are.
const RANK_TAIL: usize = 30;

/// One rank's result, as the rank itself wrote it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RankResult {
    /// The rank.
    pub rank: u32,
    /// Whether all its checks passed.
    pub ok: bool,
    /// A stable code of what went wrong.
    pub code: Option<String>,
    /// The check that failed.
    pub failed_step: Option<String>,
    /// Where in that check: `epoch 1 batch 3`.
    #[serde(rename = "where")]
    pub place: Option<String>,
    /// What went wrong, in words.
    pub error: Option<String>,
    /// Whether it failed only because another rank did.
    pub secondary: bool,
    /// `nccl` or `gloo`.
    pub backend: String,
    /// The number of ranks that it knew of.
    pub world_size: u32,
    /// `cuda:0`, `cpu`.
    pub device: Option<String>,
    /// Its GPU.
    pub gpu: Option<Gpu>,
    /// Samples a second in training.
    pub samples_per_s: Option<f64>,
    /// The loss on a fixed batch before training.
    pub loss_first: Option<f64>,
    /// The same after it.
    pub loss_last: Option<f64>,
    /// Each timed step of ResNet-50 on all ranks, in milliseconds.
    pub step_ms: Vec<f64>,
    /// Its device's matrix products by itself, in 10^12 operations a second; bfloat16 on a GPU.
    pub gemm_tflops: Option<f64>,
    /// SHA-256 over all parameters after training.
    pub params_sha256: Option<String>,
    /// The container's host name.
    pub hostname: String,
    /// How long it ran, in seconds.
    pub seconds: Option<f64>,
    /// When it ended, in seconds since the epoch.
    pub ended_at: Option<f64>,
    /// Its checks, in order.
    pub checks: Vec<Check>,
    /// What NCCL wrote in its own log, where the rank failed.
    pub evidence: Vec<String>,
}

/// A rank's GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gpu {
    /// The model.
    pub name: String,
    /// The UUID, of the slice where MIG is on.
    pub uuid: Option<String>,
    /// The PCI bus ID.
    pub pci: Option<String>,
    /// The compute capability: `9.0`.
    pub capability: Option<String>,
    /// Memory in bytes.
    pub total_memory: Option<u64>,
    /// What nvidia-smi complains of: ECC errors, pending row remaps, a reset that is due.
    pub health: Vec<String>,
}

/// One named check.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Check {
    /// The name.
    pub name: String,
    /// Whether it passed, or did not apply.
    pub ok: bool,
    /// Whether it did not apply.
    pub skipped: bool,
    /// How long it took, in seconds.
    pub seconds: Option<f64>,
    /// What it found.
    pub detail: String,
}

/// What rank 0 says about the whole job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// Whether rank 0 passed.
    pub ok: bool,
    /// torch's version.
    pub torch: Option<String>,
    /// The CUDA version that torch was built with.
    pub cuda: Option<String>,
    /// cuDNN's version as a number.
    pub cudnn: Option<u64>,
    /// NCCL's version.
    pub nccl: Option<String>,
    /// The host's NVIDIA driver.
    pub driver: Option<String>,
    /// Python's version.
    pub python: Option<String>,
    /// Each rank's GPU.
    pub gpus: Vec<String>,
    /// The hosts.
    pub hosts: Vec<String>,
    /// Epochs trained.
    pub epochs: Option<u64>,
    /// Samples a second of all ranks together.
    pub samples_per_s: Option<f64>,
    /// The size of `/dev/shm` in bytes.
    pub shm_total_bytes: Option<u64>,
    /// What was free of it at the end, in bytes.
    pub shm_free_bytes: Option<u64>,
    /// Variables in the environment that change what CUDA or NCCL do.
    pub env: BTreeMap<String, String>,
    /// All-reduce by size.
    pub bandwidth: Vec<Bandwidth>,
    /// Channels that NCCL set up, by transport: `P2P/CUMEM`, `SHM/direct/direct`, `NET/Socket/0`.
    pub transports: BTreeMap<String, u64>,
    /// How rank 0's host connects its GPUs, as `nvidia-smi topo -m` draws it.
    pub topology: Vec<String>,
    /// The same job on growing numbers of ranks.
    pub scaling: Vec<Scaling>,
    /// What that job trains.
    pub model: Option<String>,
}

/// All-reduce of one size over all ranks; the slowest rank's time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bandwidth {
    /// The size in bytes.
    pub bytes: u64,
    /// The time of one all-reduce in microseconds.
    pub microseconds: f64,
    /// Size over time, in 10^9 bytes a second.
    pub algorithm_gb_s: f64,
    /// What each link carried: the above x 2 (n - 1) / n (nccl-tests, PERFORMANCE.md).
    pub bus_gb_s: f64,
}

/// The same work a rank, on so many ranks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scaling {
    /// The number of ranks.
    pub ranks: u32,
    /// Samples a second of all of them.
    pub samples_per_s: f64,
    /// Against one rank.
    pub speedup: f64,
    /// The speed-up over the number of ranks, 1 at best.
    pub efficiency: f64,
}

/// Collects a job's output as it comes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// The ranks' results.
    pub ranks: BTreeMap<u32, RankResult>,
    /// Rank 0's summary.
    pub summary: Option<Summary>,
    /// How many marked lines could not be read.
    pub garbled: u32,
    /// The last thing that rank 0 told a person.
    pub last_progress: Option<String>,
    stderr: VecDeque<String>,
    by_rank: BTreeMap<u32, RankLines>,
}

/// What a rank wrote to stderr.
#[derive(Clone, Debug, Default, PartialEq)]
struct RankLines {
    last: VecDeque<String>,
    begun: Option<String>,
}

impl Output {
    /// Takes a line. Gives what a person should see of it now.
    pub fn take<'a>(&mut self, channel: Channel, line: &'a str) -> Option<&'a str> {
        match channel {
            Channel::Out => {
                self.take_result(line);
                None
            }
            Channel::Err => {
                if let Some(progress) = line.strip_prefix(PROGRESS_MARK) {
                    self.last_progress = Some(progress.trim().to_owned());
                    return Some(progress);
                }
                if !self.take_ranks(line) {
                    keep_last(&mut self.stderr, line, TAIL);
                }
                None
            }
        }
    }

    /// Keeps a line that says whose it is; whether it told of a check's begin, which concerns that rank alone.
    fn take_ranks(&mut self, line: &str) -> bool {
        let Some((rank, text)) = marked_line(line) else {
            return false;
        };
        let lines = self.by_rank.entry(rank).or_default();
        let begun = text.strip_prefix(BEGIN_MARK);
        if let Some(step) = begun {
            lines.begun = Some(step.to_owned());
            // A check during which nothing was written tells nothing.
            let last = lines.last.back();
            if last.is_some_and(|line| line.starts_with(BEGIN_MARK)) {
                lines.last.pop_back();
            }
        }
        keep_last(&mut lines.last, text, RANK_TAIL);
        begun.is_some()
    }

    /// The last lines of each rank that wrote any.
    pub fn last_lines(&self) -> BTreeMap<u32, Vec<String>> {
        let ranks = self.by_rank.iter();
        ranks
            .map(|(rank, lines)| (*rank, lines.last.iter().cloned().collect()))
            .collect()
    }

    /// The check that a rank began last.
    pub fn begun(&self, rank: u32) -> Option<String> {
        self.by_rank.get(&rank)?.begun.clone()
    }

    /// The last lines on stderr, progress left out, at most `count`.
    pub fn stderr_tail(&self, count: usize) -> Vec<String> {
        let skipped = self.stderr.len().saturating_sub(count);
        self.stderr.iter().skip(skipped).cloned().collect()
    }

    /// Whether a kept line on stderr holds one of these words; gives the last such line.
    pub fn stderr_with(&self, words: &[&str]) -> Option<&str> {
        let holds = |line: &&String| words.iter().any(|word| line.contains(word));
        self.stderr.iter().rev().find(holds).map(String::as_str)
    }

    /// The last line on stderr that says something: torchrun begins with a framed advice.
    pub fn last_words(&self) -> Option<&str> {
        let says = |line: &&String| {
            line.contains(char::is_alphanumeric) && !line.starts_with("Setting OMP_NUM_THREADS")
        };
        self.stderr.iter().rev().find(says).map(String::as_str)
    }

    /// The exit status of a rank as torchrun reports it; negative after a signal.
    pub fn torchrun_exit(&self, rank: u32) -> Option<i64> {
        let mut current = None;
        for line in &self.stderr {
            let Some((key, value)) = line.split_once(':') else {
                continue;
            };
            let number = value.split_whitespace().next();
            match key.trim() {
                "rank" => current = number.and_then(|n| n.parse::<u32>().ok()),
                "exitcode" if current == Some(rank) => return number?.parse().ok(),
                _ => {}
            }
        }
        None
    }

    /// The rank whose end torchrun saw first.
    pub fn first_failed(&self) -> Option<u32> {
        let mut lines = self.stderr.iter();
        lines.find(|line| line.trim_start().starts_with("Root Cause"))?;
        let rank =
            lines.find_map(|line| line.trim_start().strip_prefix("rank")?.split_once(':'))?;
        rank.1.split_whitespace().next()?.parse().ok()
    }

    /// Other processes may write on the same line, before the mark or behind the JSON.
    fn take_result(&mut self, line: &str) {
        if let Some((_, json)) = line.split_once(RANK_MARK) {
            match first_value(json).and_then(rank_result) {
                Some(result) => self.keep(result),
                None => self.garbled += 1,
            }
        } else if let Some((_, json)) = line.split_once(SUMMARY_MARK) {
            match first_value(json).and_then(from_value) {
                Some(summary) => self.summary = Some(summary),
                None => self.garbled += 1,
            }
        }
    }

    /// A rank speaks once; should it speak again, a failure counts.
    fn keep(&mut self, result: RankResult) {
        match self.ranks.get(&result.rank) {
            Some(before) if !before.ok || result.ok => {}
            _ => {
                self.ranks.insert(result.rank, result);
            }
        }
    }
}

/// `[rank1]: text`, or `[rank1]:[W...` as PyTorch's own C++ has it.
fn marked_line(line: &str) -> Option<(u32, &str)> {
    let (rank, text) = line.strip_prefix("[rank")?.split_once("]:")?;
    Some((rank.parse().ok()?, text.strip_prefix(' ').unwrap_or(text)))
}

fn keep_last(lines: &mut VecDeque<String>, line: &str, limit: usize) {
    if lines.len() == limit {
        lines.pop_front();
    }
    lines.push_back(line.to_owned());
}

/// Whether a line holds a rank's or the job's result.
pub(super) fn is_result(line: &str) -> bool {
    line.contains(RANK_MARK) || line.contains(SUMMARY_MARK)
}

fn first_value(json: &str) -> Option<Value> {
    let mut values = serde_json::Deserializer::from_str(json).into_iter();
    values.next()?.ok()
}

/// A result without a rank or a verdict is none.
fn rank_result(value: Value) -> Option<RankResult> {
    value.get("rank")?.as_u64()?;
    value.get("ok")?.as_bool()?;
    from_value(value)
}

fn from_value<T: DeserializeOwned>(value: Value) -> Option<T> {
    serde_json::from_value(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_found_in_noise() {
        let mut output = Output::default();
        for line in [
            "hello from a worker",
            r#"half a line IMGBUILD_PROBE_RANK {"rank": 1, "ok": true, "new_field": [1]} tail"#,
            r#"IMGBUILD_PROBE_RANK {"rank": 2, "ok": true, "checks": [{"name": "tor"#,
            r#"IMGBUILD_PROBE_RANK {"ok": true}"#,
            r#"IMGBUILD_PROBE_RANK {"rank": "x", "ok": true}"#,
            r#"IMGBUILD_PROBE_SUMMARY {"torch": "2.15.0", "ok": true, "cudnn": null}"#,
        ] {
            assert_eq!(output.take(Channel::Out, line), None);
        }
        assert_eq!(output.ranks.keys().collect::<Vec<_>>(), [&1]);
        assert_eq!(output.garbled, 3);
        assert_eq!(output.summary.unwrap().torch.as_deref(), Some("2.15.0"));
    }

    #[test]
    fn a_failure_is_not_overwritten() {
        let mut output = Output::default();
        for ok in [true, false, true] {
            let line = format!(r#"IMGBUILD_PROBE_RANK {{"rank": 0, "ok": {ok}}}"#);
            output.take(Channel::Out, &line);
        }
        assert!(!output.ranks[&0].ok);
    }

    #[test]
    fn progress_is_shown_and_the_rest_is_kept() {
        let mut output = Output::default();
        let shown = output.take(Channel::Err, "imgbuild probe: torch ok");
        assert_eq!(shown, Some("torch ok"));
        for n in 0..TAIL + 5 {
            assert_eq!(output.take(Channel::Err, &format!("line {n}")), None);
        }
        assert_eq!(output.stderr_tail(2), ["line 203", "line 204"]);
        assert_eq!(output.stderr_tail(1000).len(), TAIL);
        assert_eq!(output.stderr_with(&["line 2", "none"]), Some("line 204"));
        assert_eq!(output.last_progress.as_deref(), Some("torch ok"));
    }

    #[test]
    fn each_ranks_own_lines_are_kept_apart() {
        let mut output = Output::default();
        for line in [
            "[rank1]: begins ddp_init",
            "[rank1]: begins train",
            "[rank0]: Traceback (most recent call last):",
            "[rank1]:[W1125 socket.cpp:1] slow",
            "[rank1]: begins samples",
            "[rankx]: not a rank",
        ] {
            assert_eq!(output.take(Channel::Err, line), None);
        }
        assert_eq!(output.begun(1).as_deref(), Some("samples"));
        assert_eq!(output.begun(0), None);
        let last = output.last_lines();
        assert_eq!(last[&0], ["Traceback (most recent call last):"]);
        assert_eq!(
            last[&1],
            [
                "begins train",
                "[W1125 socket.cpp:1] slow",
                "begins samples"
            ]
        );
        assert_eq!(output.stderr_tail(9).len(), 3);
    }

    #[test]
    fn torchruns_table_is_read() {
        let mut output = Output::default();
        for line in [
            "Root Cause (first observed failure):",
            "  rank      : 2 (local_rank: 2)",
            "  exitcode  : -9 (pid: 77)",
            "  traceback : Signal 9 (SIGKILL) received by PID 77",
        ] {
            output.take(Channel::Err, line);
        }
        assert_eq!(output.first_failed(), Some(2));
        assert_eq!(output.torchrun_exit(2), Some(-9));
        assert_eq!(output.torchrun_exit(1), None);
    }
}
