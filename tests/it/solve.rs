//! Solving as conda does: channel priority, the target's virtual packages, CUDA, and what is said
//! when it cannot be done. The channels are small, and metadata only: `lock` fetches no package.

mod condarc;
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
fn pytorch_1_12_with_cuda_11_3() {
    let specs = [
        "python=3.9",
        "pytorch=1.12",
        "torchvision",
        "torchaudio",
        "cudatoolkit=11.3",
    ];
    let (output, packages) = locked(&Channels::classic().project(&CLASSIC, &specs), &[]);
    let told = "__cuda 11.3, from cudatoolkit=11.3 (env.yml:";
    assert!(output.stderr.contains(told), "{}", output.stderr);
    has(
        &packages,
        &[
            "pytorch-1.12.1-py3.9_cuda11.3_cudnn8.3.2_0",
            "torchvision-0.13.1-py39_cu113",
            "torchaudio-0.12.1-py39_cu113",
            "cudatoolkit-11.3.1",
            "pytorch-mutex-1.0-cuda",
            "python-3.9.",
        ],
    );
}

#[test]
fn pytorch_2_0_with_cuda_11_8() {
    let specs = [
        "python=3.9",
        "pytorch=2.0",
        "torchvision",
        "torchaudio",
        "pytorch-cuda=11.8",
    ];
    let (_, packages) = locked(&Channels::classic().project(&CLASSIC, &specs), &[]);
    has(
        &packages,
        &[
            "pytorch-2.0.1-py3.9_cuda11.8_cudnn8.7.0_0",
            "torchvision-0.15.2-py39_cu118",
            "torchaudio-2.0.2-py39_cu118",
            "pytorch-cuda-11.8-h7e8668a_5",
            "torchtriton-2.0.0-py39",
            "cuda-cudart-11.8.89",
            "pytorch-mutex-1.0-cuda",
            // Strict priority: conda-forge's ffmpeg 6 does not count.
            "ffmpeg-4.3",
        ],
    );
}

/// However loosely the rest is asked for, CUDA 11.8 is not 11.7, 12.1 or none.
#[test]
fn one_cuda_is_never_another_or_none() {
    let channels = Channels::classic();
    let asks: [&[&str]; 6] = [
        &["pytorch", "torchvision", "pytorch-cuda=11.8"],
        &["pytorch=2", "pytorch-cuda=11.8", "python=3.9"],
        &["pytorch=2.0.0", "pytorch-cuda=11.8"],
        &["pytorch=*=*cuda11.8*", "torchvision", "torchaudio"],
        // Other words than those of torch's channel.
        &["pytorch", "torchvision", "cuda-version=11.8"],
        &["pytorch", "cuda-runtime=11.8"],
    ];
    for specs in asks {
        for priority in ["strict", "flexible", "disabled"] {
            let project = channels.project(&CLASSIC, specs);
            // cuda-runtime bounds nothing above: its newest libraries are for another CUDA.
            let flags = ["--channel-priority", priority, "--allow", "cuda-mixed"];
            let (output, packages) = locked(&project, &flags);
            assert!(
                output.stderr.contains("__cuda 11.8, from"),
                "{}",
                output.stderr
            );
            let torch = packages
                .iter()
                .filter(|p| p.starts_with("torch") || p.starts_with("pytorch"));
            for package in torch {
                let is_other = [
                    "cpu", "cu117", "cuda11.7", "cu121", "cuda12", "11.7-", "12.1-",
                ]
                .iter()
                .any(|other| package.contains(other));
                assert!(!is_other, "{specs:?} {priority}: {package}");
            }
            let is_118 = |p: &String| p.contains("_cuda11.8_") || p.contains("-cuda118_");
            assert!(
                packages.iter().any(is_118),
                "{specs:?} {priority}: {packages:#?}"
            );
        }
    }
    // The flag says what drivers offer: the same release where there is one, else an older one.
    let project = channels.project(&CLASSIC, &["pytorch", "torchvision", "python=3.9"]);
    for (cuda, torch) in [
        ("11.8", "pytorch-2.1.0-py3.9_cuda11.8"),
        ("11.7", "pytorch-2.0.1-py3.9_cuda11.7"),
        ("12.1", "pytorch-2.1.0-py3.9_cuda12.1"),
        ("11.9", "pytorch-2.1.0-py3.9_cuda11.8"),
    ] {
        has(&locked(&project, &["--cuda", cuda]).1, &[torch]);
    }
    has(&locked(&project, &[]).1, &["pytorch-2.1.0"]);
}

#[test]
fn a_cpu_torch_is_never_the_answer_to_a_wish_for_cuda() {
    let channels = Channels::classic();
    // The solver alone answers these with CPU builds.
    let asks: [(&[&str], &str, &str); 3] = [
        (
            &["pytorch=2.0", "pytorch-cuda=12.1"],
            "CUDA 12.1 is asked for, but torch is a CPU build",
            "pytorch 2.0.1 is there for CUDA 11.7, 11.8",
        ),
        (
            &["pytorch=1.13", "pytorch-cuda=11.8", "python=3.9"],
            "CUDA 11.8 is asked for, but torch is a CPU build",
            "pytorch 1.13.1 is there for CUDA 11.6, 11.7",
        ),
        (
            &["pytorch", "cpuonly", "pytorch-cuda=11.8"],
            "CUDA 11.8 is asked for, but torch is a CPU build",
            "hint: ",
        ),
    ];
    for (specs, what, why) in asks {
        let said = refused(&channels.project(&CLASSIC, specs), &[]);
        assert!(said.contains(what) && said.contains(why), "{said}");
    }
    // conda-forge: a GPU-less builder gets CUDA builds, or has to say which CUDA.
    let forge = |specs: &[&str]| channels.project(&["conda-forge"], specs);
    let torch = |specs: &[&str], flags: &[&str]| {
        let (_, packages) = locked(&forge(specs), flags);
        packages
            .into_iter()
            .find(|p| p.starts_with("pytorch"))
            .unwrap()
    };
    let wanted = ["python=3.10", "pytorch", "cuda-version=11.8"];
    assert!(torch(&wanted, &[]).contains("cuda118"));
    assert!(torch(&["python=3.10", "pytorch"], &["--cuda", "12.4"]).contains("cuda120"));
    assert!(torch(&["python=3.10", "pytorch"], &[]).contains("cpu_generic"));
    for unsaid in ["pytorch-gpu", "pytorch=*=*cuda*", "cuda-version<12"] {
        let said = refused(&forge(&["python=3.10", "pytorch", unsaid]), &[]);
        assert!(
            said.contains("--cuda 12.9") && said.contains("env.yml:"),
            "{said}"
        );
    }
    // CPU builds by name are no mistake, whatever the drivers offer.
    let cpu = ["pytorch=2.0", "cpuonly", "python=3.9"];
    let (_, packages) = locked(
        &channels.project(&CLASSIC, &cpu),
        &["--cuda", "11.8", "--allow", "cpu-torch"],
    );
    has(&packages, &["pytorch-2.0.1-py3.9_cpu_0"]);
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
    let cases: [(Project, &[&str], &str); 8] = [
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
            "the constraint pytorch-cuda 11.8.* cannot be fulfilled",
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

/// An OCI layout of one layer with these files.
fn base(project: &Project, name: &str, files: &[(&str, &[u8])]) -> String {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        tar.append_data(&mut header, path, *content).unwrap();
    }
    let layer = tar.into_inner().unwrap();
    let dir = project.path(name);
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |media: &str, bytes: &[u8]| {
        let digest = crate::mini::sha256(bytes);
        fs::write(blobs.join(&digest), bytes).unwrap();
        json!({"mediaType": format!("application/vnd.oci.image.{media}"), "size": bytes.len(),
            "digest": format!("sha256:{digest}")})
    };
    let layer = put("layer.v1.tar", &layer);
    let config = json!({"architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}});
    let config = put("config.v1+json", config.to_string().as_bytes());
    let media = "application/vnd.oci.image.manifest.v1+json";
    let manifest =
        json!({"schemaVersion": 2, "mediaType": media, "config": config, "layers": [layer]});
    let manifest = put("manifest.v1+json", manifest.to_string().as_bytes());
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    write_json(&dir.join("index.json"), &index);
    write_json(
        &dir.join("oci-layout"),
        &json!({"imageLayoutVersion": "1.0.0"}),
    );
    format!("oci:{name}")
}

const BANNER: &str = "\x7fELF GNU C Library (Debian GLIBC 2.31-13) stable release version 2.31.\n";

#[test]
fn glibc_is_the_base_images() {
    let channels = Channels::crafted(&[
        "c: tool 1.0 <- __glibc >=2.17",
        "c: tool 2.0 <- __glibc >=2.30",
        "c: tool 3.0 <- __glibc >=2.34",
        "c: free 1.0",
    ]);
    let project = channels.project(&["c"], &["tool"]);
    let lib: (&str, &[u8]) = ("usr/lib/x86_64-linux-gnu/libc.so.6", BANNER.as_bytes());
    let bases = [
        ("debian11", base(&project, "debian11", &[lib]), "tool-2.0"),
        (
            "debian9",
            base(
                &project,
                "debian9",
                &[("lib/x86_64-linux-gnu/libc-2.24.so", b"")],
            ),
            "tool-1.0",
        ),
        (
            "empty",
            base(&project, "empty", &[("etc/motd", b"")]),
            "tool-1.0",
        ),
        ("scratch", "scratch".into(), "tool-1.0"),
    ];
    let run = |base: &str| {
        project.write("imgbuild.yaml", &format!("base: {base}\n"));
        let output = project.imgbuild(&["lock", "env.yml"]);
        let text = fs::read_to_string(project.path("env.lock.yml")).unwrap_or_default();
        (output, text)
    };
    for (name, base, tool) in &bases {
        let (output, text) = run(base);
        output.expect(0);
        assert!(text.contains(tool), "{name}: {text}");
        let assumed = output.stderr.contains("__glibc is taken as 2.28");
        assert_eq!(assumed, !name.starts_with("debian"), "{}", output.stderr);
    }
    let alpine = base(
        &project,
        "alpine",
        &[("lib/ld-musl-x86_64.so.1", b"\x7fELF")],
    );
    let (output, _) = run(&alpine);
    output.expect(2);
    assert!(output.stderr.contains("it has musl"), "{}", output.stderr);

    // conda's override wins.
    project.write("imgbuild.yaml", "base: oci:alpine\n");
    let lock = ["lock", "env.yml", "--update-all"];
    let mut command = crate::mini::command(&project, &lock);
    project
        .output(command.env("CONDA_OVERRIDE_GLIBC", "2.40"))
        .expect(0);
    assert!(crate::mini::read(&project, "env.lock.yml").contains("tool-3.0"));
}

/// A lock that was made for another base does not get into an image that cannot run it.
#[test]
fn a_lock_must_fit_the_base() {
    let channels = Channels::crafted(&["c: tool 3.0 <- __glibc >=2.34,<3.0.a0"]);
    let project = channels
        .project(&["c"], &["tool"])
        .with_env("CONDA_OVERRIDE_GLIBC", "2.36");
    locked(&project, &[]);
    let lib: (&str, &[u8]) = ("lib64/libc.so.6", BANNER.as_bytes());
    let old = base(&project, "old", &[lib]);
    let alpine = base(
        &project,
        "alpine",
        &[("lib/ld-musl-x86_64.so.1", b"\x7fELF")],
    );
    let build = |base: &str| {
        let mut command = crate::mini::command(&project, &["build", "env.yml", "--base", base]);
        let output = project.output(command.env_remove("CONDA_OVERRIDE_GLIBC"));
        output.expect(2);
        output.stderr
    };
    let said = build(&old);
    assert!(
        said.contains("tool-3.0-0.tar.bz2 does not run on the base image"),
        "{said}"
    );
    assert!(
        said.contains("it needs __glibc >=2.34,<3.0.a0, and the base has glibc 2.31"),
        "{said}"
    );
    assert!(build(&alpine).contains("it has musl"));
}
