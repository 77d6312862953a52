//! Loads that leave out what the daemon has, counted by a proxy before it.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    process::{Command, id},
    time::SystemTime,
};

use imgbuild::digest::Digest;
use serde_json::{Value, json};

use super::{docker, in_container, project, saved};
use crate::{
    mini::{blob_json, layout_manifest},
    support::{Image, Layer, Output, Project, Proxy, Tricks, decoded, fixture, run},
};

const TINY: &str = "channels: ['@CHANNEL@']
dependencies: [hello-demo=1.0, names-demo, modes-demo, links-demo, readline]
";
/// What documents and the heads of a tar may take.
const SLACK: u64 = 64 << 10;

/// A project whose layers no other test and no earlier run has in the daemon, its base's lowest one
/// included: an image over the same layers that is removed meanwhile would make a second load.
pub(super) struct Fresh {
    pub(super) project: Project,
    base: String,
    prefix: String,
    pub(super) name: String,
}

impl Fresh {
    pub(super) fn new(name: &str, proxy: &Proxy) -> Self {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap();
        let fresh = Self {
            project: project(TINY).with_env("DOCKER_HOST", proxy.host()),
            base: "oci:own-base".into(),
            prefix: format!("/srv/{}-{}", id(), now.as_nanos()),
            name: format!("it-docker:{name}"),
        };
        over(&fresh.project.path("own-base"), &fresh.prefix);
        fresh.code("one");
        fresh
    }

    fn code(&self, word: &str) {
        self.project.write("src/run.sh", &format!("echo {word}\n"));
        // What compresses to nothing would hide that it is sent.
        let noise: Vec<String> = (0..4000_u32)
            .map(|n| {
                n.wrapping_mul(2_654_435_761)
                    .rotate_left(n % 31)
                    .to_string()
            })
            .collect();
        self.project.write("src/noise", &noise.join("\n"));
    }

    /// Takes a base of one zstd layer that no daemon has; returns the size of its tar.
    pub(super) fn over_zstd(&mut self) -> u64 {
        self.base = "oci:zbase".into();
        zstd_base(&self.project.path("zbase"), &self.prefix)
    }

    /// The arguments of a build.
    pub(super) fn args<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let build = ["build", "env.yml", "-t", &self.name, "--base", &self.base];
        let fresh = ["--code", "src", "--prefix", &self.prefix];
        [&build[..], &fresh, more].concat()
    }

    fn build(&self, args: &[&str]) -> Output {
        self.project.ok(&self.args(args))
    }

    fn run(&self, args: &[&str]) -> (Image, Output) {
        let output = self.build(args);
        (self.project.image(&output), output)
    }

    pub(super) fn load(&self) -> (Image, Output) {
        self.run(&["--load"])
    }

    /// Runs what was loaded, and looks whether the daemon has all of it.
    pub(super) fn check(&self, image: &Image, word: &str) {
        self.runs(word);
        assert_eq!(
            saved::diff_ids(&self.name),
            image.config["rootfs"]["diff_ids"]
        );
    }

    fn runs(&self, word: &str) {
        let ran = in_container(&self.name, &["sh", "/workspace/run.sh"]);
        assert_eq!(ran.trim(), word);
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", fixture("DOCKER_HOST"));
        let _ = command.args(["rmi", "-f", &self.name]).output();
    }
}

pub(super) fn is_containerd() -> bool {
    docker(&["info", "--format", "{{.DriverStatus}}"]).contains("io.containerd.snapshotter.v1")
}

/// The bytes of these layers in the form in which they are sent.
fn size<'a>(layers: impl IntoIterator<Item = &'a Layer>) -> u64 {
    let as_it_is = is_containerd();
    let size = |layer: &Layer| match as_it_is || !layer.ours {
        true => fs::metadata(&layer.path).unwrap().len(),
        false => io::copy(&mut layer.tar(), &mut io::sink()).unwrap(),
    };
    layers.into_iter().map(size).sum()
}

/// The bytes of the layers that a daemon with the one image lacks of the other.
fn lacking(before: &Image, after: &Image) -> u64 {
    let held = |layer: &&Layer| before.layers.iter().any(|held| held.digest == layer.digest);
    match is_containerd() {
        true => size(after.layers.iter().filter(|layer| !held(layer))),
        false => size(after.layers.iter().skip_while(held)),
    }
}

fn assert_sent(loads: &[u64], expected: u64) {
    let [sent] = loads else {
        panic!("not one load: {loads:?}");
    };
    let allowed = expected..=expected + SLACK;
    assert!(allowed.contains(sent), "{sent} bytes, not {allowed:?}");
}

#[test]
fn only_what_changed_is_sent() {
    let proxy = Proxy::start(Tricks::default());
    let fresh = Fresh::new("delta", &proxy);
    let (first, _) = fresh.load();
    assert_sent(&proxy.loads(), size(&first.layers));
    fresh.check(&first, "one");

    fresh.code("two");
    let (second, output) = fresh.load();
    let code = size(second.layers.last());
    assert_eq!(lacking(&first, &second), code);
    assert_sent(&proxy.loads(), code);
    assert!(output.stderr.contains(" sent, "), "{}", output.stderr);
    fresh.check(&second, "two");

    fresh.project.write_env(&TINY.replace("=1.0", "=1.1"));
    let (third, _) = fresh.load();
    let expected = lacking(&second, &third);
    assert!(is_containerd() || expected > code, "{expected}");
    assert_sent(&proxy.loads(), expected);
    fresh.check(&third, "two");

    let (_, output) = fresh.load();
    assert!(proxy.loads().is_empty());
    assert!(output.stderr.contains("already"), "{}", output.stderr);
}

#[test]
fn an_image_removed_in_between_is_sent_in_full() {
    let name = "it-docker:delta-race";
    let remove = |request: &str| {
        if request == "POST /images/load" {
            let mut command = Command::new("docker");
            command.env("DOCKER_HOST", fixture("DOCKER_HOST"));
            command.args(["rmi", "-f", name]).output().unwrap();
        }
    };
    let proxy = Proxy::start(Tricks {
        before: Some(Box::new(remove)),
        ..Tricks::default()
    });
    let fresh = Fresh::new("delta-race", &proxy);
    fresh.load();
    assert_eq!(proxy.loads().len(), 1);
    fresh.code("two");
    let (image, output) = fresh.load();
    assert_in_full(&proxy.loads(), &image, &output);
    fresh.check(&image, "two");
}

#[test]
fn a_daemon_that_lacks_what_it_tells_of() {
    let told: &'static std::sync::OnceLock<Image> = Box::leak(Box::default());
    // As if each image of the daemon had all layers of ours, and it had one with our digest.
    let alter = |request: &str, answer: &mut Value| {
        let Some(image) = told.get() else { return };
        if request == "GET /images/json" {
            let ours = json!({"Id": image.digest, "ParentId": "", "RepoTags": [], "RepoDigests": [],
                "Created": 0, "Size": 0, "SharedSize": 0, "Labels": {}, "Containers": 0});
            answer.as_array_mut().unwrap().push(ours);
        }
        if let Some(layers) = answer.pointer_mut("/RootFS/Layers") {
            *layers = image.config["rootfs"]["diff_ids"].clone();
        }
    };
    let proxy = Proxy::start(Tricks {
        alter: Some(Box::new(alter)),
        ..Tricks::default()
    });
    let fresh = Fresh::new("delta-lie", &proxy);
    let other = Fresh::new("delta-honest", &proxy);
    other.load();
    proxy.loads();
    told.set(fresh.run(&[]).0).unwrap();
    let (image, output) = fresh.load();
    assert_in_full(&proxy.loads(), &image, &output);
    fresh.check(&image, "one");
}

/// Two loads: one that the daemon refused, and one of everything.
fn assert_in_full(loads: &[u64], image: &Image, output: &Output) {
    let [refused, full] = loads else {
        panic!("not two loads: {loads:?}\n{}", output.stderr);
    };
    assert!(*refused <= size(image.layers.last()) + SLACK, "{refused}");
    assert!(*full >= size(image.ours()), "{full}");
    let told = output.stderr.contains("sending the whole image");
    assert!(told, "{}", output.stderr);
}

#[test]
fn a_base_of_zstd_layers() {
    let proxy = Proxy::start(Tricks::default());
    let mut fresh = Fresh::new("zstd-base", &proxy);
    let tar = fresh.over_zstd();
    fresh.build(&["--load"]);
    let loads = proxy.loads();
    let expected = if is_containerd() { 1 } else { 2 };
    assert!(loads.len() == expected, "{loads:?}");
    assert!(is_containerd() || loads[0] > tar, "{loads:?}");
    fresh.runs("one");
    let made_of = in_container(&fresh.name, &["cat", "/made-of"]);
    assert_eq!(made_of, fresh.prefix);
    fresh.code("two");
    fresh.build(&["--load"]);
    let loads = proxy.loads();
    assert!(loads.len() == 1 && loads[0] < 2 * SLACK, "{loads:?}");
    fresh.runs("two");
}

/// Writes a base of one zstd layer that says what it was made of; returns the size of its tar.
pub(crate) fn zstd_base(dir: &Path, word: &str) -> u64 {
    let mut tar = Vec::new();
    let layer = first_layer(fixture("IMGBUILD_TEST_BASE").as_path());
    decoded(File::open(layer).unwrap())
        .read_to_end(&mut tar)
        .unwrap();
    let end = tar.iter().rev().take_while(|byte| **byte == 0).count();
    tar.truncate(tar.len() - end / 512 * 512);
    let tar = made_of(tar, word);
    write_layout(dir, &tar, &zstd::encode_all(&tar[..], 1).unwrap());
    tar.len() as u64
}

/// A tar with one more file, `made-of`.
fn made_of(tar: Vec<u8>, word: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(tar);
    let mut header = tar::Header::new_gnu();
    header.set_size(word.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    let content = word.as_bytes();
    tar.append_data(&mut header, "made-of", content).unwrap();
    tar.into_inner().unwrap()
}

/// The fixture's base with a layer below its own that no other image has.
fn over(dir: &Path, word: &str) {
    let from = fixture("IMGBUILD_TEST_BASE");
    run(Command::new("cp").arg("-r").arg(&from).arg(dir));
    let (_, mut manifest) = layout_manifest(&from);
    let config = manifest["config"]["digest"].as_str().unwrap();
    let mut config = blob_json(&from, config);
    let tar = made_of(Vec::new(), word);
    let lowest = |list: &mut Value, item: Value| list.as_array_mut().unwrap().insert(0, item);
    let diff_id = json!(Digest::of(&tar));
    lowest(&mut config["rootfs"]["diff_ids"], diff_id);
    lowest(&mut config["history"], json!({"created_by": "made-of"}));
    lowest(&mut manifest["layers"], put(dir, "layer.v1.tar", &tar));
    let config = config.to_string();
    manifest["config"] = put(dir, "config.v1+json", config.as_bytes());
    put_index(dir, &manifest);
}

fn first_layer(layout: &Path) -> PathBuf {
    let (_, manifest) = layout_manifest(layout);
    let digest = manifest["layers"][0]["digest"].as_str().unwrap();
    layout.join("blobs/sha256").join(&digest[7..])
}

/// Writes an image of one zstd layer.
fn write_layout(dir: &Path, tar: &[u8], layer: &[u8]) {
    fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    let config = json!({"os": "linux", "architecture": "amd64", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(tar)]}});
    let config = put(dir, "config.v1+json", config.to_string().as_bytes());
    let layer = put(dir, "layer.v1.tar+zstd", layer);
    let manifest = json!({"schemaVersion": 2, "mediaType": format!("{OCI}.manifest.v1+json"),
        "config": config, "layers": [layer]});
    put_index(dir, &manifest);
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
}

const OCI: &str = "application/vnd.oci.image";

/// Writes a blob of a layout, and describes it.
fn put(dir: &Path, kind: &str, bytes: &[u8]) -> Value {
    let digest = Digest::of(bytes);
    fs::write(dir.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
    json!({"mediaType": format!("{OCI}.{kind}"), "digest": digest, "size": bytes.len()})
}

fn put_index(dir: &Path, manifest: &Value) {
    let manifest = put(dir, "manifest.v1+json", manifest.to_string().as_bytes());
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
}
