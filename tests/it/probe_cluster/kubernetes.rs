//! The documents of `--emit kubernetes`, `jobset` and `pytorchjob`, against published schemas.

use std::{fs, process::Command};

use super::NOTE;
use crate::support::{Project, fixture, run, source};

const IMAGE: &str = "registry.example/team/train@sha256:\
                     e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Writes a form's documents and has them checked; gives the checker's word and the documents.
fn checked(form: &str, flags: &[&str]) -> (String, String) {
    let project = Project::new("name: x\ndependencies: []\n");
    let emit = ["probe", IMAGE, "--emit", form, "-o", "probe.yaml"];
    project.ok(&[&emit[..], flags].concat());
    let said = run(Command::new(fixture("IMGBUILD_TEST_PYTHON"))
        .arg(source("tests/support/check_kubernetes.py"))
        .arg(project.path("probe.yaml")));
    (
        said,
        fs::read_to_string(project.path("probe.yaml")).unwrap(),
    )
}

#[test]
fn every_form_is_what_its_schema_wants() {
    for (form, kinds) in [
        ("kubernetes", "ConfigMap Service Job\n"),
        ("jobset", "ConfigMap JobSet\n"),
        ("pytorchjob", "ConfigMap PyTorchJob\n"),
    ] {
        for flags in [
            &["--gpus", "4"][..],
            &["--cpu", "--nproc", "2", "--nodes", "1"],
        ] {
            let (said, text) = checked(form, flags);
            assert_eq!(said, kinds);
            assert!(text.contains(IMAGE), "{text}");
            assert_eq!(
                text.contains(NOTE) && text.contains(&format!("# {NOTE}")),
                flags[0] == "--cpu"
            );
            assert_eq!(text.contains("nvidia.com/gpu: '4'"), flags[0] == "--gpus");
            assert!(text.contains("medium: Memory"), "{text}");
            assert!(!text.contains("name: NCCL_"), "{text}");
        }
    }
}

/// What cannot fail proves nothing: a wrong word in each document is found.
#[test]
fn the_schemas_find_wrong_words() {
    for (form, right, wrong) in [
        (
            "kubernetes",
            "backoffLimitPerIndex:",
            "backoffLimitsPerIndex:",
        ),
        (
            "kubernetes",
            "publishNotReadyAddresses: true",
            "publishNotReadyAddresses: 7",
        ),
        ("jobset", "maxRestarts: 0", "maxRestart: 0"),
        ("jobset", "mountPath: /dev/shm", "mountPaths: /dev/shm"),
        (
            "pytorchjob",
            "cleanPodPolicy: None",
            "cleanPodPolicies: None",
        ),
        ("pytorchjob", "medium: Memory", "mediums: Memory"),
    ] {
        let (_, text) = checked(form, &["--gpus", "4"]);
        assert!(text.contains(right), "{right}: {text}");
        let project = Project::new("name: x\ndependencies: []\n");
        project.write("probe.yaml", &text.replace(right, wrong));
        let checker = Command::new(fixture("IMGBUILD_TEST_PYTHON"))
            .arg(source("tests/support/check_kubernetes.py"))
            .arg(project.path("probe.yaml"))
            .output()
            .unwrap();
        assert!(!checker.status.success(), "{form}: {wrong} was taken");
    }
}
