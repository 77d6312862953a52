//! Layers taken over from earlier images in a registry.

mod changed;
mod lies;
mod plan;

use std::{
    fs,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
};

use crate::{
    faulty::{Fault, Faulty},
    mini::{base, command, env, read_json, write_json},
    support::{Output, Project, fixture, run, validate_layout},
};

/// Packages for Python that are compiled, others that are not, and one with activation scripts.
const SPECS: [&str; 4] = ["python=3.11", "tqdm", "activate-demo", "hello-demo=1.0"];

fn registry() -> String {
    fixture("IMGBUILD_TEST_REGISTRY").display().to_string()
}

/// A repository that no other test uses.
fn repository() -> String {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("cachefrom/{}-{number}", std::process::id())
}

/// A registry and a channel that write down what is asked of them.
struct World {
    registry: Faulty,
    channel: Faulty,
    base: String,
}

impl World {
    /// With the base image in the registry.
    fn new() -> Self {
        let registry = Faulty::proxy(&registry());
        let base = format!("{}/{}:12", registry.address(), repository());
        copy(&crate::mini::base(), &base);
        let channel = fixture("IMGBUILD_TEST_CHANNEL_DIR");
        let world = Self {
            channel: Faulty::serve(&channel, |_, _| Fault::Fine),
            registry,
            base,
        };
        world.registry.clear();
        world
    }

    fn name(&self) -> String {
        format!("{}/{}:1", self.registry.address(), repository())
    }

    fn project(&self, specs: &[&str]) -> Project {
        let project = Project::new(&env(&self.channel.url, specs));
        project.write(
            "imgbuild.yaml",
            &format!("base: {}\ncode: code\n", self.base),
        );
        project.write("code/train.py", "print(1)\n");
        project
    }

    /// Another machine with the files of a project, its lock included, and an empty cache.
    fn machine(&self, of: &Project) -> Project {
        let project = self.project(&[]);
        for file in ["env.yml", "env.lock.yml", "code/train.py"] {
            fs::copy(of.path(file), project.path(file)).unwrap();
        }
        self.registry.clear();
        self.channel.clear();
        project
    }

    fn packages(&self) -> usize {
        self.channel.gets(".conda").len() + self.channel.gets(".tar.bz2").len()
    }

    /// Blobs that were fetched, and those that were sent.
    fn blobs(&self) -> (usize, usize) {
        let log = self.registry.log();
        let count = |method: &str| {
            let asked = |line: &&String| line.starts_with(method) && line.contains("/blobs/");
            log.iter().filter(asked).count()
        };
        (count("GET "), count("PUT "))
    }
}

/// Builds; what is not in the cache cannot be checked there.
fn build(project: &Project, args: &[&str]) -> Output {
    let args = [&["build", "env.yml"], args].concat();
    Output::of(&mut command(project, &args))
}

fn built(project: &Project, args: &[&str]) -> Output {
    let output = build(project, args);
    output.expect(0);
    output
}

/// How many layers a build made, the small one of the environment's state left out.
fn made(output: &Output) -> usize {
    let lines = output.stderr.lines();
    lines.filter(|line| line.starts_with("Built  ")).count()
}

fn copy(from: &str, to: &str) {
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["copy", "--quiet", "--insecure-policy"]);
    skopeo.args(["--dest-tls-verify=false"]);
    run(skopeo.args([from, &format!("docker://{to}")]));
}

/// Copies an image out of the registry with another tool and checks every rule of images.
fn check(project: &Project, reference: &str, digest: &str) {
    let dest = project.path("pulled");
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["copy", "--quiet", "--insecure-policy"]);
    skopeo.args(["--src-tls-verify=false", &format!("docker://{reference}")]);
    run(skopeo.arg(format!("oci:{}:1", dest.display())));
    // Older skopeo leaves out what the specification only recommends.
    let index = dest.join("index.json");
    let mut json = read_json(&index);
    json["mediaType"] = "application/vnd.oci.image.index.v1+json".into();
    write_json(&index, &json);
    let images = validate_layout(&dest);
    assert_eq!((images.len(), &*images[0].digest), (1, digest));
}

#[test]
fn a_fresh_machine_with_other_code_sends_its_code() {
    let world = World::new();
    let (first, name) = (world.project(&SPECS), world.name());
    let before = built(&first, &["-t", &name, "--push"]);
    assert!(world.packages() > 5);

    let second = world.machine(&first);
    second.write("code/train.py", "print(2)\n");
    let output = built(&second, &["-t", &name, "--push", "--locked"]);
    assert_eq!(world.channel.log(), [""; 0]);
    // The configs of the base and of the earlier image; the code and the new config.
    assert_eq!(world.blobs(), (2, 2), "{:?}", world.registry.log());
    assert!(
        world.registry.bytes() < 1 << 20,
        "{}",
        world.registry.bytes()
    );
    assert_ne!(output.digest(), before.digest());
    let layers = made(&before) - 1;
    let words = format!("Reusing {layers} of {layers} layers of /opt/conda, {layers} from {name}");
    assert!(output.stderr.contains(&words), "{}", output.stderr);
    check(&second, &name, output.digest());

    // The image is the one that a machine without the earlier image makes.
    let third = world.machine(&second);
    let alone = built(
        &third,
        &["-t", &name, "--push", "--locked", "--cache-from", ""],
    );
    assert_eq!(alone.digest(), output.digest());
    assert!(world.packages() > 5);
    // And the one that the first makes, which has all in its cache.
    first.write("code/train.py", "print(2)\n");
    let cached = built(&first, &["-t", &name, "--push"]);
    assert_eq!(cached.digest(), output.digest());
}

#[test]
fn what_a_sink_needs_is_fetched_and_what_a_registry_has_is_mounted() {
    let world = World::new();
    let (first, name) = (world.project(&SPECS), world.name());
    let digest = built(&first, &["-t", &name, "--push"]).digest().to_owned();

    // Another repository of the same registry.
    let (second, other) = (world.machine(&first), world.name());
    let args = ["-t", &other, "--push", "--cache-from", &name];
    assert_eq!(built(&second, &args).digest(), digest);
    assert_eq!(world.packages(), 0);
    let log = world.registry.log();
    let mounts = log
        .iter()
        .filter(|line| line.contains("mount=") && !line.starts_with("done "));
    assert!(mounts.count() > 8, "{log:?}");
    assert_eq!(world.blobs().0, 2, "{log:?}");
    check(&second, &other, &digest);
    // The image is not whole here, so no name leads to it; it is in its registry.
    let unknown = second.imgbuild(&["push", &other]);
    unknown.expect(2);
    assert!(unknown.stderr.contains("in its registry alone"));
    let sbom = second.ok(&["sbom", &other]).stdout;
    assert!(sbom.contains("hello-demo"), "{sbom}");
    second.ok(&["diff", &name, &other]);

    // Another registry, as far as names tell.
    let far = Faulty::proxy(&registry());
    let (third, other) = (world.machine(&first), repository());
    let far_name = format!("{}/{other}:1", far.address());
    let args = ["-t", &far_name, "--push", "--cache-from", &name];
    assert_eq!(built(&third, &args).digest(), digest);
    assert_eq!(world.packages(), 0);
    assert!(world.blobs().0 > 8, "{:?}", world.registry.log());
    check(&third, &far_name, &digest);

    // A folder.
    let fourth = world.machine(&first);
    let source = format!("type=registry,ref={name}");
    let args = [
        "-t",
        "a:1",
        "-o",
        "type=oci,dest=out",
        "--cache-from",
        &source,
    ];
    assert_eq!(built(&fourth, &args).digest(), digest);
    assert_eq!(world.packages(), 0);
    assert_eq!(validate_layout(&fourth.path("out"))[0].digest, digest);
    fourth.ok(&["cache", "verify"]);
    // Now it is whole here.
    world.registry.clear();
    fourth.ok(&["push", "a:1", &world.name()]);
}

#[test]
fn the_plan_says_what_is_taken_over() {
    let world = World::new();
    let (first, name) = (world.project(&SPECS), world.name());
    let layers = made(&built(&first, &["-t", &name, "--push"]));
    let second = world.machine(&first);
    let plan = ["build", "env.yml", "--dry-run", "--cache-from", &name];
    let text = second.ok(&plan).stdout;
    let from = format!(" (from {name})");
    let taken = text
        .lines()
        .filter(|line| line.starts_with("reuse ") && line.ends_with(&from));
    assert_eq!(taken.count(), layers, "{text}");
    assert!(text.contains("to download: 0 B in 0 packages"), "{text}");
    assert!(
        text.contains(&format!("; {name} has the other {}, ", layers + 1)),
        "{text}"
    );
    let json = second
        .ok(&[&plan[..], &["--format", "json"]].concat())
        .stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let planned = json["layers"].as_array().unwrap();
    let remote = planned.iter().filter(|layer| layer["state"] == "remote");
    assert!(remote.clone().all(|layer| layer["from"] == *name));
    assert_eq!(remote.count(), layers);
    assert_eq!(world.packages(), 0);
    assert_eq!(world.blobs(), (2, 0));
}

#[test]
fn a_source_that_cannot_be_read_is_told_and_left_out() {
    let world = World::new();
    let project = world.project(&["hello-demo=1.0"]);
    for (source, words) in [
        (world.name(), "there is no such image"),
        (
            "127.0.0.1:1/a:1".into(),
            "is not used: cannot pull 127.0.0.1:1/a:1: ",
        ),
        // No image of imgbuild's.
        (world.base.clone(), ""),
    ] {
        let output = built(&project, &["--cache-from", &source]);
        let line = format!("warning: --cache-from {source}");
        assert_eq!(
            output.stderr.contains(&line),
            !words.is_empty(),
            "{}",
            output.stderr
        );
        assert!(output.stderr.contains(words), "{}", output.stderr);
    }
    for bad in ["A", "type=gha"] {
        let refused = build(&project, &["--cache-from", bad]);
        refused.expect(2);
        assert!(
            refused.stderr.contains("--cache-from"),
            "{}",
            refused.stderr
        );
    }
    let offline = built(&project, &["--offline", "--cache-from", &world.name()]);
    let words = "warning: --cache-from is not used: --offline asks no registry";
    assert!(offline.stderr.contains(words), "{}", offline.stderr);
    // The first push of a name has nothing to take over, which is nothing to tell.
    let first = built(&project, &["-t", &world.name(), "--push"]);
    assert!(!first.stderr.contains("cache-from"), "{}", first.stderr);
}

#[test]
fn a_base_that_is_known_is_not_fetched_again() {
    let world = World::new();
    let (project, name) = (world.project(&["hello-demo=1.0"]), world.name());
    let before = built(&project, &["-t", &name, "--push"]);
    let layout = fixture("IMGBUILD_TEST_BASE");
    let (_, manifest) = crate::mini::layout_manifest(&layout);
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    let blobs = project.cache.join("blobs/sha256");
    let blob = blobs.join(layer.trim_start_matches("sha256:"));
    fs::remove_file(&blob).unwrap();
    world.registry.clear();
    let args = ["-t", &name, "--push", "--cache-from", ""];
    assert_eq!(built(&project, &args).digest(), before.digest());
    assert_eq!(world.blobs(), (0, 0), "{:?}", world.registry.log());
    // A layout has all.
    let output = built(&project, &["-o", "type=oci,dest=out"]);
    assert_eq!(output.digest(), before.digest());
    assert_eq!(world.blobs(), (1, 0), "{:?}", world.registry.log());
    assert!(blob.exists());
}

#[test]
fn only_named_references_are_believed() {
    let world = World::new();
    let (first, name) = (world.project(&SPECS), world.name());
    let digest = built(&first, &["-t", &name, "--push"]).digest().to_owned();
    let second = world.machine(&first);
    let other = world.name();
    assert_eq!(built(&second, &["-t", &other, "--push"]).digest(), digest);
    assert!(world.packages() > 5);
    let asked = name.strip_prefix(world.registry.address()).unwrap();
    let asked = asked.trim_end_matches(":1");
    let log = world.registry.log();
    assert_eq!(log.iter().find(|line| line.contains(asked)), None);
    // Without --push nothing is named.
    let third = world.machine(&first);
    assert_eq!(built(&third, &["-t", &name, "--base", &base()]).status, 0);
    assert!(world.packages() > 5);
}
