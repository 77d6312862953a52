//! What a plan tells without the packages, and that the build then does it.

use std::{collections::BTreeSet, fs};

use serde_json::Value;

use super::{SPECS, World, built, changed::asked};
use crate::{
    mini::{self, env, layout_manifest},
    support::{Project, fixture},
};

/// A plan, of a machine to which no package came for it.
struct Plan {
    json: Value,
    text: String,
}

impl Plan {
    fn of(world: &World, project: &Project, args: &[&str]) -> Self {
        world.channel.clear();
        let before = held(project);
        let args = [&["build", "env.yml", "--dry-run", "--locked"], args].concat();
        let text = project.ok(&args).stdout;
        let json = project.ok(&[&args[..], &["--format", "json"]].concat());
        assert_eq!(world.packages(), 0);
        assert_eq!(held(project), before);
        Self {
            json: serde_json::from_str(&json.stdout).unwrap(),
            text,
        }
    }

    fn layers(&self) -> &[Value] {
        self.json["layers"].as_array().unwrap()
    }

    /// The layer that has a package.
    fn layer(&self, package: &str) -> &Value {
        let has = |layer: &&Value| packages(layer).any(|one| one["name"] == package);
        self.layers().iter().find(has).unwrap()
    }

    /// The layers that are not said to be made, and how many of them are sure.
    fn reused(&self) -> (Vec<&Value>, usize) {
        let reused = self
            .layers()
            .iter()
            .filter(|layer| !layer["blob"].is_null());
        let reused: Vec<&Value> = reused.collect();
        let sure = reused.iter().filter(|layer| layer["state"] != "expected");
        let sure = sure.count();
        (reused, sure)
    }

    /// The names of the packages that would be downloaded.
    fn downloads(&self) -> BTreeSet<String> {
        let all = self.layers().iter().flat_map(packages);
        let brought = all.filter(|one| one["download"] == true);
        let names: BTreeSet<String> = brought
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(self.json["totals"]["download_packages"], names.len());
        names
    }

    /// Builds; the image in the layout is as it was said, and so is what was asked for.
    fn keeps(&self, world: &World, project: &Project, args: &[&str], before: &Value) {
        let manifest = build(world, project, args);
        let old: BTreeSet<&str> = digests(before).collect();
        let layers = manifest["layers"].as_array().unwrap();
        let base = layers.len() - self.layers().len();
        for (said, layer) in self.layers().iter().zip(&layers[base..]) {
            let is_old = old.contains(layer["digest"].as_str().unwrap());
            assert_eq!(said["blob"].is_null(), !is_old, "{said}");
            if is_old {
                let blob = &said["blob"];
                assert_eq!(
                    (&blob["digest"], &blob["bytes"]),
                    (&layer["digest"], &layer["size"])
                );
                assert_eq!(said["in_earlier"], true);
            } else {
                assert_eq!(said["state"], "to-build", "{said}");
                assert_ne!(said["why"], serde_json::json!([]), "{said}");
            }
            if !said["key"].is_null() {
                assert_eq!(said["key"], layer["annotations"]["dev.imgbuild.layer-key"]);
            }
        }
        assert_eq!(self.downloads(), asked(&world.channel));
        let there = self.json["sending"]["there_bytes"].as_u64().unwrap();
        let kept = layers
            .iter()
            .filter(|layer| old.contains(layer["digest"].as_str().unwrap()));
        assert_eq!(
            there,
            kept.map(|layer| layer["size"].as_u64().unwrap())
                .sum::<u64>()
        );
    }
}

/// Builds into a layout, and writes down what is asked for; gives the image's manifest.
fn build(world: &World, project: &Project, args: &[&str]) -> Value {
    let args = [&["-o", "type=oci,dest=again", "--locked"], args].concat();
    world.channel.clear();
    built(project, &args);
    layout_manifest(&project.path("again")).1
}

fn packages(layer: &Value) -> impl Iterator<Item = &Value> {
    layer["packages"].as_array().unwrap().iter()
}

fn digests(manifest: &Value) -> impl Iterator<Item = &str> {
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers.map(|layer| layer["digest"].as_str().unwrap())
}

/// What of the cache a plan must leave as it is.
fn held(project: &Project) -> Vec<Vec<String>> {
    let folders = [
        "packages", "layers", "images", "recipes", "builds", "wheels",
    ];
    let names = |folder| mini::names(&project.cache.join(folder));
    folders.map(names).to_vec()
}

/// A project that was built, pushed and written into a layout; its name, and its manifest.
fn first(world: &World, specs: &[&str], args: &[&str]) -> (Project, String, Value) {
    let (project, name) = (world.project(specs), world.name());
    let build = ["-t", &name, "--push", "-o", "type=oci,dest=out"];
    built(&project, &[&build, args].concat());
    let (_, manifest) = layout_manifest(&project.path("out"));
    (project, name, manifest)
}

fn lock(world: &World, project: &Project, specs: &[&str]) {
    project.write_env(&env(&world.channel.url, specs));
    project.ok(&["lock", "env.yml"]);
}

fn newer() -> [String; 4] {
    SPECS.map(|spec| spec.replace("hello-demo=1.0", "hello-demo=1.1"))
}

/// A machine that has hello-demo 1.0 in an image, and a lock of 1.1.
fn bumped(world: &World, args: &[&str]) -> (Project, String, Value) {
    let (project, name, manifest) = first(world, &SPECS, args);
    lock(world, &project, &newer().each_ref().map(String::as_str));
    (project, name, manifest)
}

/// Takes all packages from a machine.
fn forget_packages(project: &Project) {
    for folder in ["packages", "infos"] {
        let folder = project.cache.join(folder);
        fs::remove_dir_all(&folder).unwrap();
        fs::create_dir(folder).unwrap();
    }
}

/// Gives a package of the channel to a machine.
fn give(project: &Project, layer: &Value, name: &str, file: &str) {
    let sha256 = packages(layer).find(|one| one["name"] == name).unwrap()["sha256"].clone();
    let folder = project.cache.join("packages");
    fs::create_dir_all(&folder).unwrap();
    let channel = fixture("IMGBUILD_TEST_CHANNEL_DIR");
    let to = folder.join(sha256.as_str().unwrap().trim_start_matches("sha256:"));
    fs::copy(channel.join("linux-64").join(file), to).unwrap();
}

#[test]
fn the_last_build_tells_of_packages_that_are_gone() {
    let world = World::new();
    let args = ["--no-compile"];
    let (project, _, before) = bumped(&world, &args);
    forget_packages(&project);
    let plan = Plan::of(&world, &project, &args);
    let made = plan.layer("hello-demo");
    assert_eq!(made["state"], "to-build");
    let why = serde_json::json!([
        {"kind": "changed", "package": "hello-demo", "from": "1.0", "to": "1.1"}
    ]);
    assert_eq!(made["why"], why);
    let (reused, _) = plan.reused();
    // All but that one and the state's.
    assert_eq!(reused.len() + 2, plan.layers().len());
    for layer in reused {
        let decided_by = match layer["state"].as_str().unwrap() {
            "stored" => serde_json::json!([]),
            "expected" => serde_json::json!(["hello-demo"]),
            other => panic!("{other}"),
        };
        assert_eq!(layer["decided_by"], decided_by);
        assert_eq!(layer["why"], serde_json::json!([]));
    }
    assert!(
        plan.text.contains("hello-demo 1.0 -> 1.1\n"),
        "{}",
        plan.text
    );
    plan.keeps(&world, &project, &args, &before);
}

#[test]
fn an_earlier_image_tells_another_machine() {
    let world = World::new();
    let (project, name, before) = bumped(&world, &["--no-compile"]);
    let machine = world.machine(&project);
    let args = ["--no-compile", "--cache-from", &name];
    let plan = Plan::of(&world, &machine, &args);
    let made = plan.layer("hello-demo");
    assert_eq!(made["state"], "to-build");
    let why = &made["why"][0];
    assert_eq!(
        (&why["kind"], &why["package"]),
        (&"changed".into(), &"hello-demo".into())
    );
    let (reused, _) = plan.reused();
    assert_eq!(reused.len() + 2, plan.layers().len());
    let from = format!(" (from {name})\n");
    assert_eq!(
        plan.text.matches(&from).count(),
        reused.len(),
        "{}",
        plan.text
    );
    for layer in reused {
        assert_eq!(layer["from"], *name);
        let state = layer["state"].as_str().unwrap();
        assert!(["remote", "expected"].contains(&state), "{state}");
    }
    let note = "note: 'reuse?' is sure once hello-demo is here";
    assert!(plan.text.contains(note), "{}", plan.text);
    plan.keeps(&world, &machine, &args, &before);
}

/// With the changed package here, nothing is left open.
#[test]
fn what_is_here_is_opened() {
    let world = World::new();
    let (project, name, before) = bumped(&world, &["--no-compile"]);
    let machine = world.machine(&project);
    let args = ["--no-compile", "--cache-from", &name];
    let plan = Plan::of(&world, &machine, &args);
    assert_eq!(plan.layer("hello-demo")["key"], Value::Null);
    give(
        &machine,
        plan.layer("hello-demo"),
        "hello-demo",
        "hello-demo-1.1-0.conda",
    );
    let plan = Plan::of(&world, &machine, &args);
    let (reused, sure) = plan.reused();
    assert_eq!((reused.len(), sure), (sure, plan.layers().len() - 2));
    assert!(plan.layer("hello-demo")["key"].is_string());
    assert_eq!(plan.json["notes"], serde_json::json!([]));
    plan.keeps(&world, &machine, &args, &before);
}

/// A new package may take a file of another: what it has is not known without it.
#[test]
fn a_file_that_a_new_package_takes_is_why_nothing_was_sure() {
    let world = World::new();
    let specs = ["python=3.11", "clobber-b", "hello-demo=1.0"];
    let (project, name, before) = first(&world, &specs, &["--no-compile"]);
    lock(&world, &project, &[&specs[..], &["clobber-a"]].concat());
    let machine = world.machine(&project);
    let args = ["--no-compile", "--cache-from", &name];
    let plan = Plan::of(&world, &machine, &args);
    let added = plan.layer("clobber-a");
    assert_eq!(added["why"][0]["kind"], "added");
    let other = plan.layer("clobber-b");
    assert_eq!(other["state"], "expected");
    assert_eq!(other["decided_by"], serde_json::json!(["clobber-a"]));
    let expected = other["blob"]["digest"].clone();

    // With it here, the other one is to be opened, too.
    give(&machine, added, "clobber-a", "clobber-a-1.0-0.conda");
    let plan = Plan::of(&world, &machine, &args);
    let other = plan.layer("clobber-b");
    assert_eq!(other["decided_by"], serde_json::json!(["clobber-b"]));
    assert_eq!(plan.layer("python")["state"], "remote");
    assert!(plan.downloads().contains("clobber-b"));

    // It is another layer, and not what was expected.
    let manifest = build(&world, &machine, &args);
    assert_eq!(asked(&world.channel), plan.downloads());
    assert!(digests(&before).any(|digest| digest == expected));
    assert!(digests(&manifest).all(|digest| digest != expected));
}

/// A noarch package is compiled, by a Python that has to come for that.
#[test]
fn a_python_that_compiles_is_counted() {
    let world = World::new();
    let (project, name, before) = first(&world, &SPECS, &[]);
    lock(&world, &project, &[&SPECS[..], &["noarch-demo"]].concat());
    let machine = world.machine(&project);
    let args = ["--cache-from", &name];
    let plan = Plan::of(&world, &machine, &args);
    let python = packages(plan.layer("python")).find(|one| one["name"] == "python");
    assert_eq!(python.unwrap()["download"], true);
    plan.keeps(&world, &machine, &args, &before);
}

/// Other specs, so that no build of the like was before: a build brings all, and finds its layers.
#[test]
fn without_anyone_who_tells_all_is_brought() {
    let world = World::new();
    let args = ["--no-compile"];
    let (project, _, before) = first(&world, &SPECS, &args);
    lock(&world, &project, &[&SPECS[..], &["links-demo"]].concat());
    forget_packages(&project);
    let plan = Plan::of(&world, &project, &args);
    let (reused, sure) = plan.reused();
    assert!(reused.len() > 1 && sure < reused.len());
    assert_eq!(plan.layer("links-demo")["why"][0]["kind"], "added");
    assert_eq!(plan.downloads().len(), plan.json["totals"]["packages"]);
    plan.keeps(&world, &project, &args, &before);
}
