//! Solving as conda does: channel priority, the target's virtual packages, CUDA, and what is said
//! when it cannot be done. The channels are small, and metadata only: `lock` fetches no package.

mod base;
mod condarc;
mod cuda;
mod private;

use std::{fs, path::Path};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::{
    mini::{read_json, write_json},
    support::{Output, Project, source},
};

/// Channels in one folder, by name.
struct Channels {
    dir: TempDir,
}

impl Channels {
    /// The classic channels of PyTorch; tests/support/classic_channels.py made the file.
    fn classic() -> Self {
        Self::of(&read_json(&source("tests/it/data/classic_channels.json")))
    }

    /// Channels from channel -> subdir -> file name -> record.
    fn of(channels: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (channel, subdirs) in channels.as_object().unwrap() {
            for subdir in ["linux-64", "noarch"] {
                let path = dir.path().join(channel).join(subdir);
                fs::create_dir_all(&path).unwrap();
                let records = subdirs.get(subdir).cloned().unwrap_or(json!({}));
                let index = json!({"info": {"subdir": subdir}, "packages": records});
                write_json(&path.join("repodata.json"), &index);
            }
        }
        Self { dir }
    }

    /// Channels from `channel: name version-build? dependency, dependency` lines.
    fn crafted(lines: &[&str]) -> Self {
        let mut channels = Map::new();
        for line in lines {
            let (channel, rest) = line.split_once(": ").unwrap();
            let (package, depends) = rest.split_once(" <- ").unwrap_or((rest, ""));
            let (name, version) = package.split_once(' ').unwrap();
            let depends: Vec<&str> = depends.split(", ").filter(|d| !d.is_empty()).collect();
            let record = json!({"name": name, "version": version, "build": "0", "build_number": 0,
                "depends": depends, "subdir": "linux-64", "sha256": "0".repeat(64), "size": 1});
            let channel = channels.entry(channel).or_insert(json!({"linux-64": {}}));
            channel["linux-64"][format!("{name}-{version}-0.tar.bz2")] = record;
        }
        Self::of(&Value::Object(channels))
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn url(&self, channel: &str) -> String {
        format!("file://{}", self.path().join(channel).display())
    }

    /// An environment file for these channels.
    fn env(&self, channels: &[&str], specs: &[&str]) -> String {
        let urls: Vec<String> = channels.iter().map(|channel| self.url(channel)).collect();
        let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
        crate::mini::env_of(&urls, specs)
    }

    fn project(&self, channels: &[&str], specs: &[&str]) -> Project {
        Project::new(&self.env(channels, specs))
    }
}

const CLASSIC: [&str; 3] = ["pytorch", "nvidia", "conda-forge"];

/// Locks for the empty base; the lock's file names, without their channels.
fn lock(project: &Project, flags: &[&str]) -> (Output, Vec<String>) {
    project.write("imgbuild.yaml", "base: scratch\n");
    let output = project.imgbuild(&[&["lock", "env.yml"], flags].concat());
    let text = fs::read_to_string(project.path("env.lock.yml")).unwrap_or_default();
    let packages = text.lines().filter_map(|line| {
        let url = line.strip_prefix("- conda: ")?;
        Some(url.rsplit('/').next()?.to_owned())
    });
    (output, packages.collect())
}

#[track_caller]
fn locked(project: &Project, flags: &[&str]) -> (Output, Vec<String>) {
    let (output, packages) = lock(project, flags);
    output.expect(0);
    (output, packages)
}

#[track_caller]
fn refused(project: &Project, flags: &[&str]) -> String {
    let (output, packages) = lock(project, flags);
    output.expect(2);
    assert_eq!(packages, [""; 0], "a lock was written");
    output.stderr
}

#[track_caller]
fn has(packages: &[String], expected: &[&str]) {
    for name in expected {
        let found = packages.iter().any(|package| package.starts_with(name));
        assert!(found, "no {name} in {packages:#?}");
    }
}

/// Three channels' worth of difference: the higher one has an old `lib` and an old `tool`.
fn competing() -> Channels {
    Channels::crafted(&[
        "high: lib 1.0",
        "high: tool 1.0",
        "low: lib 2.0",
        "low: tool 2.0",
        "low: app 1.0 <- lib",
        "low: app 2.0 <- lib >=2",
    ])
}

#[test]
fn channel_priority_is_strict_flexible_or_disabled() {
    let channels = competing();
    let project = channels.project(&["high", "low"], &["app", "tool"]);
    let found = |flags: &[&str]| {
        let (_, mut packages) = locked(&project, &[&["--update-all"], flags].concat());
        packages.sort();
        packages.join(" ").replace("-0.tar.bz2", "")
    };
    let strict = "app-1.0 lib-1.0 tool-1.0";
    let flexible = "app-2.0 lib-2.0 tool-1.0";
    let disabled = "app-2.0 lib-2.0 tool-2.0";
    assert_eq!(found(&[]), strict);
    assert_eq!(found(&["--channel-priority", "strict"]), strict);
    assert_eq!(found(&["--channel-priority", "flexible"]), flexible);
    assert_eq!(found(&["--channel-priority", "disabled"]), disabled);

    // Flags win over imgbuild.yaml, and that over condarc.
    fs::write(
        project.home().join(".condarc"),
        "channel_priority: flexible\n",
    )
    .unwrap();
    assert_eq!(found(&[]), flexible);
    assert_eq!(found(&["--channel-priority", "disabled"]), disabled);
    let config = project.path("other.yaml");
    fs::write(&config, "channel_priority: disabled\nbase: scratch\n").unwrap();
    let config = config.to_str().unwrap();
    assert_eq!(found(&["--config", config]), disabled);
    assert_eq!(
        found(&["--config", config, "--channel-priority", "strict"]),
        strict
    );
    fs::write(config, "channel_priority: some\n").unwrap();
    let said = project.imgbuild(&["lock", "env.yml", "--config", config]);
    assert!(
        said.stderr.contains("strict, flexible and disabled"),
        "{}",
        said.stderr
    );
}

#[test]
fn a_spec_may_name_its_channel() {
    let channels = competing();
    let low = format!("{}::tool", channels.url("low"));
    // Strict priority does not hide what is asked for by channel, listed or not.
    for listed in [&["high", "low"][..], &["high"]] {
        let (_, packages) = locked(&channels.project(listed, &["lib", &low]), &[]);
        has(&packages, &["lib-1.0", "tool-2.0"]);
    }
}

#[test]
fn a_refusal_names_each_conflicting_spec_once() {
    let channels = Channels::classic();
    let specs = ["numpy", "python=3.11", "requests", "pytorch=1.12", "sympy"];
    let said = refused(&channels.project(&CLASSIC, &specs), &[]);
    assert!(
        said.contains("these conflict: python 3.11.*, pytorch 1.12.*\n"),
        "{said}"
    );
    assert!(said.contains("python >=3.9,<3.10.0a0"), "{said}");
    assert!(said.lines().count() < 14, "{said}");
    let lines: Vec<&str> = said.lines().map(str::trim).collect();
    for (at, line) in lines.iter().enumerate() {
        assert!(!lines[..at].contains(line), "said twice: {line}\n{said}");
    }
}

#[test]
fn a_refusal_says_what_is_the_reason() {
    let classic = Channels::classic();
    let crafted = Channels::crafted(&[
        "high: lib 1.0",
        "high: app 1.0 <- lib >=2",
        "high: new 1.0 <- __glibc >=2.90",
        "high: gpu 1.0 <- __cuda >=12",
        "low: lib 2.0",
    ]);
    let both = ["high", "low"];
    let cases: [(Project, &[&str], &str); 9] = [
        (
            classic.project(&CLASSIC, &["pytorch=2.8"]),
            &[],
            "is frozen, its last pytorch is 2.5",
        ),
        (
            classic.project(&CLASSIC, &["pytorch-cuda=12.8"]),
            &[],
            "its last pytorch-cuda is 12.4",
        ),
        (
            classic.project(&CLASSIC, &["pytorch=2.3"]),
            &[],
            "conda-forge/ has 'pytorch 2.3.*', but file://",
        ),
        (
            crafted.project(&both, &["app"]),
            &[],
            "low/ has lib 2.0, but a channel above it",
        ),
        (
            crafted.project(&both, &["new"]),
            &[],
            "glibc is the reason, and the base image has 2.28",
        ),
        (crafted.project(&both, &["gpu"]), &[], "such as --cuda 12.9"),
        (
            crafted.project(&both, &["gpu"]),
            &["--cuda", "11.8"],
            "drivers with CUDA 11.8",
        ),
        (
            classic.project(&CLASSIC, &["pytorch=*=*cuda11.7*", "pytorch-cuda=11.8"]),
            &[],
            "these conflict: pytorch * *cuda11.7*, pytorch-cuda 11.8.*",
        ),
        (
            classic.project(&CLASSIC, &["pytorch=*=*cuda11.7*", "cuda-version=11.8"]),
            &[],
            "there are builds, but none for CUDA 11.8",
        ),
    ];
    for (project, flags, words) in cases {
        let said = refused(&project, flags);
        assert!(said.contains(words), "{words}\n{said}");
    }
}

#[test]
fn the_channel_that_cannot_be_read_is_named() {
    let channels = competing();
    let project = channels.project(&["high", "gone", "low"], &["app"]);
    let (output, _) = lock(&project, &[]);
    output.expect(3);
    let place = format!("at: {}/", channels.url("gone"));
    assert!(output.stderr.contains(&place), "{}", output.stderr);
    fs::write(
        channels.path().join("low/noarch/repodata.json"),
        "{ no json",
    )
    .unwrap();
    let project = channels.project(&["high", "low"], &["app"]);
    let (output, _) = lock(&project, &[]);
    output.expect(3);
    let place = format!("at: {}/\n", channels.url("low"));
    assert!(output.stderr.contains(&place), "{}", output.stderr);
}
