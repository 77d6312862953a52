//! Bills of materials and provenances of layouts, and of several platforms.

use std::path::Path;

use serde_json::Value;

use crate::{
    mini::{base, env},
    peers::{copied, name},
    platforms::{self, BOTH},
    sbom::{checked, document, listed},
    support::{Output, Project, channel, fixture, statements, validate_layout},
};

const WANTED: [&str; 2] = ["--sbom", "--provenance"];
const KINDS: [&str; 2] = [
    "https://spdx.dev/Document",
    "https://slsa.dev/provenance/v1",
];

fn project() -> Project {
    Project::new(&env(channel(), &["python=3.11", "tqdm"]))
}

/// Checks statements, two an image, with their makers' validators; returns the bills of materials.
fn check(project: &Project, statements: Vec<Value>, images: &[&str]) -> Vec<Value> {
    let subject = |statement: &Value| {
        let hex = statement["subject"][0]["digest"]["sha256"].as_str();
        format!("sha256:{}", hex.unwrap())
    };
    let subjects: Vec<String> = statements.iter().map(subject).collect();
    let twice: Vec<&str> = images.iter().flat_map(|image| [*image; 2]).collect();
    assert_eq!(subjects, twice);
    let mut bills = Vec::new();
    for (mut statement, kind) in statements.into_iter().zip(KINDS.iter().cycle()) {
        assert_eq!(checked(project, "statement", &statement).trim(), *kind);
        if *kind == KINDS[0] {
            let bill = statement["predicate"].take();
            checked(project, "spdx", &bill);
            bills.push(bill);
        }
    }
    bills
}

fn bill(output: &Output) -> Value {
    let made = "it is made from the image's own records";
    assert!(!output.stderr.contains(made), "{}", output.stderr);
    serde_json::from_str(&output.stdout).unwrap()
}

#[test]
fn a_layout_has_statements_in_its_index() {
    let project = project();
    let base = base();
    let build = ["build", "env.yml", "--base", &base];
    let outputs = [
        "-o",
        "type=oci,dest=out",
        "-o",
        "type=oci-archive,dest=out.tar",
    ];
    let args = |tag: &'static str| [&build[..], &["-t", tag], &outputs, &WANTED].concat();
    let out = project.ok(&args("app:1"));
    let plain = project.ok(&[&build[..], &["-o", "type=oci,dest=plain"]].concat());
    assert_eq!(out.stdout, plain.stdout);
    let layout = project.path("out");
    let images = validate_layout(&layout);
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].digest, out.digest());
    let bills = check(&project, statements(&layout), &[out.digest()]);

    // Another machine prints it, and may build on what has it.
    let other = self::project();
    for source in ["oci:out", "oci:out:app:1", "oci-archive:out.tar"] {
        let (kind, path) = source.split_once(':').unwrap();
        let source = format!("{kind}:{}", project.path(path).display());
        assert_eq!(bill(&other.ok(&["sbom", &source])), bills[0], "{source}");
        let over = [
            "build",
            "env.yml",
            "--prefix",
            "/opt/over",
            "--base",
            &source,
        ];
        other.ok(&over);
    }
    // The same name again, without, and another one beside it.
    project.ok(&[&build[..], &["-t", "app:1"], &outputs[..2]].concat());
    assert_eq!(statements(&layout).len(), 0);
    project.ok(&args("app:2"));
    assert_eq!(validate_layout(&layout).len(), 1);
    assert_eq!(statements(&layout).len(), 2);
}

#[test]
fn what_holds_no_attestations_is_refused() {
    let project = project();
    let docker = ["-o", "type=docker-archive,dest=out.tar"];
    for output in [&[][..], &docker, &["--load"]] {
        let refused = project.imgbuild(&[&["build", "env.yml", "--sbom"], output].concat());
        refused.expect(2);
        let words = "--sbom and --provenance need --push or -o type=oci";
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
    }
    // Beside a layout, an archive for Docker is what it is without.
    let build = ["build", "env.yml", "--base", &base()];
    project.ok(&[&build[..], &docker].concat());
    let plain = std::fs::read(project.path("out.tar")).unwrap();
    let both = ["-o", "type=oci,dest=out"];
    project.ok(&[&build[..], &docker, &both, &WANTED].concat());
    assert!(plain == std::fs::read(project.path("out.tar")).unwrap());
}

/// The digests of the images of a layout.
fn digests(layout: &Path) -> Vec<String> {
    let images = validate_layout(layout).into_iter();
    images.map(|image| image.digest).collect()
}

#[test]
fn each_platform_has_its_own() {
    let (project, base) = (project(), platforms::Base::new());
    let base = base.name();
    let build = ["build", "env.yml", "--platform", BOTH, "--base", &base];
    let layout = ["-o", "type=oci,dest=out"];
    let [index, referrers] = ["index", "referrers"].map(name);
    let push = ["-t", &index, "--push", "--attach-as", "index"];
    let out = project.ok(&[&build[..], &layout, &push, &WANTED].concat());
    let images = digests(&project.path("out"));
    let images: Vec<&str> = images.iter().map(String::as_str).collect();
    assert_eq!(images.len(), 2);
    let bills = check(&project, statements(&project.path("out")), &images);

    // The registry has the same as the layout.
    let pulled = project.path("pulled");
    let found = copied(&index, &pulled).into_iter();
    assert_eq!(found.map(|image| image.digest).collect::<Vec<_>>(), images);
    assert_eq!(check(&project, statements(&pulled), &images), bills);

    let push = ["push", &index, &referrers, "--sbom", "--provenance"];
    assert_eq!(project.ok(&push).digest(), out.digest());
    let registry = fixture("IMGBUILD_TEST_REGISTRY").display().to_string();
    let repository = referrers.trim_start_matches(&format!("{registry}/"));
    let repository = repository.split(':').next().unwrap();
    for (image, bill) in images.iter().zip(&bills) {
        let entries = listed(&registry, repository, image);
        assert_eq!(entries.len(), 2);
        assert_eq!(document(&registry, repository, &entries[0]), *bill);
        let provenance = document(&registry, repository, &entries[1]);
        assert_eq!(checked(&project, "statement", &provenance).trim(), KINDS[1]);
    }
}
