//! Verdicts over made-up runs.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::docker::Channel;

/// A run to be changed by a test before it is judged.
pub(in crate::probe) struct Run {
    pub backend: Backend,
    pub outcome: Outcome,
    ranks: Vec<Value>,
    summary: Option<Value>,
    stderr: Vec<String>,
}

pub(in crate::probe) fn cpu_run(nproc: u32) -> Run {
    run(Backend::Cpu { nproc })
}

fn run(backend: Backend) -> Run {
    let rank = |rank: u32| {
        let gpu = matches!(backend, Backend::Gpus(_))
            .then(|| json!({"name": "H100", "uuid": format!("GPU-{rank}")}));
        json!({
            "schema": 1, "rank": rank, "ok": true, "code": null, "failed_step": null,
            "backend": backend.name(), "world_size": backend.ranks(),
            "device": if gpu.is_some() { format!("cuda:{rank}") } else { "cpu".into() },
            "gpu": gpu, "samples_per_s": 100.5, "loss_first": 2.4, "loss_last": 0.5,
            "params_sha256": "abc", "ended_at": 100.0,
            "checks": [
                {"name": "torch", "ok": true, "skipped": false, "seconds": 1.0, "detail": ""},
                {"name": "distinct_gpus", "ok": true, "skipped": gpu.is_none(), "seconds": 0.0, "detail": ""},
            ],
        })
    };
    Run {
        backend,
        outcome: Outcome {
            exit_code: Some(0),
            wall: Duration::from_millis(12_340),
            ..Outcome::default()
        },
        ranks: (0..backend.ranks()).map(rank).collect(),
        summary: Some(json!({
            "ok": true, "torch": "2.15.0", "python": "3.11.2", "samples_per_s": 201.0,
            "shm_total_bytes": 2_u64 << 30, "env": {"NCCL_DEBUG": "INFO"},
        })),
        stderr: Vec::new(),
    }
}

impl Run {
    pub fn fail(&mut self, rank: usize, code: &str, step: &str, secondary: bool) {
        let line = &mut self.ranks[rank];
        line["ok"] = json!(false);
        line["code"] = json!(code);
        line["failed_step"] = json!(step);
        line["secondary"] = json!(secondary);
        line["error"] = json!(format!("{code} happened"));
    }

    /// This rank gave no result.
    pub fn lose(&mut self, rank: usize) {
        self.ranks[rank] = Value::Null;
    }

    pub fn stderr(&mut self, line: &str) {
        self.stderr.push(line.to_owned());
    }
}

pub(in crate::probe) fn report(run: &Run) -> ProbeReport {
    let mut output = Output::default();
    for line in &run.stderr {
        output.take(Channel::Err, line);
    }
    for rank in run.ranks.iter().filter(|rank| !rank.is_null()) {
        output.take(Channel::Out, &format!("IMGBUILD_PROBE_RANK {rank}"));
    }
    if let Some(summary) = &run.summary {
        output.take(Channel::Out, &format!("IMGBUILD_PROBE_SUMMARY {summary}"));
    }
    let facts = RunFacts {
        backend: run.backend,
        place: Place::Container {
            image: ImageInfo {
                name: "train:dev".into(),
                id: format!("sha256:{}", "0123456789ab".repeat(6)),
            },
            daemon: DaemonInfo::default(),
            shm_size: 2 << 30,
        },
        timeout: Duration::from_secs(10),
        outcome: run.outcome.clone(),
    };
    ProbeReport::new(facts, &output)
}

fn cause(run: &Run) -> (String, Option<u32>, String) {
    let failure = report(run).failure.expect("should have failed");
    (failure.code, failure.rank, failure.message)
}

#[test]
fn a_cpu_pass_is_never_a_gpu_pass() {
    let cpu = report(&cpu_run(4));
    assert!(cpu.passed(), "{:?}", cpu.failure);
    let json = serde_json::to_value(&cpu).unwrap();
    assert_eq!(json["verdict"], "PASS");
    assert_eq!(json["proves"], "software-path");
    assert_eq!(json["note"], CPU_NOTE);
    assert_eq!(json["schema"], 1);

    let gpu = report(&run(Backend::Gpus(4)));
    assert!(gpu.passed(), "{:?}", gpu.failure);
    assert_eq!(serde_json::to_value(&gpu).unwrap()["proves"], "gpus");
    assert_eq!(gpu.note, None);

    // A job that ran on CPUs although GPUs were asked for.
    let mut lie = cpu_run(4);
    lie.backend = Backend::Gpus(4);
    assert_eq!(cause(&lie).0, "wrong-job");
}

#[test]
fn the_json_can_be_read_back() {
    let mut failed = cpu_run(2);
    failed.fail(0, "oom", "train", false);
    failed.stderr("[rank0]: begins train");
    for report in [report(&failed), report(&run(Backend::Gpus(2)))] {
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<ProbeReport>(&text).unwrap(), report);
    }
}

#[test]
fn the_first_own_error_is_the_cause() {
    let mut run = cpu_run(4);
    run.fail(0, "peer-lost", "all_reduce", true);
    run.fail(1, "stall", "all_reduce", false);
    run.fail(2, "mismatch", "all_reduce", false);
    run.fail(3, "oom", "all_reduce", false);
    run.ranks[3]["ended_at"] = json!(99.0);
    run.outcome.exit_code = Some(1);
    assert_eq!(cause(&run), ("oom".into(), Some(3), "oom happened".into()));
}

#[test]
fn a_missing_rank_is_named() {
    let mut run = cpu_run(4);
    run.ranks[2] = Value::Null;
    assert_eq!(cause(&run).1, Some(2));
    assert_eq!(report(&run).missing_ranks, [2]);

    // The others waited for it or were stopped: still its fault.
    run.fail(0, "stall", "all_reduce", false);
    run.fail(1, "terminated", "all_reduce", true);
    run.stderr("  rank      : 2 (local_rank: 2)");
    run.stderr("  exitcode  : -9 (pid: 7)");
    run.outcome.exit_code = Some(1);
    let (code, rank, message) = cause(&run);
    assert_eq!((code.as_str(), rank), ("rank-missing", Some(2)));
    let step = |run: &Run| report(run).failure.unwrap().step;
    assert_eq!(step(&run).as_deref(), Some("all_reduce"));
    run.stderr("[rank2]: begins reduce_scatter");
    assert_eq!(step(&run).as_deref(), Some("reduce_scatter"));
    assert!(message.contains("SIGKILL"), "{message}");
    run.outcome.oom_killed = true;
    assert_eq!(cause(&run).0, "memory");
}

#[test]
fn the_rank_that_died_first_is_named_although_none_spoke() {
    let mut run = cpu_run(2);
    run.ranks.clear();
    for line in [
        "[0]:",
        "  rank      : 0 (local_rank: 0)",
        "  exitcode  : -15 (pid: 12)",
        "Root Cause (first observed failure):",
        "[0]:",
        "  rank      : 1 (local_rank: 1)",
        "  exitcode  : -9 (pid: 13)",
        "[rank1]: begins import",
    ] {
        run.stderr(line);
    }
    run.outcome.exit_code = Some(1);
    let failure = report(&run).failure.unwrap();
    assert_eq!(
        (failure.rank, failure.step.as_deref()),
        (Some(1), Some("import"))
    );
    assert!(failure.message.contains("SIGKILL"), "{}", failure.message);
}

#[test]
fn no_ranks_at_all_shows_the_last_line() {
    let mut run = cpu_run(2);
    run.ranks.clear();
    run.summary = None;
    run.stderr("ImportError: libcudart.so.12: cannot open shared object file");
    run.outcome.exit_code = Some(1);
    let (code, rank, message) = cause(&run);
    assert_eq!((code.as_str(), rank), ("cuda-mixed", None));
    assert!(message.contains("libcudart"), "{message}");
    assert_eq!(report(&run).stderr.len(), 1);
    run.stderr = vec!["ImportError: libpython3.so: undefined symbol: x".to_owned()];
    assert_eq!(cause(&run).0, "no-results");
}

#[test]
fn a_timeout_tells_where_it_stood() {
    let mut run = cpu_run(3);
    run.outcome.timed_out = true;
    run.outcome.exit_code = Some(143);
    run.fail(0, "terminated", "train", true);
    run.fail(1, "terminated", "all_reduce", true);
    run.ranks[1]["where"] = json!("4 MiB");
    run.ranks[1]["checks"] = json!([]);
    run.ranks[2] = Value::Null;
    let (code, rank, message) = cause(&run);
    assert_eq!((code.as_str(), rank), ("timeout", Some(1)));
    assert_eq!(
        message,
        "not finished after 10 s (4 MiB); no word from rank 2"
    );

    run.ranks.clear();
    run.stderr("[W1125 socket.cpp:764] [c10d] the name cannot be resolved");
    assert_eq!(cause(&run).0, "rendezvous");
    run.stderr("imgbuild probe: device   ok");
    assert!(cause(&run).2.contains("last seen of rank 0: device   ok"));
}

#[test]
fn what_does_not_add_up_fails() {
    let mut bad_exit = cpu_run(2);
    bad_exit.outcome.exit_code = Some(139);
    assert_eq!(cause(&bad_exit).0, "bad-end");
    let mut unknown_exit = cpu_run(2);
    unknown_exit.outcome.exit_code = None;
    assert_eq!(cause(&unknown_exit).0, "bad-end");
    let mut silent = cpu_run(2);
    silent.summary = None;
    assert_eq!(cause(&silent).0, "bad-end");
    let mut params = cpu_run(2);
    params.ranks[1]["params_sha256"] = json!("abd");
    assert_eq!(cause(&params).0, "mismatch");
    let mut world = cpu_run(2);
    world.ranks[1]["world_size"] = json!(1);
    assert_eq!(cause(&world).0, "wrong-job");
    let mut shared = run(Backend::Gpus(2));
    shared.ranks[1]["gpu"]["uuid"] = json!("GPU-0");
    assert_eq!(cause(&shared).0, "same-gpu");
}
