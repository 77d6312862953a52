//! What a user reads when something is wrong: the exact words and the exit status.

use std::{fs, path::Path};

use serde_json::json;

use crate::{
    mini::{self, Mini, base, blob_json, env, names, sha256},
    support::{Output, Project, channel, fixture},
};

const HELLO: &str = "hello-demo-1.0-0.tar.bz2";

/// Cases of one kind, in one snapshot.
#[derive(Default)]
struct Catalogue(String);

impl Catalogue {
    fn run(&mut self, project: &Project, args: &[&str]) -> Output {
        let out = project.imgbuild(args);
        self.note(args, &out);
        out
    }

    fn note(&mut self, args: &[&str], out: &Output) {
        assert_ne!(out.status, 0, "{args:?} succeeded");
        assert_eq!(out.stdout, "", "{args:?}");
        let args: Vec<String> = args.iter().map(|a| shell_word(a)).collect();
        self.0 += &format!(
            "$ imgbuild {}\n{}[exit status {}]\n\n",
            args.join(" "),
            out.stderr,
            out.status
        );
    }

    /// Locks one environment file after another.
    fn lock(&mut self, text: &str) {
        self.run(&Project::new(text), &["lock", "env.yml"]);
    }

    fn check(&self, name: &str) {
        let filters = vec![
            (r"127\.0\.0\.1:\d+", "127.0.0.1:[PORT]"),
            (r"(/[\w.-]+)*/\.tmp\w{6}", "[DIR]"),
            // Both are asked for at once; whichever fails first is named.
            (
                r"(linux-64|noarch)/repodata_shards",
                "[SUBDIR]/repodata_shards",
            ),
            (r"sha256:[0-9a-f]{64}", "sha256:[HASH]"),
            (r"\b[0-9a-f]{64}\b", "[HASH]"),
            // The base is made of what Debian has by now.
            (r"\b\d{7,}\b", "[SIZE]"),
        ];
        insta::with_settings!({filters => filters, omit_expression => true}, {
            insta::assert_snapshot!(name, self.0.trim_end());
        });
    }
}

fn shell_word(word: &str) -> String {
    match word.contains([' ', '*', '&']) {
        true => format!("'{word}'"),
        false => word.to_owned(),
    }
}

#[test]
fn environment_files() {
    let mut all = Catalogue::default();
    for text in [
        "name: x\ndependencies:\n  - python\n  numpy\n",
        "name: x\ndependencies:\n\t- python\n",
        "dependencies: [python, numpy\n",
        "",
        "name: x\ndependancies:\n  - python\n",
        "dependencies:\n  - python\n  - pip:\n    - git+https://host/x\n",
        "dependencies:\n  - python>>3\n",
        "dependencies:\n  - https://example.org/linux-64/a-1-0.conda\n",
        "name: x\ndependencies: []\n",
        "version: 6\nenvironments:\n  default: {}\npackages: []\n",
        "version: 1\nmetadata: {}\npackage:\n- name: python\n",
        "# platform: linux-64\n@EXPLICIT\nhttps://example.org/linux-64/a-1-0.conda#0\n",
        "platforms: [osx-arm64]\ndependencies: [python]\n",
    ] {
        all.lock(text);
    }
    let project = Project::new("");
    fs::write(project.path("latin1.yml"), b"name: caf\xe9\n").unwrap();
    fs::create_dir(project.path("folder")).unwrap();
    for file in ["latin1.yml", "folder", "missing.yml"] {
        all.run(&project, &["lock", file]);
    }
    all.check("environment_files");
}

#[test]
fn solving() {
    let mut all = Catalogue::default();
    for specs in [
        &["helo-demo"][..],
        &["unsatisfiable-demo"],
        &["hello-demo=1.0", "hello-demo=1.1"],
        &["hello-demo>=7"],
        &["python=3.11", "numpy=2.0.2"],
        &["pytorch"],
        &["variant-demo=1.0=cuda*"],
    ] {
        all.lock(&env(channel(), specs));
    }
    let project = Project::new(&env(channel(), &["variant-demo"]));
    for value in ["twelve", "12.9"] {
        project.write_env(&env(channel(), &["variant-demo=1.0=cuda*"]));
        let mut command = mini::command(&project, &["lock", "env.yml"]);
        let out = project.output(command.env("CONDA_OVERRIDE_CUDA", value));
        all.note(&["lock", "env.yml"], &out);
    }
    assert!(!project.path("env.lock.yml").exists());
    all.check("solving");
}

#[test]
fn channels() {
    let mut all = Catalogue::default();
    for place in [
        &*format!("{}/nowhere", channel()),
        "http://127.0.0.1:1/conda",
        "file:///nowhere/channel",
        "./nowhere",
        "a b",
    ] {
        all.lock(&env(place, &["hello-demo"]));
    }
    let mini = Mini::of(&[HELLO]);
    fs::write(mini.path().join("linux-64/repodata.json"), "<html>\n").unwrap();
    all.lock(&env(&mini.url(), &["hello-demo"]));
    all.check("channels");
}

#[test]
fn packages() {
    let mut all = Catalogue::default();
    let conda = "hello-demo-1.1-0.conda";
    for (file, how) in [
        (HELLO, "wrong"),
        (HELLO, "truncated"),
        (conda, "truncated"),
        (HELLO, "missing"),
        (HELLO, "unhashed"),
    ] {
        let mini = Mini::of(&[file]);
        let whole = fs::read(mini.file(file)).unwrap();
        match how {
            "wrong" => mini.replace(file, &whole[1..], false),
            "truncated" => mini.replace(file, &whole[..whole.len() / 2], true),
            "missing" => fs::remove_file(mini.file(file)).unwrap(),
            _ => mini.edit(file, |record| drop(record.remove("sha256"))),
        }
        let served = crate::support::Channel::serve(mini.path());
        let project = Project::new(&env(&served.url, &["hello-demo"]));
        all.run(&project, &["build", "env.yml", "--base", "scratch"]);
        let kept = if how == "truncated" { 1 } else { 0 };
        assert_eq!(names(&project.cache.join("packages")).len(), kept, "{how}");
        for folder in ["layers", "tmp", "blobs/sha256"] {
            assert_eq!(
                names(&project.cache.join(folder)),
                [""; 0],
                "{how}: {folder}"
            );
        }
    }
    all.check("packages");
}

#[test]
fn linking() {
    let mut all = Catalogue::default();
    let mini = Mini::of(&["noarch-demo-1.0-pyhd8ed1ab_0.conda"]);
    mini.add_with_placeholder("short-demo", "/tmp/build");
    mini.edit("noarch-demo-1.0-pyhd8ed1ab_0.conda", |record| {
        record["depends"] = json!([]);
    });
    let project = Project::new(&env(&mini.url(), &["short-demo"]));
    let build = ["build", "env.yml", "--base", "scratch"];
    project.ok(&build);
    all.run(
        &project,
        &[&build[..], &["--prefix", "/opt/conda/x"]].concat(),
    );
    let project = Project::new(&env(&mini.url(), &["noarch-demo"]));
    all.run(&project, &build);
    all.check("linking");
}

/// A copy of the fixture base whose config is changed.
fn changed_base(to: &Path, change: impl Fn(&mut serde_json::Value)) {
    let from = fixture("IMGBUILD_TEST_BASE");
    let blobs = to.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    for name in names(&from.join("blobs/sha256")) {
        fs::copy(from.join("blobs/sha256").join(&name), blobs.join(&name)).unwrap();
    }
    fs::copy(from.join("oci-layout"), to.join("oci-layout")).unwrap();
    let put = |value: &serde_json::Value| {
        let bytes = value.to_string();
        fs::write(blobs.join(sha256(bytes.as_bytes())), &bytes).unwrap();
        (format!("sha256:{}", sha256(bytes.as_bytes())), bytes.len())
    };
    let mut index = mini::read_json(&from.join("index.json"));
    let digest = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
    let mut manifest = blob_json(&from, &digest);
    let mut config = blob_json(&from, manifest["config"]["digest"].as_str().unwrap());
    change(&mut config);
    let (digest, size) = put(&config);
    manifest["config"]["digest"] = digest.into();
    manifest["config"]["size"] = size.into();
    let (digest, size) = put(&manifest);
    index["manifests"][0] = json!({"digest": digest, "size": size,
        "mediaType": "application/vnd.oci.image.manifest.v1+json"});
    mini::write_json(&to.join("index.json"), &index);
}

#[test]
fn bases() {
    let mut all = Catalogue::default();
    let mini = Mini::of(&[HELLO]);
    let project = Project::new(&env(&mini.url(), &["hello-demo"]));
    let dir = project.dir.path();
    // Not over the fixture base, whose layers would be in the cache.
    project.ok(&["lock", "env.yml", "--base", "scratch"]);
    changed_base(&dir.join("arm"), |config| {
        config["architecture"] = "arm64".into()
    });
    changed_base(&dir.join("ids"), |config| {
        config["rootfs"]["diff_ids"] = json!([format!("sha256:{}", "0".repeat(64))]);
    });
    changed_base(&dir.join("bad"), |_| {});
    let manifest = mini::layout_manifest(&dir.join("bad")).1;
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    let blob = dir.join("bad/blobs/sha256").join(&layer[7..]);
    let mut bytes = fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&blob, &bytes).unwrap();
    changed_base(&dir.join("short"), |_| {});
    let short = dir.join("short/blobs/sha256").join(&layer[7..]);
    fs::write(short, &bytes[..middle]).unwrap();
    fs::create_dir(dir.join("empty")).unwrap();
    for source in [
        "oci:missing",
        "oci:empty",
        "oci:bad",
        "oci:short",
        "oci:ids",
        "oci:arm",
        "oci:arm:no-such-tag",
        "oci:env.yml",
        "oci-archive:missing.tar",
        "oci-archive:env.yml",
        "docker-archive:missing.tar",
        "docker-archive:arm",
        "127.0.0.1:1/base:1",
        "Debian:12",
        "oci:",
    ] {
        all.run(&project, &["build", "env.yml", "--base", source]);
        assert_eq!(names(&project.cache.join("tmp")), [""; 0], "{source}");
    }
    all.check("bases");
}

#[test]
fn settings_and_flags() {
    let mut all = Catalogue::default();
    let mini = Mini::of(&[HELLO]);
    let project = Project::new(&env(&mini.url(), &["hello-demo"]));
    for text in [
        "entrypont: [python]\n",
        "base: debian:12\ntags: train\n",
        "code: {path: nowhere}\n",
        "prefix: /usr\n",
    ] {
        project.write("imgbuild.yaml", text);
        all.run(&project, &["build", "env.yml"]);
    }
    fs::remove_file(project.path("imgbuild.yaml")).unwrap();
    let long = format!("/{}", "p".repeat(200));
    for flags in [
        &["--config", "missing.yaml"][..],
        &["--prefix", "opt"],
        &["--prefix", &long],
        &["--user", "a b"],
        &["--max-layers", "126"],
        &["--max-layers", "3", "--base", "scratch"],
        &["-t", "Train"],
        &["--env", "novalue"],
        &["-o", "out"],
        &["-o", "type=zip,dest=x"],
        &["-o", "type=oci"],
        &["--code", "missing"],
        &["--code", ".:/opt/conda/lib"],
        &["--entrypoint", "a && b"],
        &["--no-such-flag"],
        &["--probe", "--gpus", "2", "--cpu"],
        &["--probe", "--gpus", "0"],
    ] {
        all.run(&project, &[&["build", "env.yml"], flags].concat());
    }
    all.run(&project, &["build"]);
    all.run(&project, &["bild", "env.yml"]);
    all.run(&project, &["init", "pytorch-cu113"]);
    all.run(&project, &["init", "pytorch-cpu"]);
    all.check("settings_and_flags");
}

#[test]
fn code_folders() {
    let mut all = Catalogue::default();
    let mini = Mini::of(&[HELLO]);
    let project = Project::new(&env(&mini.url(), &["hello-demo"]));
    project.write("code/train.py", "print()\n");
    for target in ["../env.yml", "/etc/passwd"] {
        let link = project.path("code/link");
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(target, &link).unwrap();
        let args = ["build", "env.yml", "--base", "scratch", "--code", "code"];
        all.run(&project, &args);
    }
    all.check("code_folders");
}

#[test]
fn disks() {
    let mut all = Catalogue::default();
    let mini = Mini::of(&[HELLO]);
    let project = Project::new(&env(&mini.url(), &["hello-demo"]));
    project.ok(&["lock", "env.yml"]);
    project.write("other/file.txt", "");
    for output in [
        "type=oci,dest=env.yml",
        "type=oci,dest=other",
        "type=oci-archive,dest=other",
        "type=oci-archive,dest=env.yml/image.tar",
        "type=docker-archive,dest=nowhere/image.tar",
    ] {
        let base = base();
        let args = ["build", "env.yml", "--base", &base, "-o", output];
        let out = project.imgbuild(&args);
        let shown = ["build", "env.yml", "-o", output];
        all.note(&shown, &without_progress(out));
    }
    let lock = project.path("env.lock.yml");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    all.run(&project, &["lock", "env.yml"]);
    for cache in ["env.yml", "/proc/imgbuild"] {
        let mut command = mini::command(&project, &["lock", "env.yml"]);
        let out = project.output(command.env("IMGBUILD_CACHE_DIR", cache));
        all.note(&["lock", "env.yml"], &out);
    }
    all.check("disks");
}

/// The output without the lines of a build that went well.
fn without_progress(out: Output) -> Output {
    let at = out.stderr.find("error:").unwrap();
    Output {
        stderr: out.stderr[at..].to_owned(),
        ..out
    }
}

#[test]
fn help() {
    let project = Project::new("");
    insta::assert_snapshot!("help", project.ok(&["--help"]).stdout);
    let version = concat!("imgbuild ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(project.ok(&["--version"]).stdout, version);
    for command in ["lock", "build", "push", "probe", "diff", "init"] {
        let out = project.ok(&[command, "--help"]);
        assert!(out.stdout.contains(&format!("Usage: imgbuild {command}")));
        assert_eq!(out.stderr, "");
    }
    let listed = project.ok(&["init", "--list"]).stdout;
    assert!(listed.lines().all(|line| line.contains("  ")), "{listed}");
}
