//! Faults of an image with a real torch for CUDA: memory that runs out, GPUs that are not given, a library that is not there.

use std::process::Command;

use serde_json::Value;

use crate::support::{Output, Project, fixture};

const IMAGE: &str = "it-docker:torch";
/// Enough for torchrun and one rank, and too little for two: each takes some 250 MiB to import torch.
const TOO_LITTLE: &str = "600m";
const CPU: [&str; 5] = ["--cpu", "--nproc", "2", "--format", "json"];

/// The kernel's own kill at a container's limit: the verdict names the rank and what it was at.
pub(super) fn a_container_out_of_memory(project: &Project) {
    let probe = ["probe", IMAGE, "--memory", TOO_LITTLE];
    let output = project.imgbuild(&[&probe[..], &CPU].concat());
    output.expect(4);
    let report = out_of_memory(&output.stdout);
    let before = report["before"].as_array().unwrap();
    let limit = before.iter().find(|check| check["name"] == "memory");
    assert_eq!(limit.unwrap()["detail"], "600 MiB (--memory)");
}

/// The same where the ranks are processes beside imgbuild, in whose cgroup the memory runs out.
pub(super) fn a_host_out_of_memory() {
    let flags = ["--memory", TOO_LITTLE];
    out_of_memory(&on_the_host(&flags, "", &CPU).stdout);
}

#[track_caller]
fn out_of_memory(json: &str) -> Value {
    let report: Value = serde_json::from_str(json).unwrap();
    let failure = &report["failure"];
    assert_eq!(failure["code"], "memory", "{report}");
    let rank = failure["rank"].as_u64().unwrap();
    assert!(rank < 2, "{report}");
    let lines = &report["last_lines"][rank.to_string()];
    let step = failure["step"].as_str().unwrap();
    let last = lines.as_array().unwrap().last().unwrap();
    assert_eq!(last, &format!("begins {step}"), "{report}");
    let message = failure["message"].as_str().unwrap();
    assert!(message.contains("SIGKILL"), "{report}");
    report
}

/// A torch for CUDA in a container that was started without `--gpus`.
pub(super) fn a_container_without_gpus() {
    let output = on_the_host(&[], "", &["--gpus", "2", "--format", "json"]);
    output.expect(4);
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    let failure = &report["failure"];
    assert_eq!(failure["code"], "no-cuda", "{report}");
    assert_eq!(failure["step"], "device_alone", "{report}");
    assert_eq!(report["proves"], "gpus", "{report}");
}

/// A library of CUDA's that torch was linked with is not in the environment.
pub(super) fn a_library_that_is_not_there() {
    let remove = "rm $(find /opt/conda -name 'libcudart.so.*') && ";
    let output = on_the_host(&[], remove, &CPU);
    output.expect(4);
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    let failure = &report["failure"];
    assert_eq!(failure["code"], "cuda-mixed", "{report}");
    let message = failure["message"].as_str().unwrap();
    assert!(message.contains("libcudart.so"), "{report}");
}

/// `--runtime host` in a container of the image, with flags for that, after a command in its shell.
fn on_the_host(container: &[&str], first: &str, probe: &[&str]) -> Output {
    let program = format!("{}:/imgbuild:ro", env!("CARGO_BIN_EXE_imgbuild"));
    let shell = format!("{first}exec /imgbuild -q probe --runtime host \"$@\"");
    let run = [
        "run",
        "--rm",
        "--network",
        "none",
        "--shm-size=1g",
        "-v",
        &program,
    ];
    let start = [IMAGE, "sh", "-c", &shell, "sh"];
    let mut docker = Command::new("docker");
    docker.env("DOCKER_HOST", fixture("DOCKER_HOST"));
    Output::of(docker.args([&run, container, &start, probe].concat()))
}
