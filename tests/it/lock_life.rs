//! The life of a lock: checked, used offline, moved a package at a time, and what it is made under.

mod base;
mod channels;

use std::{collections::BTreeSet, fs, process::Command};

use imgbuild::{
    digest::Digest,
    lock::{Conditions, Lock, LockedEnv, LockedWheel, Locks, PipConditions, render},
    machine::Machine,
};

use crate::{
    mini::{Mini, blob_json, env, layout_manifest, names, read},
    support::{Channel, Project, fixture, run},
};

const HELLO: &str = "hello-demo-1.0-0.tar.bz2";
const HELLO_NEWER: &str = "hello-demo-1.1-0.conda";
const NAMES: &str = "names-demo-1.0-0.tar.bz2";
const NAMES_NEWER: &str = "names-demo-1.1-0.conda";
const GENERIC: &str = "generic-demo-1.0-0.tar.bz2";
const CPU: &str = "variant-demo-1.0-cpu_0.conda";
const CUDA: &str = "variant-demo-1.0-cuda130_0.conda";

fn lock_text(project: &Project) -> String {
    read(project, "env.lock.yml")
}

/// The file names of the packages in a project's lock.
fn files(project: &Project) -> Vec<String> {
    let text = lock_text(project);
    let files: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- conda: "))
        .map(|url| url.rsplit('/').next().unwrap().to_owned())
        .collect();
    files.into_iter().collect()
}

#[test]
fn locked_names_every_line_and_writes_nothing() {
    let mini = Mini::of(&[HELLO, HELLO_NEWER, NAMES, GENERIC]);
    let project = Project::new(&env(&mini.url(), &["hello-demo=1.0", "names-demo"]));
    for command in ["lock", "build"] {
        let out = project.imgbuild(&[command, "env.yml", "--locked"]);
        out.expect(2);
        assert!(
            out.stderr.contains("there is no env.lock.yml"),
            "{}",
            out.stderr
        );
        assert!(!project.path("env.lock.yml").exists());
    }
    project.ok(&["lock", "env.yml"]);
    let out = project.ok(&["lock", "env.yml", "--locked"]);
    assert_eq!(out.stdout, "env.lock.yml\n");
    project.ok(&["build", "env.yml", "--locked"]);

    let before = lock_text(&project);
    project.write_env(&env(&mini.url(), &["hello-demo>1.0", "generic-demo"]));
    for command in ["lock", "build"] {
        let out = project.imgbuild(&[command, "env.yml", "--locked"]);
        out.expect(2);
        for words in [
            "at: env.yml:5:5",
            "no locked package meets 'hello-demo>1.0' (env.yml:5:5)",
            "no locked package meets 'generic-demo' (env.yml:6:5)",
            "names-demo is locked, but nothing asks for it any more",
            "imgbuild lock env.yml",
        ] {
            assert!(out.stderr.contains(words), "{words}: {}", out.stderr);
        }
        assert_eq!(lock_text(&project), before);
        assert_eq!(names(project.dir.path()).len(), 3);
    }
    project.write_env(&env("file:///nowhere", &["hello-demo", "names-demo"]));
    let out = project.imgbuild(&["lock", "env.yml", "--locked"]);
    out.expect(2);
    assert!(
        out.stderr.contains("the channels changed (env.yml:3:5)"),
        "{}",
        out.stderr
    );
}

#[test]
fn offline_a_lock_and_the_cache_are_enough() {
    let mini = Mini::of(&[HELLO, NAMES]);
    let served = Channel::serve(mini.path());
    let project = Project::new(&env(&served.url, &["hello-demo"]));
    let first = project.ok(&["build", "env.yml"]);
    let text = env(&served.url, &["hello-demo", "names-demo"]);
    drop(served);
    let again = project.ok(&["build", "env.yml", "--offline"]);
    assert_eq!(again.digest(), first.digest());

    // What the indexes say was kept, the package was not.
    project.write_env(&text);
    project.ok(&["lock", "env.yml", "--offline"]);
    assert_eq!(files(&project), [HELLO, NAMES]);
    let out = project.imgbuild(&["build", "env.yml", "--offline"]);
    out.expect(3);
    assert!(out.stderr.contains("names-demo"), "{}", out.stderr);
    assert!(out.stderr.contains("without --offline"), "{}", out.stderr);
    assert!(!out.stderr.contains("trying again"), "{}", out.stderr);

    let out = project.imgbuild(&["build", "env.yml", "--offline", "--push", "-t", "a:1"]);
    out.expect(2);
    assert!(out.stderr.contains("exclude each other"), "{}", out.stderr);

    fs::remove_dir_all(&project.cache).unwrap();
    fs::remove_file(project.path("env.lock.yml")).unwrap();
    let out = project.imgbuild(&["lock", "env.yml", "--offline"]);
    out.expect(3);
    assert!(out.stderr.contains("without --offline"), "{}", out.stderr);
    let out = project.imgbuild(&[
        "lock",
        "env.yml",
        "--offline",
        "--base",
        "127.0.0.1:9/base:1",
    ]);
    out.expect(3);
    assert!(out.stderr.contains("127.0.0.1:9/base:1"), "{}", out.stderr);
    assert!(out.stderr.contains("without --offline"), "{}", out.stderr);
}

#[test]
fn exclude_newer_is_kept_in_the_lock() {
    let mini = Mini::of(&[HELLO, HELLO_NEWER]);
    // The last second of 2024-03-31, in UTC, in milliseconds; and the first of April.
    for (file, time) in [
        (HELLO, 1_711_929_599_000_u64),
        (HELLO_NEWER, 1_711_929_600_000),
    ] {
        mini.edit(file, |record| {
            record.insert("timestamp".into(), time.into());
        });
    }
    let project = Project::new(&env(&mini.url(), &["hello-demo"])).with_env("TZ", "Asia/Tokyo");
    project.ok(&["lock", "env.yml", "--exclude-newer", "2024-03-31"]);
    assert_eq!(files(&project), [HELLO]);
    let first = lock_text(&project);
    assert!(
        first.contains("# imgbuild: exclude-newer 2024-03-31T23:59:59.999Z\n"),
        "{first}"
    );
    project.ok(&["lock", "env.yml", "--exclude-newer", "2024-03-31"]);
    assert_eq!(lock_text(&project), first);
    // Without the flag the lock's date stays.
    let out = project.ok(&["lock", "env.yml", "--update", "hello-demo"]);
    assert!(
        out.stderr.contains("2024-03-31T23:59:59.999Z"),
        "{}",
        out.stderr
    );
    assert_eq!(lock_text(&project), first);
    project.ok(&["build", "env.yml", "--locked"]);

    let later = ["--exclude-newer", "2024-04-01T00:00:00Z"];
    let out = project.imgbuild(&[&["build", "env.yml", "--locked"], &later[..]].concat());
    out.expect(2);
    assert!(
        out.stderr.contains("packages up to 2024-04-01T00:00:00Z"),
        "{}",
        out.stderr
    );
    project.ok(&[&["lock", "env.yml", "--update", "hello-demo"], &later[..]].concat());
    assert_eq!(files(&project), [HELLO_NEWER]);
    project.ok(&["lock", "env.yml", "--update-all"]);
    assert!(!lock_text(&project).contains("exclude-newer"));
    let out = project.imgbuild(&["lock", "env.yml", "--exclude-newer", "last week"]);
    out.expect(2);
    assert!(out.stderr.contains("neither a date"), "{}", out.stderr);
}

#[test]
fn update_moves_one_package_and_says_what_changed() {
    let mini = Mini::of(&[HELLO, HELLO_NEWER, NAMES, NAMES_NEWER, GENERIC]);
    let url = mini.url();
    let project = Project::new(&env(&url, &["hello-demo=1.0", "names-demo=1.0"]));
    let out = project.ok(&["lock", "env.yml"]);
    assert!(!out.stderr.contains("Added"), "{}", out.stderr);
    project.write_env(&env(&url, &["hello-demo", "names-demo"]));
    let first = lock_text(&project);
    project.ok(&["lock", "env.yml"]);
    assert_eq!(lock_text(&project), first);

    let out = project.ok(&["lock", "env.yml", "--update", "hello-demo"]);
    assert_eq!(files(&project), [HELLO_NEWER, NAMES]);
    assert!(
        out.stderr
            .starts_with("Updated hello-demo 1.0 -> 1.1\nLocked 2"),
        "{}",
        out.stderr
    );
    // A spec that is new does not move the others, one that goes takes only its own along.
    project.write_env(&env(&url, &["names-demo", "generic-demo"]));
    let out = project.ok(&["lock", "env.yml"]);
    assert_eq!(files(&project), [GENERIC, NAMES]);
    assert!(
        out.stderr
            .starts_with("Added generic-demo 1.0\nRemoved hello-demo 1.1\n"),
        "{}",
        out.stderr
    );
    project.ok(&["lock", "env.yml", "--update-all"]);
    assert_eq!(files(&project), [GENERIC, NAMES_NEWER]);

    let out = project.imgbuild(&["lock", "env.yml", "--update", "name-demo"]);
    out.expect(2);
    assert!(
        out.stderr.contains("did you mean names-demo?"),
        "{}",
        out.stderr
    );
    let out = project.imgbuild(&["lock", "env.yml", "--update", "names-demo", "--locked"]);
    out.expect(2);
}

/// A package that was replaced under its name is taken as the channel has it now.
#[test]
fn what_is_kept_is_taken_as_the_channel_has_it() {
    let mini = Mini::of(&[HELLO]);
    let project = Project::new(&env(&mini.url(), &["hello-demo"]));
    project.ok(&["lock", "env.yml"]);
    let text = lock_text(&project);
    let line = text.lines().find(|l| l.starts_with("  sha256:")).unwrap();
    let wrong = format!("  sha256: {}", "0".repeat(64));
    project.write("env.lock.yml", &text.replace(line, &wrong));
    project.ok(&["lock", "env.yml"]);
    assert_eq!(lock_text(&project), text);
    // What the channel withdrew is not kept.
    let withdrawn = Mini::of(&[HELLO_NEWER]);
    let (from, to) = (withdrawn.path(), mini.path());
    for file in ["linux-64/repodata.json", &format!("linux-64/{HELLO_NEWER}")] {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
    let out = project.ok(&["lock", "env.yml"]);
    assert!(
        out.stderr.contains("Updated hello-demo 1.0 -> 1.1"),
        "{}",
        out.stderr
    );
    let text = lock_text(&project);
    // One that is no lock any more is written anew.
    project.write("env.lock.yml", "<<<<<<< HEAD\n");
    let out = project.ok(&["lock", "env.yml"]);
    assert!(out.stderr.contains("anew"), "{}", out.stderr);
    assert_eq!(lock_text(&project), text);
}

#[test]
fn the_machines_that_it_is_for_are_kept_and_compared() {
    let mini = Mini::of(&[CPU, CUDA]);
    let project = Project::new(&env(&mini.url(), &["variant-demo"]));
    project.ok(&["lock", "env.yml", "--cuda", "13.2"]);
    assert_eq!(files(&project), [CUDA]);
    let first = lock_text(&project);
    assert!(first.contains("- __cuda=13.2=0\n"), "{first}");
    // Who does not say another one means the same.
    project.ok(&["build", "env.yml", "--locked"]);
    project.ok(&["lock", "env.yml"]);
    assert_eq!(lock_text(&project), first);

    let reason = "it was solved for __cuda=13.2, and the image is for __cuda=12.9 now";
    let out = project.imgbuild(&["build", "env.yml", "--locked", "--cuda", "12.9"]);
    out.expect(2);
    assert!(out.stderr.contains(reason), "{}", out.stderr);
    let out = project.ok(&["build", "env.yml", "--cuda", "12.9"]);
    assert!(
        out.stderr
            .contains(&format!("Renewing env.lock.yml: {reason}")),
        "{}",
        out.stderr
    );
    assert!(lock_text(&project).contains("- __cuda=12.9=0\n"));
}

#[test]
fn selectors_prefix_and_variables() {
    let mini = Mini::of(&[HELLO, NAMES]);
    let text = format!(
        "name: t\nchannels:\n  - {}\n  - nodefaults\ndependencies:\n  - hello-demo  # [linux]\n  \
         - no-such-package  # [win]\n  - names-demo  # [py27]\n  - pip:\nvariables:\n  \
         A_NAME: some words\nprefix: /home/me/envs/t\n",
        mini.url()
    );
    let project = Project::new(&text);
    let out = project.ok(&["build", "env.yml", "-o", "type=oci,dest=out"]);
    for words in [
        "env.yml:8: selector [py27] is not known",
        "env.yml:12: 'prefix:' is ignored",
    ] {
        assert!(out.stderr.contains(words), "{words}: {}", out.stderr);
    }
    assert_eq!(files(&project), [HELLO, NAMES]);
    let (_, manifest) = layout_manifest(&project.path("out"));
    let config = manifest["config"]["digest"].as_str().unwrap();
    let config = blob_json(&project.path("out"), config);
    let variables = config["config"]["Env"].as_array().unwrap();
    assert!(
        variables.contains(&"A_NAME=some words".into()),
        "{variables:?}"
    );
}

/// py-rattler, which is what other tools are built on, reads wheels and options beside our lines.
#[test]
fn other_tools_read_wheels_too() {
    let wheel = LockedWheel {
        name: "torch".into(),
        version: "2.0.1+cu118".into(),
        url: "https://host/torch-2.0.1%2Bcu118-cp311-cp311-linux_x86_64.whl"
            .parse()
            .unwrap(),
        sha256: Digest::of(b"torch"),
        size: None,
    };
    let lock = Lock {
        env: LockedEnv::new(vec!["https://host/c/".into()], vec![]).with_wheels(vec![wheel]),
        conditions: Conditions {
            virtual_packages: vec!["__cuda=11.8=0".into()],
            exclude_newer: Some("2024-01-01T00:00:00Z".parse().unwrap()),
            pip: Some(PipConditions {
                names: vec!["torch".into()],
                indexes: vec!["https://host/simple".into()],
                ..PipConditions::default()
            }),
            ..Conditions::default()
        },
        ..Lock::default()
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("env.lock.yml");
    let locks = Locks::from([(Machine::Amd64, lock.clone())]);
    fs::write(&path, render(&locks, dir.path()).unwrap()).unwrap();
    let program = "import sys, rattler\n\
        lock = rattler.LockFile.from_path(sys.argv[1])\n\
        name, environment = lock.environments()[0]\n\
        for p in environment.packages(environment.platforms()[0]):\n\
        \x20   print(p.name, p.version, p.location, p.hashes.sha256.hex())\n";
    let seen = run(Command::new(fixture("IMGBUILD_TEST_PYTHON"))
        .args(["-c", program])
        .arg(&path));
    let expected = format!(
        "torch 2.0.1+cu118 https://host/torch-2.0.1%2Bcu118-cp311-cp311-linux_x86_64.whl {}\n",
        Digest::of(b"torch").hex()
    );
    assert_eq!(seen, expected);
}
