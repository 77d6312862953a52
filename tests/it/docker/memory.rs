//! A probe in a container whose memory runs out: the kernel's own kill.

use super::{CRAFTED, base, docker, left_behind, project};

/// Stands in for torchrun: a rank that takes more memory than there is, and torchrun's words on its end.
const TORCHRUN: &str = "import subprocess, sys
rank = subprocess.run([sys.executable, '-c', 'bytearray(512 << 20)'])
table = ['Root Cause (first observed failure):', '  rank      : 1 (local_rank: 1)']
print(*table, f'  exitcode  : {rank.returncode} (pid: 7)', sep='\\n', file=sys.stderr)
sys.exit(1)
";

#[test]
fn a_container_out_of_memory() {
    let project = project(CRAFTED);
    project.write("src/torch/__init__.py", "");
    project.write("src/torch/distributed/__init__.py", "");
    project.write("src/torch/distributed/run.py", TORCHRUN);
    let base = base();
    let image = [
        "build",
        "env.yml",
        "-t",
        "it-docker:memory",
        "--base",
        &base,
    ];
    let code = ["--code", "src", "-e", "PYTHONPATH=/workspace", "--load"];
    project.ok(&[&image[..], &code].concat());
    let probe = ["probe", "it-docker:memory", "--cpu", "--nproc", "2"];
    let limits = ["--memory", "100m", "--format", "json"];
    let output = project.imgbuild(&[&probe[..], &limits].concat());
    output.expect(4);
    let report: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    let failure = &report["failure"];
    assert_eq!(failure["code"], "memory", "{failure}");
    assert_eq!(failure["rank"], 1, "{failure}");
    // Without a limit nothing is killed: the stand-in's own status is all there is to tell.
    let free = project.imgbuild(&[&probe[..], &["--format", "json"]].concat());
    free.expect(4);
    assert!(
        free.stdout.contains(r#""code": "rank-missing""#),
        "{}",
        free.stdout
    );
    assert_eq!(left_behind("it-docker:memory"), "");
    docker(&["rmi", "it-docker:memory"]);
}
