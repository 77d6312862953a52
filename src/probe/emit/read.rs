//! The verdict on a job that other machines ran, from what their nodes wrote.

use std::time::Duration;

use serde::Deserialize;

use super::JobFacts;
use crate::{
    docker::{Channel, Outcome},
    error::{Error, Exit, Result},
    probe::{
        output::{Output, is_result},
        report::{Place, ProbeReport, RunFacts},
        spec::Backend,
    },
};

const BEGIN_MARK: &str = "IMGBUILD_PROBE_NODE ";
const END_MARK: &str = "IMGBUILD_PROBE_END ";
/// What the sbatch script says when all nodes have ended, one way or another.
const OVER_MARK: &str = "IMGBUILD_PROBE_OVER ";
/// The node script's status for a time limit, which is coreutils' too.
const TIMED_OUT: i64 = 124;
/// How Slurm tells that a task was killed for its memory (slurmstepd).
const OUT_OF_MEMORY: &str = "oom_kill event";
/// What srun says to pyxis' options where it is not installed.
const NO_PYXIS: &str = "unrecognized option '--container-";
const UNMET: &[&str] = &[
    "clients joined",
    "does not resolve",
    "client socket has",
    "RendezvousTimeoutError",
];
const UNMET_FIX: &str = "every node must reach the first one: its name must resolve there, and no firewall may stand \
                         between them; see docs/probe-cluster.md";

/// What a node says first.
#[derive(Debug, Deserialize)]
struct Begin {
    index: u32,
    node: String,
    job: JobFacts,
}

/// What a node says last.
#[derive(Debug, Deserialize)]
struct End {
    index: u32,
    status: i64,
    seconds: f64,
}

/// A node's log.
struct Node<'t> {
    begin: Begin,
    end: Option<End>,
    lines: Vec<&'t str>,
}

/// Judges a job by all that its nodes wrote, stdout and stderr together, node by node in any order.
///
/// # Errors
/// With `Exit::ProbeNotRun` when no node began, when they are of more than one run, and when the job has not
/// ended and nothing failed so far.
pub fn read(text: &str) -> Result<ProbeReport> {
    let (around, mut nodes) = split(text);
    let Some(job) = nodes.first().map(|node| node.begin.job.clone()) else {
        return Err(none_began(&around));
    };
    nodes.sort_by_key(|node| node.begin.index);
    let same = |pair: &[Node]| match pair {
        [a, b] => a.begin.index == b.begin.index || a.begin.job != b.begin.job,
        _ => false,
    };
    if nodes.windows(2).any(same) {
        return Err(
            Error::new(Exit::ProbeNotRun, "this is the output of more than one run")
                .hint("give one job's folder or log at a time"),
        );
    }
    let output = collect(&around, &nodes, &job);
    let ended = nodes.iter().filter(|node| node.end.is_some()).count();
    let over = ended == job.nodes as usize || around.iter().any(|line| line.contains(OVER_MARK));
    let failed = nodes
        .iter()
        .any(|node| status(node).is_some_and(|status| status != 0))
        || output.ranks.values().any(|rank| !rank.ok);
    if !over && !failed {
        let what = format!("no verdict: {ended} of {} nodes have ended", job.nodes);
        return Err(Error::new(Exit::ProbeNotRun, what).hint(
            "read it again when the job has ended; if it was cancelled or killed, run it again",
        ));
    }
    Ok(judge(&job, &nodes, &around, &output))
}

fn status(node: &Node) -> Option<i64> {
    node.end.as_ref().map(|end| end.status)
}

/// The lines before the first node's and the word that all is over, and each node's own.
fn split(text: &str) -> (Vec<&str>, Vec<Node<'_>>) {
    let (mut around, mut nodes) = (Vec::new(), Vec::<Node>::new());
    for line in text.lines() {
        if let Some(begin) = marked(line, BEGIN_MARK) {
            nodes.push(Node {
                begin,
                end: None,
                lines: Vec::new(),
            });
        } else if let Some(end) = marked::<End>(line, END_MARK) {
            let node = nodes.iter_mut().rfind(|node| node.begin.index == end.index);
            if let Some(node) = node {
                node.end = Some(end);
            }
        } else if line.contains(OVER_MARK) {
            around.push(line);
        } else {
            nodes
                .last_mut()
                .map_or(&mut around, |node| &mut node.lines)
                .push(line);
        }
    }
    (around, nodes)
}

/// All lines, those nodes last that lack a rank's result: only so many of the last lines are kept.
fn collect(around: &[&str], nodes: &[Node], job: &JobFacts) -> Output {
    let mut output = Output::default();
    let ranks = job.backend.ranks() as usize;
    let whole = |node: &&Node| {
        let results = node.lines.iter().filter(|line| is_result(line)).count();
        results >= ranks && node.end.is_some()
    };
    let (good, bad): (Vec<&Node>, Vec<&Node>) = nodes.iter().partition(whole);
    let lines = good.iter().chain(&bad).flat_map(|node| &node.lines);
    for line in around.iter().chain(lines) {
        let channel = if is_result(line) {
            Channel::Out
        } else {
            Channel::Err
        };
        output.take(channel, line);
    }
    for node in bad.iter().filter(|node| node.end.is_none()) {
        let line = format!(
            "node {} began, but never said that it ended",
            node.begin.node
        );
        output.take(Channel::Err, &line);
    }
    output
}

fn judge(job: &JobFacts, nodes: &[Node], around: &[&str], output: &Output) -> ProbeReport {
    let ends = || nodes.iter().filter_map(|node| node.end.as_ref());
    let all = ends().count() == job.nodes as usize;
    let worst = ends().map(|end| end.status).find(|&status| status != 0);
    let seconds = ends().map(|end| end.seconds).fold(0.0, f64::max);
    let killed = |line: &&str| line.contains(OUT_OF_MEMORY);
    let outcome = Outcome {
        exit_code: worst.or_else(|| all.then_some(0)),
        timed_out: worst == Some(TIMED_OUT),
        oom_killed: around.iter().any(killed)
            || nodes.iter().flat_map(|node| &node.lines).any(killed),
        wall: Duration::try_from_secs_f64(seconds).unwrap_or_default(),
    };
    let ranks = job.nodes.saturating_mul(job.backend.ranks());
    let name = |index: u32| {
        let node = nodes.iter().find(|node| node.begin.index == index);
        node.map_or_else(
            || "(did not begin)".to_owned(),
            |node| node.begin.node.clone(),
        )
    };
    let facts = RunFacts {
        backend: match job.backend {
            Backend::Gpus(_) => Backend::Gpus(ranks),
            Backend::Cpu { .. } => Backend::Cpu { nproc: ranks },
        },
        place: Place::Cluster {
            engine: job.engine.clone(),
            nodes: (0..job.nodes).map(name).collect(),
            ranks_per_node: job.backend.ranks(),
            container_image: job.image.clone(),
        },
        timeout: Duration::from_secs(job.timeout_s),
        outcome,
    };
    let mut report = ProbeReport::new(facts, output);
    never_met(&mut report, job, nodes.len(), output);
    report
}

/// No rank began: the nodes did not find each other, or one of them was not there.
fn never_met(report: &mut ProbeReport, job: &JobFacts, begun: usize, output: &Output) {
    let Some(failure) = &mut report.failure else {
        return;
    };
    let seen = output.stderr_with(UNMET);
    if !report.ranks.is_empty() || !matches!(failure.code.as_str(), "no-results" | "rendezvous") {
        return;
    }
    if let Some(line) = seen {
        failure.code = "rendezvous".into();
        failure.message = format!(
            "{begun} of {} nodes began, and did not meet: {}",
            job.nodes,
            line.trim()
        );
        failure.fix = Some(UNMET_FIX.into());
    }
}

fn marked<'a, T: Deserialize<'a>>(line: &'a str, mark: &str) -> Option<T> {
    let (_, json) = line.split_once(mark)?;
    serde_json::from_str(json.trim()).ok()
}

fn none_began(around: &[&str]) -> Error {
    let error = Error::new(Exit::ProbeNotRun, "no node of a probe began");
    if let Some(line) = around.iter().find(|line| line.contains(NO_PYXIS)) {
        return error.why(line.trim()).hint(
            "pyxis, which runs images, is not here: emit the job with --runtime host --python PATH",
        );
    }
    let last = around
        .iter()
        .rfind(|line| !line.trim().is_empty() && !line.contains(OVER_MARK));
    match last {
        Some(line) => error.why(line.trim()),
        None => error.why("there is no output"),
    }
    .hint("give the job's folder, imgbuild-probe-JOBID, or its log through a pipe")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::probe::emit::{What, tests::job};

    /// What a node of two writes; without a status it has not ended.
    fn node(index: u32, ranks: &[(u32, bool)], status: Option<i64>) -> String {
        let job = job(Backend::Cpu { nproc: 1 }, 2, What::Python("python3".into()));
        let name = format!("n{index}");
        let facts = job.facts("slurm");
        let mut text = format!(
            "0: {BEGIN_MARK}{{\"index\": {index}, \"node\": \"{name}\", \"job\": {facts}}}\n"
        );
        for (rank, ok) in ranks {
            let said = json!({
                "rank": rank, "ok": ok, "backend": "gloo", "world_size": 2, "params_sha256": "x",
                "hostname": name,
            });
            text.push_str(&format!("IMGBUILD_PROBE_RANK {said}\n"));
        }
        if index == 0 {
            text.push_str("IMGBUILD_PROBE_SUMMARY {\"ok\": true}\n");
        }
        if let Some(status) = status {
            text.push_str(&format!(
                "{END_MARK}{{\"index\": {index}, \"status\": {status}, \"seconds\": {}.5}}\n",
                index + 1
            ));
        }
        text
    }

    fn code(text: &str) -> String {
        read(text).unwrap().failure.unwrap().code
    }

    fn refused(text: &str) -> String {
        let error = read(text).unwrap_err();
        assert_eq!(error.exit(), Exit::ProbeNotRun);
        error.to_string()
    }

    #[test]
    fn nodes_come_in_any_order() {
        let text = node(1, &[(1, true)], Some(0)) + &node(0, &[(0, true)], Some(0));
        let report = read(&text).unwrap();
        assert!(report.passed(), "{:?}", report.failure);
        assert_eq!((report.nproc, report.seconds), (2, 2.5));
        let Place::Cluster { nodes, .. } = &report.place else {
            panic!("{:?}", report.place);
        };
        assert_eq!(nodes[..], ["n0", "n1"]);
        assert_eq!(report.place.node(1), Some("n1"));
    }

    #[test]
    fn without_all_ends_there_is_no_verdict() {
        let half = node(0, &[(0, true)], Some(0)) + &node(1, &[], None);
        assert!(refused(&half).contains("1 of 2 nodes have ended"));
        assert!(refused("").contains("no output"));
        assert!(refused("srun: error: no such partition\n").contains("no such partition"));
        let bare = "srun: unrecognized option '--container-image=x'\nTry \"srun --help\"\n";
        assert!(refused(bare).contains("pyxis"), "{}", refused(bare));
        let over = format!("{half}{OVER_MARK}1\n");
        assert_eq!(read(&over).unwrap().missing_ranks, [1]);
    }

    #[test]
    fn two_runs_are_not_one() {
        let one = node(0, &[(0, true)], Some(0));
        assert!(refused(&(one.clone() + &one)).contains("more than one run"));
        let other = node(1, &[(1, true)], Some(0)).replace("\"timeout_s\":300", "\"timeout_s\":7");
        assert!(refused(&(one + &other)).contains("more than one run"));
    }

    #[test]
    fn a_failed_node_is_a_failure_at_once() {
        let failed = node(0, &[(0, true)], None) + &node(1, &[(1, false)], Some(1));
        let report = read(&failed).unwrap();
        assert_eq!(report.failure.as_ref().unwrap().rank, Some(1));
        let killed = node(0, &[(0, true)], Some(1))
            + "slurmstepd: error: Detected 1 oom_kill event in StepId=1.0\n"
            + &node(1, &[], Some(137));
        assert_eq!(code(&killed), "memory");
        let late = node(0, &[], Some(TIMED_OUT)) + &node(1, &[], Some(0));
        assert!(read(&late).unwrap().timed_out);
    }

    #[test]
    fn nodes_that_did_not_meet_are_told() {
        let lost = node(0, &[], Some(1)).replace("IMGBUILD_PROBE_SUMMARY {\"ok\": true}\n", "")
            + "the first node's name does not resolve: n0\n"
            + &node(1, &[], Some(1));
        assert_eq!(code(&lost), "rendezvous");
    }
}
