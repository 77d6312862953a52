//! One lock file for several platforms.

use super::{BOTH, Base, build, channel, project, read};
use crate::support::Project;

/// The platforms that a project's lock has packages for.
fn platforms(project: &Project) -> Vec<String> {
    let text = read(project, "env.lock.yml");
    let lines = text
        .lines()
        .skip_while(|line| *line != "platforms:")
        .skip(1);
    let names = lines.take_while(|line| line.starts_with([' ', '-']));
    names
        .filter_map(|line| line.strip_prefix("- name: "))
        .map(str::to_owned)
        .collect()
}

const AMD64: &str = "linux-64";
const ARM64: &str = "linux-aarch64";

#[test]
fn a_lock_keeps_its_platforms() {
    let base = Base::new();
    let base = base.name();
    let project = project(&["python=3.11", "markupsafe"]);
    let lock = |args: &[&str]| {
        project.ok(&[&["lock", "env.yml", "--base", &base], args].concat());
        platforms(&project)
    };
    assert_eq!(lock(&[]), [AMD64]);
    let alone = read(&project, "env.lock.yml");
    // A build for another platform adds it, and what is there stays.
    let out = build(
        &project,
        "linux/arm64",
        &["--base", &base, "--no-compile", "--locked"],
    );
    out.expect(2);
    for said in [
        "it has no packages for linux/arm64",
        "imgbuild lock env.yml --platform linux/arm64",
    ] {
        assert!(out.stderr.contains(said), "{}", out.stderr);
    }
    assert_eq!(read(&project, "env.lock.yml"), alone);
    build(&project, "linux/arm64", &["--base", &base, "--no-compile"]).expect(0);
    assert_eq!(platforms(&project), [AMD64, ARM64]);
    let both = read(&project, "env.lock.yml");
    build(&project, "linux/amd64", &["--base", &base, "--locked"]).expect(0);
    assert_eq!(lock(&["--locked"]), [AMD64, ARM64]);
    assert_eq!(lock(&[]), [AMD64, ARM64]);
    assert_eq!(read(&project, "env.lock.yml"), both);
    // What one list of channels and one priority cannot hold goes, aloud.
    let flexible = ["--base", &base, "--channel-priority", "flexible"];
    let out = build(&project, "linux/amd64", &flexible);
    out.expect(0);
    assert!(
        out.stderr.contains("linux/arm64: Not locked any more"),
        "{}",
        out.stderr
    );
    assert_eq!(platforms(&project), [AMD64]);
    assert_eq!(lock(&["--platform", BOTH]), [AMD64, ARM64]);
    assert_eq!(read(&project, "env.lock.yml"), both);
    // What is said in full is what there is.
    assert_eq!(lock(&["--platform", "linux/amd64"]), [AMD64]);
    assert_eq!(read(&project, "env.lock.yml"), alone);
    let out = project.imgbuild(&["lock", "env.yml", "--locked", "--platform", BOTH]);
    out.expect(2);
}

#[test]
fn environment_files_and_settings_name_platforms() {
    let base = Base::new();
    let base = base.name();
    let text = |platforms: &str| {
        format!(
            "channels: ['{}']\nplatforms: [{platforms}]\ndependencies:\n- python=3.11\n\
             - tqdm # [linux64]\n- markupsafe # [aarch64]\n",
            channel()
        )
    };
    let project = Project::new(&text("linux-64, osx-arm64, linux-aarch64"));
    project.ok(&["lock", "env.yml", "--base", &base]);
    assert_eq!(platforms(&project), [AMD64, ARM64]);
    let locked = read(&project, "env.lock.yml");
    let of = |subdir: &str| {
        let list = locked.split(&format!("      {subdir}:\n")).nth(1).unwrap();
        let lines = list.lines().take_while(|line| line.starts_with("      - "));
        lines.collect::<Vec<_>>().join("\n")
    };
    assert!(of(AMD64).contains("/tqdm-") && !of(AMD64).contains("markupsafe"));
    assert!(of(ARM64).contains("/markupsafe-") && !of(ARM64).contains("/tqdm-"));
    // A build is for one unless more are asked for.
    let out = project.ok(&["build", "env.yml", "--base", &base, "--locked"]);
    assert_eq!(project.image(&out).config["architecture"], "amd64");
    project.write(
        "imgbuild.yaml",
        &format!("base: {base}\nplatforms: [linux/arm64, linux/amd64]\n"),
    );
    let out = project.ok(&["build", "env.yml", "--locked"]);
    assert!(out.stderr.contains("(2 platforms)"), "{}", out.stderr);
    // Where it lists others, it is not for this one.
    project.write_env(&text("linux-aarch64"));
    let out = build(&project, "linux/amd64", &[]);
    out.expect(2);
    for said in [
        "the environment is not for linux-64",
        "--platform linux/arm64",
    ] {
        assert!(out.stderr.contains(said), "{}", out.stderr);
    }
}

#[test]
fn locks_that_are_given_have_several_platforms_too() {
    let base = Base::new();
    let base = base.name();
    let project = project(&["python=3.11", "tqdm"]);
    project.ok(&["lock", "env.yml", "--base", &base, "--platform", BOTH]);
    // Without imgbuild's comments it is what pixi writes.
    let own = read(&project, "env.lock.yml");
    let pixi = own.lines().filter(|line| !line.starts_with('#'));
    project.write("pixi.lock", &pixi.collect::<Vec<_>>().join("\n"));
    let build = |lock: &str, platforms: &str| {
        let args = ["build", lock, "--base", &base, "--platform", platforms];
        project.ok(&args).digest().to_owned()
    };
    let both = build("pixi.lock", BOTH);
    assert_eq!(build("env.lock.yml", BOTH), both);
    // The part that is not built lends its Python.
    let images = crate::support::read_all(&project.cache.join("blobs/sha256"), &both);
    assert_eq!(build("pixi.lock", "linux/arm64"), images[1].digest);
    project.ok(&["lock", "pixi.lock", "--platform", BOTH]);
    // What it was solved under, pixi's lock does not say.
    let environments = |text: &str| {
        let at = text.find("\nenvironments:").unwrap();
        text[at..].trim_end().to_owned()
    };
    let converted = read(&project, "pixi.lock.yml");
    assert_eq!(environments(&converted), environments(&own));
}

#[test]
fn errors_name_their_platform() {
    let base = Base::new();
    for (spec, said) in [
        (
            "hello-demo=1.0",
            "searched linux-aarch64 and noarch of http",
        ),
        ("numpy=1.0", "this is for linux/amd64"),
    ] {
        let project = project(&["python=3.11", spec]);
        let out = build(&project, BOTH, &["--base", &base.name()]);
        out.expect(2);
        assert!(out.stderr.contains(said), "{}", out.stderr);
        assert!(!project.path("env.lock.yml").exists());
    }
}

#[test]
fn plans_are_of_each_platform() {
    let base = Base::new();
    let base = base.name();
    let project = project(&["python=3.11", "tqdm"]);
    let json = ["--base", &base, "--dry-run", "--format", "json"];
    let out = build(&project, BOTH, &json);
    out.expect(0);
    let plans: serde_json::Value = serde_json::from_str(&out.stdout).unwrap();
    let names: Vec<&String> = plans.as_object().unwrap().keys().collect();
    assert_eq!(names, ["linux/amd64", "linux/arm64"]);
    build(&project, BOTH, &["--base", &base, "-t", "two:1"]).expect(0);
    let out = build(
        &project,
        BOTH,
        &["--base", &base, "-t", "two:1", "--dry-run"],
    );
    out.expect(0);
    assert!(out.stdout.starts_with("linux/amd64\n"), "{}", out.stdout);
    assert!(out.stdout.contains("\nlinux/arm64\n"), "{}", out.stdout);
    // What was built is known: each plan is compared with its own platform's image.
    let alone = build(
        &project,
        "linux/arm64",
        &[&["-t", "two:1"], &json[..]].concat(),
    );
    alone.expect(0);
    let plan: serde_json::Value = serde_json::from_str(&alone.stdout).unwrap();
    assert_eq!(plan["compared_with"]["known"], true, "{plan:#}");
    // And comparing two platforms' locks takes one at a time.
    let lock = project.ok(&["lock", "env.yml", "--base", &base]);
    assert_eq!(lock.stdout, "env.lock.yml\n");
    let arm64 = ["--platform", "linux/arm64", "--exit-code"];
    project.ok(&[&["diff", "env.lock.yml", "env.lock.yml"], &arm64[..]].concat());
    let two = project.imgbuild(&[&["diff", "two:1", "env.lock.yml"], &arm64[..2]].concat());
    two.expect(0);
}
