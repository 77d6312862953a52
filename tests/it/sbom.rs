//! Bills of materials and provenances, held against their makers' own validators.

use std::{fs, process::Command};

use serde_json::Value;

use crate::{
    faulty::Faulty,
    mini::{base, env},
    support::{Output, Project, channel, fixture, run, source},
};

const TAG: &str = "1";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

pub fn registry() -> String {
    fixture("IMGBUILD_TEST_REGISTRY")
        .into_os_string()
        .into_string()
        .unwrap()
}

/// A repository that no other test uses.
fn repository(name: &str) -> String {
    format!("attested/{name}-{}", std::process::id())
}

/// An environment of conda packages and wheels.
fn project() -> Project {
    let wheels = fixture("IMGBUILD_TEST_WHEELS");
    let conda = env(channel(), &["python=3.11", "hello-demo=1.0"]);
    let pip = format!(
        "  - pip:\n    - --no-index\n    - --find-links {}\n    - jinja2\n",
        wheels.display()
    );
    let uv = fixture("IMGBUILD_TEST_UV");
    let path = format!(
        "{}:/usr/local/bin:/usr/bin:/bin",
        uv.parent().unwrap().display()
    );
    Project::new(&(conda + &pip)).with_env("PATH", path)
}

fn build(project: &Project, reference: &str, more: &[&str]) -> Output {
    let base = base();
    let args = [
        "build",
        "env.yml",
        "--base",
        &base,
        "-t",
        reference,
        "--compression",
        "gzip",
    ];
    project.ok(&[&args, more].concat())
}

/// Asks the registry itself, with a tool that is not imgbuild; nothing when it has none.
fn get(url: &str, accept: &str) -> Option<Value> {
    let header = format!("Accept: {accept}");
    let mut curl = Command::new("curl");
    let output = curl.args(["-sfL", "-H", &header, url]).output().unwrap();
    output
        .status
        .success()
        .then(|| serde_json::from_slice(&output.stdout).unwrap())
}

pub fn manifest(server: &str, repository: &str, name: &str, accept: &str) -> Option<Value> {
    get(
        &format!("http://{server}/v2/{repository}/manifests/{name}"),
        accept,
    )
}

/// The only layer of an artifact.
pub fn document(server: &str, repository: &str, entry: &Value) -> Value {
    let digest = entry["digest"].as_str().unwrap();
    let artifact = manifest(server, repository, digest, MANIFEST).unwrap();
    assert_eq!(artifact["artifactType"], entry["artifactType"]);
    blob(server, repository, &artifact["layers"][0])
}

fn blob(server: &str, repository: &str, layer: &Value) -> Value {
    let digest = layer["digest"].as_str().unwrap();
    get(
        &format!("http://{server}/v2/{repository}/blobs/{digest}"),
        "*/*",
    )
    .unwrap()
}

/// The validators' verdict on a document, and what they found in it.
pub fn checked(project: &Project, kind: &str, document: &Value) -> String {
    let path = project.path(format!("{kind}.spdx.json"));
    fs::write(&path, document.to_string()).unwrap();
    let mut check = Command::new(fixture("IMGBUILD_TEST_PYTHON"));
    run(check
        .arg(source("tests/support/check_attested.py"))
        .arg(kind)
        .arg(path))
}

fn package<'a>(spdx: &'a Value, name: &str) -> &'a Value {
    let packages = spdx["packages"].as_array().unwrap();
    packages
        .iter()
        .find(|package| package["name"] == name)
        .unwrap()
}

/// The referrers that are listed under the tag of an image's digest.
pub fn listed(server: &str, repository: &str, digest: &str) -> Vec<Value> {
    let tag = digest.replace(':', "-");
    let index = manifest(server, repository, &tag, INDEX).unwrap();
    index["manifests"].as_array().unwrap().clone()
}

#[test]
fn referrers_are_valid_and_sent_once() {
    let (registry, repository) = (registry(), repository("referrers"));
    let proxy = Faulty::proxy(&registry);
    let reference = format!("{}/{repository}:{TAG}", proxy.address());
    let project = project();
    let plain = build(&project, &reference, &["--push"]);
    let digest = plain.digest().to_owned();
    assert!(manifest(&registry, &repository, &digest.replace(':', "-"), INDEX).is_none());

    // One after the other: the second joins the first in the list.
    let attested = build(&project, &reference, &["--push", "--sbom"]);
    assert_eq!(attested.stdout, plain.stdout);
    project.ok(&["push", &reference, "--provenance=true"]);
    let tagged = manifest(&registry, &repository, TAG, MANIFEST).unwrap();
    assert_eq!(tagged["mediaType"], MANIFEST);
    let entries = listed(&registry, &repository, &digest);
    let types: Vec<&str> = entries
        .iter()
        .map(|e| e["artifactType"].as_str().unwrap())
        .collect();
    assert_eq!(
        types,
        ["application/spdx+json", "application/vnd.in-toto+json"]
    );

    let spdx = document(&registry, &repository, &entries[0]);
    let purls = checked(&project, "spdx", &spdx);
    for start in [
        "conda\thello-demo\t1.0\t",
        "pypi\tjinja2\t3.",
        "pypi\tmarkupsafe\t",
    ] {
        assert!(purls.lines().any(|line| line.starts_with(start)), "{purls}");
    }
    // Jinja says it in a classifier, in words that are no expression.
    let licence = package(&spdx, "jinja2")["licenseDeclared"].as_str();
    assert!(
        licence.unwrap().starts_with("LicenseRef-BSD"),
        "{licence:?}"
    );
    let statement = document(&registry, &repository, &entries[1]);
    let kind = checked(&project, "statement", &statement);
    assert_eq!(kind.trim(), "https://slsa.dev/provenance/v1");
    let subject = &statement["subject"][0]["digest"]["sha256"];
    assert_eq!(format!("sha256:{}", subject.as_str().unwrap()), digest);

    proxy.clear();
    project.ok(&["push", &reference, "--sbom", "--provenance"]);
    assert_eq!(proxy.writes(), [""; 0]);

    // What is attached is what is printed, and what was built is printed without a registry.
    for name in [&reference, &reference.replace(proxy.address(), &registry)] {
        let printed: Value = serde_json::from_str(&project.ok(&["sbom", name]).stdout).unwrap();
        assert_eq!(printed, spdx);
    }
}

#[test]
fn an_index_is_that_of_buildx() {
    let (registry, repository) = (registry(), repository("index"));
    let proxy = Faulty::proxy(&registry);
    let reference = format!("{}/{repository}:{TAG}", proxy.address());
    let project = project();
    let flags = ["--push", "--sbom", "--provenance", "--attach-as", "index"];
    let digest = build(&project, &reference, &flags).digest().to_owned();
    let index = manifest(&registry, &repository, TAG, INDEX).unwrap();
    let entries = index["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0]["digest"], digest);
    assert_eq!(entries[1]["platform"]["os"], "unknown");
    let annotations = &entries[1]["annotations"];
    assert_eq!(annotations["vnd.docker.reference.digest"], digest);
    assert_eq!(
        annotations["vnd.docker.reference.type"],
        "attestation-manifest"
    );

    let name = entries[1]["digest"].as_str().unwrap();
    let attestation = manifest(&registry, &repository, name, MANIFEST).unwrap();
    for layer in attestation["layers"].as_array().unwrap() {
        let statement = blob(&registry, &repository, layer);
        let kind = checked(&project, "statement", &statement);
        assert_eq!(
            layer["annotations"]["in-toto.io/predicate-type"],
            kind.trim()
        );
        if statement["predicateType"] == "https://spdx.dev/Document" {
            checked(&project, "spdx", &statement["predicate"]);
            let printed = project.ok(&["sbom", &reference.replace(proxy.address(), &registry)]);
            let printed: Value = serde_json::from_str(&printed.stdout).unwrap();
            assert_eq!(printed, statement["predicate"]);
        }
    }
    proxy.clear();
    project.ok(&[&["push", &reference], &flags[1..]].concat());
    assert_eq!(proxy.writes(), [""; 0]);

    // Docker takes the image out of the index.
    let name = reference.replace(proxy.address(), &registry);
    let docker = |args: &[&str]| run(Command::new("docker").args(args));
    docker(&["pull", "--quiet", &name]);
    let said = docker(&[
        "run",
        "--rm",
        &name,
        "python",
        "-c",
        "import jinja2; print(1)",
    ]);
    docker(&["image", "rm", "--force", &name]);
    assert_eq!(said.trim(), "1");
}

#[test]
fn another_machine_attaches_the_same() {
    let registry = registry();
    let made = ["one", "two"].map(|name| {
        let repository = repository(name);
        let project = project();
        let flags = ["--push", "--sbom", "--provenance"];
        let output = build(&project, &format!("{registry}/{repository}:{TAG}"), &flags);
        listed(&registry, &repository, output.digest())
    });
    assert_eq!(made[0], made[1]);
}

#[test]
fn records_of_an_image_give_a_bill_of_materials() {
    let project = project();
    project.ok(&[
        "build",
        "env.yml",
        "--base",
        &base(),
        "-o",
        "type=oci,dest=out",
    ]);
    let printed = project.ok(&["sbom", "oci:out"]);
    let spdx: Value = serde_json::from_str(&printed.stdout).unwrap();
    let purls = checked(&project, "spdx", &spdx);
    for start in [
        "conda\tpython\t3.11",
        "conda\thello-demo\t1.0\t",
        "pypi\tjinja2\t3.",
    ] {
        assert!(purls.lines().any(|line| line.starts_with(start)), "{purls}");
    }
    assert!(package(&spdx, "python")["checksums"].is_array());
    let refused = project.imgbuild(&["build", "env.yml", "--sbom"]);
    refused.expect(2);
    assert!(
        refused
            .stderr
            .contains("--sbom and --provenance need --push or -o type=oci")
    );
}
