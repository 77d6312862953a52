//! Layers taken over from an index of a registry.

use std::fs;

use super::{BOTH, Base, env, fixture};
use crate::{
    faulty::{Fault, Faulty},
    mini::command,
    support::{Output, Project},
};

fn project(channel: &Faulty, base: &Base, code: &str) -> Project {
    let project = Project::new(&env(&channel.url, &["python=3.11", "tqdm"]));
    let settings = format!("base: {}\ncode: code\n", base.name());
    project.write("imgbuild.yaml", &settings);
    project.write("code/train.py", code);
    project
}

/// Builds and pushes; what is not in the cache cannot be checked there.
fn pushed(project: &Project, reference: &str, args: &[&str]) -> Output {
    let build = ["build", "env.yml", "--platform", BOTH];
    let push = ["-t", reference, "--push"];
    let output = Output::of(&mut command(project, &[&build[..], &push, args].concat()));
    output.expect(0);
    output
}

fn asked_for_arm(channel: &Faulty) -> bool {
    let is_package = |line: &String| line.contains("linux-aarch64/") && line.ends_with(".conda");
    channel.log().iter().any(is_package)
}

#[test]
fn a_fresh_machine_with_other_code_sends_its_code_for_all_platforms() {
    let base = Base::new();
    let registry = fixture("IMGBUILD_TEST_REGISTRY").display().to_string();
    let registry = Faulty::proxy(&registry);
    let folder = fixture("IMGBUILD_TEST_CHANNEL_DIR");
    let channel = Faulty::serve(&folder, |_, _| Fault::Fine);
    let repository = format!("platforms/{}-cache-from", std::process::id());
    let reference = format!("{}/{repository}:1", registry.address());
    let first = project(&channel, &base, "print(1)\n");
    let before = pushed(&first, &reference, &[]);
    assert!(asked_for_arm(&channel));

    let second = project(&channel, &base, "print(2)\n");
    fs::copy(first.path("env.lock.yml"), second.path("env.lock.yml")).unwrap();
    channel.clear();
    registry.clear();
    let output = pushed(&second, &reference, &["--locked"]);
    assert_ne!(output.digest(), before.digest());
    assert_eq!(channel.log(), [""; 0]);
    let log = registry.log();
    let sent = log
        .iter()
        .filter(|line| line.starts_with("PUT ") && line.contains("/blobs/"));
    // The code, which is one for both, and two configs.
    assert_eq!(sent.count(), 3, "{log:?}");

    // The index is the one that a machine without the earlier one makes.
    let third = project(&channel, &base, "print(2)\n");
    fs::copy(first.path("env.lock.yml"), third.path("env.lock.yml")).unwrap();
    let alone = pushed(&third, &reference, &["--locked", "--cache-from", ""]);
    assert_eq!(alone.digest(), output.digest());
    assert!(asked_for_arm(&channel));
}
