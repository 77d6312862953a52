//! Indexes in registries.

use std::process::Command;

use serde_json::Value;

use super::{BOTH, Base, build, fixture, project, read, run};
use crate::{faulty::Faulty, mini::sha256, peers::copied, support::Project};

fn registry() -> String {
    let address = fixture("IMGBUILD_TEST_REGISTRY").into_os_string();
    address.into_string().unwrap()
}

fn repository(name: &str) -> String {
    format!("platforms/{}-{name}", std::process::id())
}

/// Runs skopeo with words of one text.
fn skopeo(words: &str) -> String {
    run(Command::new("skopeo").args(words.split(' ')))
}

/// What a tag names, byte for byte.
fn raw(reference: &str) -> String {
    skopeo(&format!(
        "inspect --raw --tls-verify=false docker://{reference}"
    ))
}

fn digest_of(text: &str) -> String {
    format!("sha256:{}", sha256(text.as_bytes()))
}

/// Each blob comes before each manifest, these before the index, and the tag last.
fn check_order(log: &[String], manifests: &[&str], index: &str, tag: &str) {
    let at = |name: &str| {
        let end = format!("/manifests/{name}");
        let found = log.iter().position(|line| line.ends_with(&end));
        found.unwrap_or_else(|| panic!("{name}: {log:?}"))
    };
    let blob = log.iter().rposition(|line| line.contains("/blobs/"));
    for manifest in manifests {
        let manifest = at(manifest);
        assert!(blob.unwrap() < manifest && manifest < at(index), "{log:?}");
    }
    assert!(at(index) < at(tag), "{log:?}");
}

#[test]
fn manifests_come_first_then_the_index_then_tags() {
    let (base, registry, repository) = (Base::new(), registry(), repository("order"));
    let proxy = Faulty::proxy(&registry);
    let project = project(&["python=3.11", "tqdm"]);
    let reference = format!("{}/{repository}:1", proxy.address());
    let args = ["--base", &base.name(), "-t", &reference, "--push"];
    let output = build(&project, BOTH, &args);
    output.expect(0);
    let digest = output.digest();
    let pushed = format!("{registry}/{repository}:1");
    let text = raw(&pushed);
    assert_eq!(digest_of(&text), digest);
    let index: Value = serde_json::from_str(&text).unwrap();
    let entries = index["manifests"].as_array().unwrap().iter();
    let manifests: Vec<&str> = entries.map(|m| m["digest"].as_str().unwrap()).collect();
    check_order(&proxy.writes(), &manifests, digest, "1");

    // What another tool copies is sound, and each platform finds its own.
    let images = copied(&pushed, &project.path("copied"));
    let digests: Vec<&str> = images.iter().map(|image| &image.digest[..]).collect();
    assert_eq!(digests, manifests);
    let arm64 = "inspect --override-arch arm64 --tls-verify=false --config";
    let config = skopeo(&format!("{arm64} docker://{pushed}"));
    let config: Value = serde_json::from_str(&config).unwrap();
    let said = (&config["architecture"], &config["variant"]);
    assert_eq!(said, (&"arm64".into(), &"v8".into()));

    // Again, nothing is sent; and what the cache has is pushed elsewhere by its name.
    proxy.clear();
    build(&project, BOTH, &args).expect(0);
    assert_eq!(proxy.writes(), [""; 0]);
    project.ok(&["cache", "verify"]);
    let elsewhere = format!("{registry}/{repository}-too:2");
    let again = project.ok(&["push", &reference, &elsewhere]);
    assert_eq!(again.digest(), digest);
    assert_eq!(raw(&elsewhere), text);
}

fn docker(project: &Project, args: &[&str]) -> String {
    let mut docker = Command::new("docker");
    docker.env("DOCKER_HOST", fixture("DOCKER_HOST"));
    run(docker.env("HOME", project.home()).args(args))
}

#[test]
fn docker_pulls_its_own_platform_and_bases_come_from_an_index() {
    let (base, registry, repository) = (Base::new(), registry(), repository("pulled"));
    // The base, too, is an index in a registry.
    let named = format!("{registry}/{repository}-base:12");
    let copy = "copy --quiet --insecure-policy --dest-tls-verify=false --multi-arch=all";
    skopeo(&format!("{copy} {} docker://{named}", base.name()));
    let project = project(&["python=3.11", "numpy"]);
    let reference = format!("{registry}/{repository}:1");
    // Docker 20.10 pulls no zstd.
    let gzip = ["--base", &named, "--compression", "gzip"];
    let output = build(
        &project,
        BOTH,
        &[&gzip[..], &["-t", &reference, "--push"]].concat(),
    );
    output.expect(0);
    docker(&project, &["pull", "-q", &reference]);
    let program = "import platform, numpy; print(platform.machine(), int(numpy.ones(3).sum()))";
    let container = ["run", "--rm", "--network", "none", &reference];
    let said = docker(
        &project,
        &[&container[..], &["python", "-c", program]].concat(),
    );
    docker(&project, &["rmi", "-f", &reference]);
    assert_eq!(said, "x86_64 3\n");
    // The lock has the base's digest for each platform, and holds without the registry.
    let lock = read(&project, "env.lock.yml");
    for platform in ["linux-64", "linux-aarch64"] {
        let line = format!("# imgbuild: {platform} base {named}@sha256:");
        assert!(lock.contains(&line), "{lock}");
    }
    let again = build(
        &project,
        BOTH,
        &[&gzip[..], &["--offline", "--locked"]].concat(),
    );
    again.expect(0);
    assert_eq!(again.digest(), output.digest());
}
