//! Base images from registries.

use std::{
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
};

use serde_json::Value;

use crate::{
    faulty::Faulty,
    mini::{base, blob_json, command, env, layout_manifest},
    support::{Output, Project, channel, fixture},
};

const CREDENTIALS: &str = "tester:secret";

fn address(name: &str) -> String {
    fixture(name).into_os_string().into_string().unwrap()
}

/// Pushes the fixture base under a name of its own and returns `name:tag`.
fn push(registry: &str, credentials: Option<&str>) -> String {
    static PUSHED: AtomicUsize = AtomicUsize::new(0);
    let number = PUSHED.fetch_add(1, Ordering::Relaxed);
    let name = format!("bases/debian-{}-{number}:12", std::process::id());
    let mut skopeo = Command::new("skopeo");
    skopeo.args([
        "copy",
        "--quiet",
        "--insecure-policy",
        "--dest-tls-verify=false",
    ]);
    if let Some(credentials) = credentials {
        skopeo.args(["--dest-creds", credentials]);
    }
    let out = skopeo
        .args([base(), format!("docker://{registry}/{name}")])
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    name
}

fn project() -> Project {
    Project::new(&env(channel(), &["hello-demo=1.0"]))
}

fn build(project: &Project, base: &str, layout: &str) -> Output {
    let dest = format!("type=oci,dest={layout}");
    project.imgbuild(&["build", "env.yml", "--base", base, "-o", &dest])
}

fn layers(manifest: &Value) -> Vec<&str> {
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers
        .map(|layer| layer["digest"].as_str().unwrap())
        .collect()
}

#[test]
fn a_base_is_pulled_once_and_recorded() {
    let registry = address("IMGBUILD_TEST_REGISTRY");
    let name = push(&registry, None);
    let proxy = Faulty::proxy(&registry);
    let reference = format!("{}/{name}", proxy.address());
    let project = project();
    let first = build(&project, &reference, "out");
    assert_eq!(first.status, 0, "{}", first.stderr);

    let (_, manifest) = layout_manifest(&project.path("out"));
    let (base_digest, base_manifest) = layout_manifest(&fixture("IMGBUILD_TEST_BASE"));
    let annotations = &manifest["annotations"];
    assert_eq!(
        annotations["org.opencontainers.image.base.name"],
        *reference
    );
    assert_eq!(
        annotations["org.opencontainers.image.base.digest"],
        *base_digest
    );
    assert!(layers(&manifest).starts_with(&layers(&base_manifest)));

    // The same base from a folder gives the same layers, and the same config but for its name.
    let local = build(&project, &base(), "local");
    assert_eq!(local.status, 0, "{}", local.stderr);
    let local_dir = project.path("local");
    let (_, of_folder) = layout_manifest(&local_dir);
    assert_eq!(layers(&of_folder), layers(&manifest));
    assert_eq!(of_folder["config"]["digest"], manifest["config"]["digest"]);
    let config = blob_json(&local_dir, of_folder["config"]["digest"].as_str().unwrap());
    assert_eq!(config["architecture"], "amd64");

    let blobs = |server: &Faulty| {
        let gets = server.gets("").into_iter();
        gets.filter(|path| path.contains("/blobs/")).count()
    };
    assert_eq!(blobs(&proxy), 1 + layers(&base_manifest).len());
    proxy.clear();
    let again = build(&project, &reference, "again");
    assert_eq!(
        (again.status, &again.stdout),
        (0, &first.stdout),
        "{}",
        again.stderr
    );
    assert_eq!(blobs(&proxy), 0, "{:?}", proxy.gets(""));

    // By digest, the tag plays no role.
    let by_digest = format!("{}@{base_digest}", reference.trim_end_matches(":12"));
    let pinned = build(&project, &by_digest, "pinned");
    assert_eq!(pinned.status, 0, "{}", pinned.stderr);
    let (_, manifest) = layout_manifest(&project.path("pinned"));
    let annotations = &manifest["annotations"];
    assert_eq!(
        annotations["org.opencontainers.image.base.digest"],
        *base_digest
    );
}

#[test]
fn a_private_registry_asks_for_a_login() {
    let registry = address("IMGBUILD_TEST_REGISTRY_AUTH");
    let name = push(&registry, Some(CREDENTIALS));
    let reference = format!("{registry}/{name}");
    let project = project();
    let out = build(&project, &reference, "out");
    assert_eq!(out.status, 3, "{}", out.stderr);
    assert!(
        out.stderr.contains(&format!("docker login {registry}")),
        "{}",
        out.stderr
    );

    // base64 of tester:secret and of tester:wrong
    for (auth, status) in [("dGVzdGVyOndyb25n", 3), ("dGVzdGVyOnNlY3JldA==", 0)] {
        let config = format!("{{\"auths\": {{\"{registry}\": {{\"auth\": \"{auth}\"}}}}}}");
        project.write("docker/config.json", &config);
        let dest = "type=oci,dest=out";
        let mut build = command(
            &project,
            &["build", "env.yml", "--base", &reference, "-o", dest],
        );
        let out = project.output(build.env("DOCKER_CONFIG", project.path("docker")));
        assert_eq!(out.status, status, "{}", out.stderr);
        if status != 0 {
            assert!(out.stderr.contains("not accepted"), "{}", out.stderr);
            assert!(out.stderr.contains("docker login"), "{}", out.stderr);
        }
        assert!(!out.stderr.contains("secret"));
    }
    let (_, manifest) = layout_manifest(&project.path("out"));
    let (_, base_manifest) = layout_manifest(&fixture("IMGBUILD_TEST_BASE"));
    assert!(layers(&manifest).starts_with(&layers(&base_manifest)));
}

#[test]
fn unknown_names_and_tags_are_told() {
    let registry = address("IMGBUILD_TEST_REGISTRY");
    let name = push(&registry, None);
    let project = project();
    let tag = format!("{registry}/{}", name.replace(":12", ":13"));
    let unknown = format!("{registry}/no-such-image:1");
    let digest = format!(
        "{registry}/{}@sha256:{}",
        name.trim_end_matches(":12"),
        "0".repeat(64)
    );
    for reference in [tag, unknown, digest] {
        let out = build(&project, &reference, "out");
        assert_eq!(out.status, 3, "{}", out.stderr);
        assert!(
            out.stderr.contains(&reference),
            "{reference}: {}",
            out.stderr
        );
        assert!(
            out.stderr.contains("check the name and the tag"),
            "{}",
            out.stderr
        );
        assert!(!project.path("out").exists());
    }
}
