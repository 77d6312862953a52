//! PyTorch for CUDA on both kinds of machine. The channel is metadata only: `lock` fetches no package.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{BOTH, read};
use crate::{
    mini::{env, write_json},
    support::Project,
};

const SUBDIRS: [&str; 3] = ["linux-64", "linux-aarch64", "noarch"];

fn record(name: &str, version: &str, build: &str, depends: &[&str]) -> Value {
    json!({"name": name, "version": version, "build": build, "build_number": 0,
        "depends": depends, "sha256": "0".repeat(64), "size": 1})
}

/// A channel as conda-forge has PyTorch, with CUDA builds in these subdirs.
fn channel(with_cuda: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for subdir in SUBDIRS {
        let mut records = match subdir {
            "noarch" => vec![record("cuda-version", "12.9", "0", &[])],
            _ => vec![record("pytorch", "2.8.0", "cpu_generic_0", &[])],
        };
        if with_cuda.contains(&subdir) {
            let depends = ["__cuda", "cuda-version >=12.9,<13", "__glibc >=2.28"];
            records.push(record("pytorch", "2.8.0", "cuda129_generic_200", &depends));
        }
        let named = records.into_iter().map(|mut record| {
            record["subdir"] = subdir.into();
            let text = |key: &str| record[key].as_str().unwrap().to_owned();
            let file = format!(
                "{}-{}-{}.conda",
                text("name"),
                text("version"),
                text("build")
            );
            (file, record)
        });
        let packages: serde_json::Map<String, Value> = named.collect();
        fs::create_dir(dir.path().join(subdir)).unwrap();
        let index = json!({"info": {"subdir": subdir}, "packages": {}, "packages.conda": packages});
        write_json(&dir.path().join(subdir).join("repodata.json"), &index);
    }
    dir
}

fn project(channel: &TempDir) -> Project {
    let url = format!("file://{}", channel.path().display());
    let project = Project::new(&env(&url, &["pytorch", "cuda-version=12.9"]));
    project.write("imgbuild.yaml", "base: scratch\n");
    project
}

#[test]
fn each_platform_gets_a_cuda_build() {
    let channel = channel(&["linux-64", "linux-aarch64"]);
    let project = project(&channel);
    let out = project.ok(&["lock", "env.yml", "--platform", BOTH]);
    for machine in ["linux/amd64", "linux/arm64"] {
        let said = format!("For {machine}:\nCUDA 12.9");
        assert!(out.stderr.contains(&said), "{}", out.stderr);
    }
    let lock = read(&project, "env.lock.yml");
    for subdir in ["linux-64", "linux-aarch64"] {
        let build = format!("/{subdir}/pytorch-2.8.0-cuda129_generic_200.conda");
        assert!(lock.contains(&build), "{lock}");
    }
    assert_eq!(lock.matches("- __cuda=12.9=0").count(), 2, "{lock}");
}

#[test]
fn a_platform_without_cuda_builds_is_named() {
    let channel = channel(&["linux-64"]);
    let project = project(&channel);
    let out = project.imgbuild(&["lock", "env.yml", "--platform", BOTH]);
    out.expect(2);
    assert!(
        out.stderr.contains("this is for linux/arm64"),
        "{}",
        out.stderr
    );
    assert!(!project.path("env.lock.yml").exists());
    project.ok(&["lock", "env.yml"]);
}
