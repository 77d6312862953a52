//! A collective that hangs over P2P: NCCL's recorded lines, and the second try for real, over gloo.

use imgbuild::probe::free_port;
use serde_json::Value;

use super::{project, python, source};
use crate::support::Project;

/// As NCCL 2.8 logged it where two GPUs behind one bridge hung (NVIDIA/nccl, issue 606), and as 2.25 to 2.30 word it.
const RECORDED: [(&str, bool); 5] = [
    (
        "nccl-tests:225:240 [1] NCCL INFO Channel 00 : 1[c2000] -> 0[c1000] via P2P/direct pointer",
        true,
    ),
    (
        "node7:97095:97196 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/IPC",
        true,
    ),
    (
        "node7:97095:97196 [0] NCCL INFO Channel 03/0 : 0[0] -> 1[1] via P2P/CUMEM",
        true,
    ),
    (
        "node7:97095:97196 [0] NCCL INFO Channel 00 : 0[0] -> 1[1] via SHM/direct/direct",
        false,
    ),
    (
        "node7:97095:97196 [0] NCCL INFO P2P Chunksize set to 131072",
        false,
    ),
];

#[test]
fn channels_over_p2p_are_told_from_others() {
    for (line, is) in RECORDED {
        let said = python(&format!(
            "import ddp_p2p\nprint(ddp_p2p.p2p_channels({line:?}))"
        ));
        assert_eq!(said != "[]\n", is, "{line}: {said}");
    }
}

/// The job, but that its ranks never come out of their first collective, on what NCCL logged then. On a machine
/// with GPUs it is the same under nccl.
const HANGING: &str = r#"
import os, sys, time
sys.path.insert(0, TEMPLATES)
sys.dont_write_bytecode = True
import ddp_p2p, ddp_probe, ddp_report

LOG = RECORDED
second_stands_still = os.environ["WHO"] == "second"

def hang(run):
    """All ranks hang here; or the first hangs and the second stands still."""
    run.gpu = run.gpu or {"name": "stands for a GPU", "uuid": f"GPU-{run.rank}"}
    run.args.stall_timeout = 3600 if run.rank == 1 and second_stands_still else 1
    time.sleep(3600)

hang.__name__ = "check_distinct_gpus"
ddp_p2p.read_log = lambda: LOG
ddp_p2p.LONGEST = 8 if second_stands_still else 40
ddp_p2p.SHORTEST = 1
at = ddp_probe.CHECKS.index(ddp_probe.check_distinct_gpus)
ddp_probe.CHECKS = ddp_probe.CHECKS[:at] + (hang,)
ddp_probe.mark_lines(os.environ["RANK"])
ddp_report.leave(ddp_probe.main())
"#;

/// Both ranks' results.
fn ranks(project: &Project, log: &str, who: &str) -> Vec<Value> {
    let text = HANGING
        .replace("TEMPLATES", &format!("{:?}", source("templates")))
        .replace("LOG = RECORDED", &format!("LOG = {log:?}"));
    project.write("hanging.py", &text);
    let mut command = project.command("./python");
    command.args([
        "-m",
        "torch.distributed.run",
        "--nnodes=1",
        "--nproc_per_node=2",
    ]);
    let port = free_port().unwrap().to_string();
    command.args(["--master_addr=127.0.0.1", "--master_port", &port]);
    command.args(["hanging.py", "--backend=gloo"]);
    let output = project.output(command.env("WHO", who));
    let lines = output.stdout.lines();
    lines
        .filter_map(|line| line.split_once("IMGBUILD_PROBE_RANK "))
        .map(|(_, json)| serde_json::from_str(json).unwrap())
        .collect()
}

#[test]
fn what_ends_without_p2p_hangs_for_p2p() {
    let project = project();
    let all = ranks(&project, RECORDED[2].0, "all");
    assert_eq!(all.len(), 2, "{all:?}");
    for rank in &all {
        assert_eq!(rank["code"], "p2p", "{rank}");
        assert_eq!(rank["failed_step"], "distinct_gpus", "{rank}");
        let evidence = rank["evidence"].as_array().unwrap();
        let first = evidence[0].as_str().unwrap();
        assert!(first.contains("with NCCL_P2P_DISABLE=1 the same"), "{rank}");
        assert_eq!(evidence[1], RECORDED[2].0);
    }
}

#[test]
fn what_may_hang_for_something_else_is_a_stall() {
    let project = project();
    // The GPUs did not talk over P2P.
    let all = ranks(&project, RECORDED[3].0, "all");
    assert!(all.iter().all(|rank| rank["code"] == "stall"), "{all:?}");
    // One rank does not hang in a collective, so it never comes to the second try.
    let one = ranks(&project, RECORDED[2].0, "second");
    let first = one.iter().find(|rank| rank["rank"] == 0).unwrap();
    assert_eq!(first["code"], "stall", "{one:?}");
    assert!(
        first["evidence"][0]
            .as_str()
            .unwrap()
            .contains("not every rank came"),
        "{first}"
    );
}

#[test]
fn p2p_is_explained() {
    let project = Project::new("name: x\ndependencies: []\n");
    let said = project.ok(&["explain", "p2p"]).stdout;
    for words in ["iommu=pt", "NCCL_P2P_DISABLE=1", "lspci -vvv | grep ACSCtl"] {
        assert!(said.contains(words), "{said}");
    }
}
