//! The gate: what a lock needs is said and written into the image, and machines that lack it are
//! refused before anything is downloaded.

use serde_json::Value;

use crate::{
    mini::{base, names, read},
    support::{Project, env_file},
};

/// The fixture channel's torch 2.15 is built for CUDA 13.2.
fn torch() -> Project {
    Project::new(&env_file("torch"))
}

/// CUDA's runtime library alone: an image that builds in seconds.
const RUNTIME: &str = "channels: [\"@CHANNEL@\"]\ndependencies: [python=3.11, cuda-cudart, nccl]\n";

fn config(project: &Project, args: &[&str]) -> Value {
    let base = base();
    let args = [&["build", "env.yml", "--base", &base], args].concat();
    let digest = project.ok(&args).digest().to_owned();
    let blobs = project.cache.join("blobs/sha256");
    let blob = |digest: &str| -> Value {
        let file = blobs.join(digest.trim_start_matches("sha256:"));
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
    };
    let manifest = blob(&digest);
    blob(manifest["config"]["digest"].as_str().unwrap())["config"].take()
}

/// The variables of an image that NVIDIA's runtime reads.
fn nvidia(config: &Value) -> Vec<&str> {
    let all = config["Env"].as_array().unwrap().iter();
    let mut all: Vec<&str> = all.filter_map(Value::as_str).collect();
    all.retain(|pair| pair.starts_with("NVIDIA_"));
    all
}

#[test]
fn a_lock_says_what_it_needs() {
    let project = torch();
    let out = project.ok(&["lock", "env.yml", "--cuda", "13.2"]);
    let first = "CUDA 13.2, cuDNN 9.26, NCCL 2.30, torch 2.15.0 (conda)";
    let second = "Needs NVIDIA driver 580 or newer, 595.45.04 for all of it";
    assert!(
        out.stderr.contains(&format!("{first}\n{second}\n")),
        "{}",
        out.stderr
    );
    assert!(!out.stderr.contains("warning"), "{}", out.stderr);
    assert_eq!(out.stdout, "env.lock.yml\n");
}

#[test]
fn machines_that_lack_something_are_refused() {
    for (flags, codes) in [
        (
            &["--cuda", "13.2", "--driver", "535.104"][..],
            &["driver-too-old"][..],
        ),
        (&["--cuda", "13.2", "--gpu", "k80"], &["arch"]),
        (
            &[
                "--cuda", "13.2", "--driver", "535.104", "--gpu", "k80", "--gpu", "H200",
            ],
            &["driver-too-old", "arch"],
        ),
    ] {
        let project = torch();
        let out = project.imgbuild(&[&["lock", "env.yml"], flags].concat());
        out.expect(2);
        assert_eq!(out.stdout, "");
        for code in codes {
            let words = format!("--allow {code}");
            assert_eq!(out.stderr.matches(&words).count(), 1, "{}", out.stderr);
        }
        assert_eq!(out.stderr.matches("error:").count(), codes.len());
        assert!(out.stderr.contains("pytorch 2.15.0 cuda132_py311_0"));
        assert!(!project.path("env.lock.yml").exists());
    }
    let fits = ["--cuda", "13.2", "--driver", "595.45.04", "--gpu", "h200"];
    let out = torch().ok(&[&["lock", "env.yml"], &fits[..]].concat());
    assert!(!out.stderr.contains("warning"), "{}", out.stderr);
}

#[test]
fn a_build_is_refused_before_anything_is_downloaded() {
    let project = torch();
    project.ok(&["lock", "env.yml", "--cuda", "13.2"]);
    let lock = read(&project, "env.lock.yml");
    let out = project.imgbuild(&[
        "build",
        "env.yml",
        "--base",
        &base(),
        "--driver",
        "550.54.14",
    ]);
    out.expect(2);
    assert!(out.stderr.contains("[driver-too-old]"), "{}", out.stderr);
    assert_eq!(names(&project.cache.join("packages")), [""; 0]);
    assert_eq!(read(&project, "env.lock.yml"), lock);
}

#[test]
fn the_file_says_the_machines_and_what_is_allowed() {
    let project = torch();
    let lock = ["lock", "env.yml", "--cuda", "13.2"];
    project.write(
        "imgbuild.yaml",
        &format!(
            "base: '{}'\ndriver: 535.104\ngpu: [k80]\nallow: arch\n",
            base()
        ),
    );
    let out = project.imgbuild(&lock);
    out.expect(2);
    let warned = |text: &str, code: &str| {
        let mut lines = text.lines().filter(|line| line.starts_with("warning:"));
        lines.any(|line| line.ends_with(&format!("[{code}]")))
    };
    assert!(warned(&out.stderr, "arch"), "{}", out.stderr);
    let out = project.ok(&[&lock[..], &["--allow", "driver-too-old"]].concat());
    assert!(warned(&out.stderr, "driver-too-old"), "{}", out.stderr);
    let out = project.ok(&[&lock[..], &["--driver", "600.1", "--gpu", "sm_120"]].concat());
    assert!(!out.stderr.contains("warning:"), "{}", out.stderr);
}

#[test]
fn flags_that_name_nothing_are_refused() {
    let project = Project::new("dependencies: [python]\n");
    for (flag, value, words) in [
        ("--gpu", "rtx4900", "'rtx4090'"),
        ("--gpu", "mi300x", "sm_90"),
        ("--driver", "12.4", "nvidia-smi"),
        ("--allow", "driver-to-old", "'driver-too-old'"),
        ("--allow", "oom", "probe"),
    ] {
        let out = project.imgbuild(&["lock", "env.yml", flag, value]);
        out.expect(2);
        assert!(out.stderr.contains(words), "{flag} {value}: {}", out.stderr);
    }
    project.write("imgbuild.yaml", "cuda: 13.2\ngpu: [a100, h20x]\n");
    let out = project.imgbuild(&["lock", "env.yml"]);
    out.expect(2);
    assert!(out.stderr.contains("imgbuild.yaml:2:13"), "{}", out.stderr);
}

#[test]
fn the_image_carries_what_it_needs() {
    let project = Project::new(RUNTIME);
    let image = config(&project, &[]);
    let label = |name: &str| image["Labels"][format!("dev.imgbuild.{name}")].as_str();
    assert_eq!(label("cuda"), Some("13.2"));
    assert_eq!(label("nccl"), Some("2.30.7"));
    assert_eq!(label("driver-min"), Some("580"));
    assert_eq!(label("driver-toolkit"), Some("595.45.04"));
    assert_eq!((label("torch"), label("sm")), (None, None));
    let all = [
        "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
        "NVIDIA_REQUIRE_CUDA=cuda>=13.0,driver>=580",
        "NVIDIA_VISIBLE_DEVICES=all",
    ];
    assert_eq!(nvidia(&image), all);

    // What a user sets wins, from wherever it comes.
    project.write_env(&format!(
        "{RUNTIME}variables: {{NVIDIA_REQUIRE_CUDA: cuda>=13.2}}\n"
    ));
    let own = [
        "-e",
        "NVIDIA_VISIBLE_DEVICES=void",
        "--label",
        "dev.imgbuild.nccl=mine",
    ];
    let image = config(&project, &own);
    let all = [
        "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
        "NVIDIA_REQUIRE_CUDA=cuda>=13.2",
        "NVIDIA_VISIBLE_DEVICES=void",
    ];
    assert_eq!(nvidia(&image), all);
    assert_eq!(image["Labels"]["dev.imgbuild.nccl"], "mine");

    // Without CUDA there is nothing to say.
    project.write_env("channels: [\"@CHANNEL@\"]\ndependencies: [python=3.11]\n");
    let image = config(&project, &[]);
    assert_eq!(nvidia(&image), [""; 0]);
    let labels = image["Labels"].as_object().unwrap().keys();
    let own: Vec<&String> = labels
        .filter(|key| key.starts_with("dev.imgbuild."))
        .collect();
    assert_eq!(own, ["dev.imgbuild.entrypoint", "dev.imgbuild.prefix"]);
}

#[test]
fn an_old_python_is_warned_of_once() {
    let project = Project::new("channels: [\"@CHANNEL@\"]\ndependencies: [python=3.9]\n");
    let base = base();
    let build = ["build", "env.yml", "--base", &base];
    for _ in 0..2 {
        let out = project.ok(&build);
        assert_eq!(
            out.stderr.matches("[python-eol]").count(),
            1,
            "{}",
            out.stderr
        );
    }
    let out = project.ok(&[&build[..], &["--allow", "python-eol"]].concat());
    assert!(!out.stderr.contains("python-eol"), "{}", out.stderr);
}

#[test]
fn codes_are_explained() {
    let project = Project::new("dependencies: [python]\n");
    let all = project.ok(&["explain"]).stdout;
    assert!(all.lines().count() > 30, "{all}");
    for line in all.lines() {
        let code = line.split(' ').next().unwrap();
        let entry = project.ok(&["explain", code]).stdout;
        for part in ["what:", "why:", "fix:", "source:"] {
            assert!(entry.contains(part), "{entry}");
        }
        assert!(entry.starts_with(code), "{entry}");
    }
    let out = project.imgbuild(&["explain", "too-few-gpu"]);
    out.expect(2);
    assert!(
        out.stderr.contains("did you mean 'too-few-gpus'?"),
        "{}",
        out.stderr
    );
    let out = project.imgbuild(&["explain", "\u{1b}[31m"]);
    out.expect(2);
    assert!(!out.stderr.contains('\u{1b}'), "{}", out.stderr);
}
