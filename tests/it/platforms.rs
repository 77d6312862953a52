//! Images of several platforms from one lock, under one index, without emulation.

mod cache_from;
mod cuda;
mod lock;
mod push;

use std::{
    collections::BTreeSet,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    faulty::{Fault, Faulty},
    mini::{env, read, read_json, write_json},
    support::{
        Image, Kind, Layer, Output, Project, channel, fixture, read_all, run, temp_dir,
        validate_layout,
    },
};

pub const BOTH: &str = "linux/amd64,linux/arm64";
const NUMPY: [&str; 3] = ["python=3.11", "numpy", "tqdm"];
/// Where the `.pyc` of a noarch package is.
const TQDM: &str = "/opt/conda/lib/python3.11/site-packages/tqdm/__pycache__/std.cpython-311.pyc";

/// A layout folder whose index has the fixture's base for both machines.
pub struct Base {
    dir: TempDir,
}

impl Base {
    pub fn new() -> Self {
        let dir = temp_dir();
        let blobs = dir.path().join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let mut manifests = Vec::new();
        for name in ["IMGBUILD_TEST_BASE", "IMGBUILD_TEST_BASE_ARM64"] {
            let from = fixture(name);
            for blob in fs::read_dir(from.join("blobs/sha256")).unwrap() {
                let blob = blob.unwrap();
                fs::copy(blob.path(), blobs.join(blob.file_name())).unwrap();
            }
            let index = read_json(&from.join("index.json"));
            let mut entry = index["manifests"][0].clone();
            entry.as_object_mut().unwrap().remove("annotations");
            manifests.push(entry);
        }
        let nested = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        let bytes = nested.to_string().into_bytes();
        let digest = crate::mini::sha256(&bytes);
        fs::write(blobs.join(&digest), &bytes).unwrap();
        let entry = json!({"mediaType": INDEX, "digest": format!("sha256:{digest}"),
            "size": bytes.len(),
            "annotations": {"org.opencontainers.image.ref.name": "12"}});
        let top = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});
        write_json(&dir.path().join("index.json"), &top);
        let marker = json!({"imageLayoutVersion": "1.0.0"});
        write_json(&dir.path().join("oci-layout"), &marker);
        Self { dir }
    }

    /// As `--base` takes it.
    pub fn name(&self) -> String {
        format!("oci:{}:12", self.dir.path().display())
    }
}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn project(specs: &[&str]) -> Project {
    Project::new(&env(channel(), specs))
}

/// Builds for these platforms.
fn build(project: &Project, platforms: &str, args: &[&str]) -> Output {
    let build = ["build", "env.yml", "--platform", platforms];
    project.imgbuild(&[&build, args].concat())
}

/// The images of an index in the project's cache, by architecture.
fn images(project: &Project, output: &Output) -> [Image; 2] {
    output.expect(0);
    let images = read_all(&project.cache.join("blobs/sha256"), output.digest());
    let architectures: Vec<&Value> = images.iter().map(|i| &i.config["architecture"]).collect();
    assert_eq!(architectures, ["amd64", "arm64"]);
    images.try_into().unwrap()
}

/// The `e_machine` of an ELF file of an image (System V ABI, "ELF Header").
fn elf_machine(image: &Image, path: &str) -> u16 {
    for layer in image.layers.iter().rev() {
        let mut tar = tar::Archive::new(layer.tar());
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            if entry.path().unwrap() == Path::new(path) {
                let mut head = [0; 20];
                entry.read_exact(&mut head).unwrap();
                assert_eq!(head[..4], *b"\x7fELF", "{path}");
                return u16::from_le_bytes([head[18], head[19]]);
            }
        }
    }
    panic!("{path} is not in the image");
}

const X86_64: u16 = 62;
const AARCH64: u16 = 183;

/// An image of [`NUMPY`] has programs and libraries of its machine, and compiled Python files.
fn check_machine(image: &Image, (elf, uname): (u16, &str), variant: Option<&str>) {
    assert_eq!(image.config["variant"].as_str(), variant, "{uname}");
    let core = format!("_multiarray_umath.cpython-311-{uname}-linux-gnu.so");
    let numpy = format!("opt/conda/lib/python3.11/site-packages/numpy/_core/{core}");
    for path in ["opt/conda/bin/python3.11", &numpy] {
        assert_eq!(elf_machine(image, path), elf, "{path}");
    }
    image.rootfs.node(TQDM);
}

/// What is no machine's is one layer for both: noarch packages, with their `.pyc`, and code.
fn check_shared(one: &Image, other: &Image) {
    let layers: BTreeSet<&str> = other.ours().map(|layer| &*layer.digest).collect();
    let (shared, own): (Vec<&Layer>, Vec<&Layer>) = one
        .ours()
        .partition(|layer| layers.contains(&*layer.digest));
    let has = |layers: &[&Layer], what: &str| {
        let mut titles = layers.iter().map(|layer| &layer.title);
        titles.any(|title| title.contains(what))
    };
    for what in ["tqdm", "code"] {
        assert!(has(&shared, what), "{what} is not shared: {own:?}");
    }
    assert!(has(&own, "numpy"), "{shared:?}");
    let content = |image: &Image| match &image.rootfs.node(TQDM).kind {
        Kind::File { sha256, .. } => sha256.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(content(one), content(other));
}

#[test]
fn one_lock_gives_an_image_for_each_and_one_index() {
    let base = Base::new();
    let served = Faulty::serve(&fixture("IMGBUILD_TEST_CHANNEL_DIR"), |_, _| Fault::Fine);
    let project = Project::new(&env(&served.url, &NUMPY));
    project.write("code/train.py", "print(1)\n");
    let more = ["--base", &base.name(), "--code", "code"];
    let files = ["--iidfile", "iid", "--metadata-file", "meta.json"];
    let output = build(&project, BOTH, &[&more[..], &files].concat());
    let [amd64, arm64] = images(&project, &output);
    let fetched = |prefix: &str| {
        let gets = served.gets("").into_iter();
        gets.filter(|path| path.contains(prefix)).count()
    };
    assert_eq!((fetched("/noarch/tqdm-"), fetched("/numpy-")), (1, 2));

    check_machine(&amd64, (X86_64, "x86_64"), None);
    check_machine(&arm64, (AARCH64, "aarch64"), Some("v8"));
    check_shared(&amd64, &arm64);

    // The index stands for the image wherever one digest is told.
    let meta = read_json(&project.path("meta.json"));
    assert_eq!(read(&project, "iid"), output.digest());
    assert_eq!(meta["containerimage.digest"], output.digest());
    assert_eq!(meta["containerimage.descriptor"]["mediaType"], INDEX);
    assert_eq!(meta.get("containerimage.config.digest"), None);

    // Each platform by itself is the same image, and nothing is made for it again.
    for (platform, image) in [("linux/amd64", &amd64), ("linux/arm64/v8", &arm64)] {
        let alone = build(&project, platform, &more);
        alone.expect(0);
        assert_eq!(alone.digest(), image.digest);
        assert!(!alone.stderr.contains("Built"), "{}", alone.stderr);
    }
}

#[test]
fn the_order_of_platforms_and_earlier_builds_do_not_matter() {
    let base = Base::new();
    let specs = ["python=3.11", "tqdm", "markupsafe"];
    let one = project(&specs);
    let first = build(&one, BOTH, &["--base", &base.name()]);
    first.expect(0);
    let other = project(&specs);
    build(
        &other,
        "linux/arm64",
        &["--base", &base.name(), "--no-compile"],
    )
    .expect(0);
    let turned = "linux-aarch64,linux/x86_64,linux/arm64";
    let second = build(&other, turned, &["--base", &base.name()]);
    second.expect(0);
    assert_eq!(first.digest(), second.digest());
    assert_eq!(read(&one, "env.lock.yml"), read(&other, "env.lock.yml"));
}

#[test]
fn layouts_and_archives_hold_an_index() {
    let base = Base::new();
    let project = project(&["markupsafe", "python=3.11"]);
    let out = [
        "-o",
        "type=oci,dest=out",
        "-o",
        "type=oci-archive,dest=out.tar",
    ];
    let named = ["-t", "two:1", "-t", "two:2", "--base", &base.name()];
    let output = build(&project, BOTH, &[&out[..], &named].concat());
    output.expect(0);
    let unpacked = project.path("unpacked");
    fs::create_dir(&unpacked).unwrap();
    let mut tar = Command::new("tar");
    run(tar
        .arg("-xf")
        .arg(project.path("out.tar"))
        .arg("-C")
        .arg(&unpacked));
    for dir in [project.path("out"), unpacked] {
        let images = validate_layout(&dir);
        assert_eq!(images.len(), 2);
        let index = read_json(&dir.join("index.json"));
        let names: Vec<&Value> = index["manifests"].as_array().unwrap().iter().collect();
        for (entry, name) in names.iter().zip(["two:1", "two:2"]) {
            assert_eq!(entry["digest"], output.digest());
            assert_eq!(entry["mediaType"], INDEX);
            let name_of = &entry["annotations"]["org.opencontainers.image.ref.name"];
            assert_eq!(name_of, name);
        }
        assert_eq!(arm64_of(&dir, "two:1")["architecture"], "arm64");
    }
}

/// What another tool takes out of a layout for 64-bit ARM.
fn arm64_of(dir: &Path, name: &str) -> Value {
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["inspect", "--override-arch", "arm64", "--config"]);
    let config = run(skopeo.arg(format!("oci:{}:{name}", dir.display())));
    serde_json::from_str(&config).unwrap()
}

#[test]
fn what_takes_one_platform_says_so_before_anything_is_built() {
    let project = project(&["hello-demo=1.0"]);
    for (flags, what) in [
        (
            &["--load"][..],
            "--load takes one platform, and there are 2",
        ),
        (&["--probe", "--cpu"], "--probe takes one platform"),
        (
            &["-o", "type=docker-archive,dest=x.tar"],
            "type=docker-archive takes one platform",
        ),
    ] {
        let out = build(&project, BOTH, flags);
        out.expect(2);
        assert!(out.stderr.contains(what), "{}", out.stderr);
        let hint = "build again with --platform linux/amd64";
        assert!(out.stderr.contains(hint), "{}", out.stderr);
        assert!(!project.path("env.lock.yml").exists());
    }
    let out = build(&project, "linux/riscv64", &[]);
    out.expect(2);
    let known = "images are built for linux/amd64 and linux/arm64";
    assert!(out.stderr.contains(known), "{}", out.stderr);
}

#[test]
fn a_base_without_the_platform_is_named() {
    let project = project(&["markupsafe", "python=3.11"]);
    let out = build(&project, BOTH, &[]);
    out.expect(2);
    let said = "the image is not there for linux/arm64";
    assert!(out.stderr.contains(said), "{}", out.stderr);
    assert!(
        out.stderr.contains("it is there for linux/amd64"),
        "{}",
        out.stderr
    );
    assert!(!project.path("env.lock.yml").exists());
}

#[test]
fn python_files_are_compiled_by_this_machine_or_not_at_all() {
    let base = Base::new();
    let nothing = temp_dir();
    let project = project(&["python=3.11", "tqdm"]).with_env("PATH", nothing.path());
    let args = ["--base", &base.name()];
    let out = build(&project, "linux/arm64", &args);
    out.expect(3);
    for said in [
        "there is no Python 3.11.2 to compile .pyc files with",
        "the lock has no Python for linux/amd64: lock for both (--platform)",
        "build with --no-compile",
    ] {
        assert!(out.stderr.contains(said), "{}", out.stderr);
    }
    build(
        &project,
        "linux/arm64",
        &[&args[..], &["--no-compile"]].concat(),
    )
    .expect(0);
    // Locked for both, the other platform's Python compiles, and its image need not be built.
    let both = [
        "lock",
        "env.yml",
        "--platform",
        BOTH,
        "--base",
        &base.name(),
    ];
    project.ok(&both);
    let out = build(&project, "linux/arm64", &args);
    out.expect(0);
    project.image(&out).rootfs.node(TQDM);
}

#[test]
fn wheels_are_each_platforms_own() {
    let base = Base::new();
    let bin = temp_dir();
    let uv = fixture("IMGBUILD_TEST_UV").canonicalize().unwrap();
    std::os::unix::fs::symlink(uv, bin.path().join("uv")).unwrap();
    let wheels: PathBuf = fixture("IMGBUILD_TEST_WHEELS");
    let arm64 = wheels.parent().unwrap().join("arm64/wheels");
    let lines = ["--no-index".to_owned()]
        .into_iter()
        .chain([&wheels, &arm64].map(|dir| format!("--find-links {}", dir.display())))
        .chain([
            "markupsafe==3.0.4".into(),
            "tqdm; platform_machine == 'aarch64'".into(),
        ]);
    let lines: String = lines.map(|line| format!("  - \"{line}\"\n")).collect();
    let text = format!(
        "channels: ['{}']\ndependencies:\n- python=3.11\n- pip:\n{lines}",
        channel()
    );
    let project = Project::new(&text).with_env("PATH", bin.path());
    let output = build(&project, BOTH, &["--base", &base.name()]);
    let images = images(&project, &output);
    let site = "opt/conda/lib/python3.11/site-packages";
    let speedups = format!("{site}/markupsafe/_speedups.cpython-311");
    let [amd64, arm64] = &images;
    let of = |machine: &str| format!("{speedups}-{machine}-linux-gnu.so");
    assert_eq!(elf_machine(amd64, &of("x86_64")), X86_64);
    assert_eq!(elf_machine(arm64, &of("aarch64")), AARCH64);
    assert!(
        !amd64
            .rootfs
            .nodes
            .contains_key(Path::new(&format!("{site}/tqdm")))
    );
    arm64.rootfs.node(TQDM);
    build(&project, BOTH, &["--base", &base.name(), "--locked"]).expect(0);
}
