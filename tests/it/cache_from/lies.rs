//! A registry whose earlier image says what is not so.

use std::{fs, process::Command};

use serde_json::{Value, json};

use super::{SPECS, World, build, built, check, copy, registry, repository};
use crate::{
    faulty::{Fault, Faulty},
    mini::{env, layout_manifest, read_json, sha256, write_json},
    support::{Project, run},
};

/// An image in a layout, to be altered and pushed.
struct Forgery<'a> {
    project: &'a Project,
    manifest: Value,
    config: Value,
}

impl<'a> Forgery<'a> {
    fn of(project: &'a Project) -> Self {
        let layout = project.path("out");
        let (_, manifest) = layout_manifest(&layout);
        let config = manifest["config"]["digest"].as_str().unwrap();
        Self {
            config: crate::mini::blob_json(&layout, config),
            manifest,
            project,
        }
    }

    /// Where the first layer with a key is.
    fn keyed(&self) -> usize {
        let layers = self.manifest["layers"].as_array().unwrap();
        let keyed = |layer: &Value| layer["annotations"]["dev.imgbuild.layer-key"].is_string();
        layers.iter().position(keyed).unwrap()
    }

    /// Says of a layer that it is the next one.
    fn lie(&mut self) {
        let at = self.keyed();
        let ids = self.config["rootfs"]["diff_ids"].as_array_mut().unwrap();
        ids[at] = ids[at + 1].clone();
    }

    fn put(&self, value: &Value) -> (String, usize) {
        let bytes = value.to_string();
        let digest = sha256(bytes.as_bytes());
        let path = self.project.path("out/blobs/sha256").join(&digest);
        fs::write(path, &bytes).unwrap();
        (format!("sha256:{digest}"), bytes.len())
    }

    /// Pushes it as another tool would.
    fn push(mut self, name: &str) {
        let (digest, size) = self.put(&self.config);
        self.manifest["config"]["digest"] = digest.into();
        self.manifest["config"]["size"] = size.into();
        let (digest, size) = self.put(&self.manifest);
        let index = self.project.path("out/index.json");
        let mut json = read_json(&index);
        json["manifests"][0]["digest"] = digest.into();
        json["manifests"][0]["size"] = size.into();
        write_json(&index, &json);
        copy(&format!("oci:{}", self.project.path("out").display()), name);
    }

    /// Puts the manifest alone, beside blobs that are in the repository.
    fn put_manifest(&self, name: &str) {
        let (address, rest) = name.split_once('/').unwrap();
        let (repository, tag) = rest.rsplit_once(':').unwrap();
        let file = self.project.path("manifest.json");
        fs::write(&file, self.manifest.to_string()).unwrap();
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "-X", "PUT"]);
        curl.args([
            "-H",
            "Content-Type: application/vnd.oci.image.manifest.v1+json",
        ]);
        curl.args(["--data-binary", &format!("@{}", file.display())]);
        run(curl.arg(format!("http://{address}/v2/{repository}/manifests/{tag}")));
    }
}

/// A project whose image is in `out`, and its digest.
fn honest(world: &World) -> (Project, String) {
    let project = world.project(&SPECS);
    let output = built(&project, &["-o", "type=oci,dest=out"]);
    let digest = output.digest().to_owned();
    (project, digest)
}

#[test]
fn a_layer_that_is_another_one_is_made_instead() {
    let world = World::new();
    let (first, digest) = honest(&world);
    let (name, other) = (world.name(), world.name());
    let mut forgery = Forgery::of(&first);
    forgery.lie();
    forgery.push(&name);

    let second = world.machine(&first);
    let args = [
        "-t",
        &other,
        "-o",
        "type=oci,dest=out",
        "--cache-from",
        &name,
    ];
    let output = built(&second, &args);
    assert_eq!(output.digest(), digest);
    assert!(world.packages() > 5);
    let told = format!("warning: --cache-from {name} is not used, its layers are built: ");
    for words in [
        &*told,
        "a layer is not what its image says of it",
        "its diff id is said to be",
    ] {
        assert!(output.stderr.contains(words), "{}", output.stderr);
    }
    // What was made here is believed before what others say.
    world.channel.clear();
    let again = built(&second, &args);
    assert_eq!(again.digest(), digest);
    assert_eq!(
        (world.packages(), again.stderr.contains("not used")),
        (0, false)
    );
}

#[test]
fn a_push_to_another_registry_reads_and_finds_the_lie() {
    let world = World::new();
    let (first, digest) = honest(&world);
    let name = world.name();
    let mut forgery = Forgery::of(&first);
    forgery.lie();
    forgery.push(&name);
    let far = Faulty::proxy(&registry());
    let far_name = format!("{}/{}:1", far.address(), repository());
    let second = world.machine(&first);
    let output = built(&second, &["-t", &far_name, "--push", "--cache-from", &name]);
    assert_eq!(output.digest(), digest);
    assert!(
        output
            .stderr
            .contains(&format!("--cache-from {name} is not used")),
        "{}",
        output.stderr
    );
    check(&second, &far_name, &digest);
}

#[test]
fn a_layer_that_is_gone_is_made() {
    let world = World::new();
    let (first, digest) = honest(&world);
    let name = world.name();
    Forgery::of(&first).push(&name);
    let manifest = Forgery::of(&first).manifest;
    let at = Forgery::of(&first).keyed();
    let gone = manifest["layers"][at]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    // As after a registry's garbage collection: asked for by name or by digest, it is not there.
    let rule = move |request: &str| match request.contains(&gone) && !request.starts_with("PUT ") {
        true => Fault::Status(404, ""),
        false => Fault::Fine,
    };
    let proxy = Faulty::faulty_proxy(&registry(), rule);
    let (_, path) = name.split_once('/').unwrap();
    let name = format!("{}/{path}", proxy.address());
    let second = world.machine(&first);
    let args = [
        "-t",
        &name,
        "-o",
        "type=oci,dest=out",
        "--cache-from",
        &name,
    ];
    let output = built(&second, &args);
    assert_eq!(output.digest(), digest);
    assert!(
        output.stderr.contains("its layers are built"),
        "{}",
        output.stderr
    );
    assert!(world.packages() > 5);
}

#[test]
fn a_layer_of_another_size_is_made_instead() {
    let world = World::new();
    let (first, digest) = honest(&world);
    let (name, target) = (world.name(), world.name());
    Forgery::of(&first).push(&name);
    let mut forgery = Forgery::of(&first);
    let at = forgery.keyed();
    let size = &mut forgery.manifest["layers"][at]["size"];
    *size = (size.as_u64().unwrap() + 1).into();
    forgery.put_manifest(&name);
    let second = world.machine(&first);
    let args = [
        "-t",
        "a:1",
        "-o",
        "type=oci,dest=out",
        "--cache-from",
        &name,
    ];
    let output = build(&second, &args);
    output.expect(0);
    assert_eq!(output.digest(), digest);
    assert!(
        output
            .stderr
            .contains(&format!("--cache-from {name} is not used")),
        "{}",
        output.stderr
    );
    assert!(world.packages() > 5);
    let pushed = built(&second, &["-t", &target, "--push"]);
    assert_eq!(pushed.digest(), digest);
    check(&second, &target, &digest);
}

#[test]
fn packages_that_cannot_be_as_told_are_asked_themselves() {
    let world = World::new();
    let (first, _) = honest(&world);
    let (name, other) = (world.name(), world.name());
    let mut forgery = Forgery::of(&first);
    let surveys = &mut forgery.config["dev.imgbuild.notes"]["surveys"];
    let survey = surveys.as_object_mut().unwrap().values_mut().next();
    let outlines = survey.unwrap()["outlines"].as_object_mut().unwrap();
    // Each says that it has files where others have folders.
    for outline in outlines.values_mut() {
        let file = |path: &str| json!({"path": path, "folder": false, "sha256": null});
        outline["targets"] = ["bin", "lib", "share", "bin/x"].map(file).into();
    }
    forgery.push(&name);
    let newer = SPECS.map(|spec| spec.replace("hello-demo=1.0", "hello-demo=1.1"));
    let newer = newer.each_ref().map(String::as_str);
    first.write_env(&env(&world.channel.url, &newer));
    first.ok(&["lock", "env.yml"]);
    let second = world.machine(&first);
    let args = ["-t", &other, "--push", "--locked", "--cache-from"];
    let output = built(&second, &[&args[..], &[&name]].concat());
    assert!(world.packages() > 5);
    let alone = built(&first, &[&args[..], &[""]].concat());
    assert_eq!(output.digest(), alone.digest());
}
