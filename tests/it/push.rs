//! Images pushed to registries, well-behaved and not.

use std::{
    process::{Child, Command},
    sync::atomic::{AtomicUsize, Ordering},
};

use crate::{
    faulty::{Fault, Faulty},
    mini::{base, command, env, read_json},
    peers::copied,
    support::{Output, Project, channel, fixture, run},
};

const IMAGE: &str = "train:dev";

fn registry() -> String {
    address("IMGBUILD_TEST_REGISTRY")
}

fn address(name: &str) -> String {
    fixture(name).into_os_string().into_string().unwrap()
}

/// The name of a repository that no other test uses.
fn repository() -> String {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("pushed/{}-{number}", std::process::id())
}

fn project() -> Project {
    let project = Project::new(&env(channel(), &["hello-demo=1.0"]));
    project.write("code/train.py", "print(1)\n");
    project
}

fn build(project: &Project, args: &[&str]) -> Output {
    let build = ["build", "env.yml", "--code", "code"];
    project.ok(&[&build, args].concat())
}

/// A small image in the store, as [`IMAGE`].
fn small() -> (Project, String) {
    let project = project();
    let output = build(&project, &["--base", "scratch", "-t", IMAGE]);
    let digest = output.digest().to_owned();
    (project, digest)
}

/// Pushes [`IMAGE`] to a server.
fn push(project: &Project, server: &str, repository: &str) -> Output {
    project.imgbuild(&["push", IMAGE, &format!("{server}/{repository}:1")])
}

/// The digest that another tool sees.
fn inspect(reference: &str) -> String {
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["inspect", "--tls-verify=false", "--format", "{{.Digest}}"]);
    let digest = run(skopeo.arg(format!("docker://{reference}")));
    digest.trim().to_owned()
}

/// Copies the image out of the registry with another tool and checks every rule of images.
fn check(project: &Project, reference: &str, digest: &str) {
    assert_eq!(inspect(reference), digest);
    let images = copied(reference, &project.path("pulled"));
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].digest, digest);
}

fn is_blob_upload(request: &str) -> bool {
    request.starts_with("PUT ") && request.contains("/blobs/")
}

fn is_manifest_upload(request: &str) -> bool {
    request.starts_with("PUT ") && request.contains("/manifests/")
}

fn blob_uploads(server: &Faulty) -> usize {
    server.writes().iter().filter(|r| is_blob_upload(r)).count()
}

/// Answers the first so many requests of a kind like this.
fn first(
    count: usize,
    kind: impl Fn(&str) -> bool + Send + Sync + 'static,
    fault: Fault,
) -> impl Fn(&str) -> Fault + Send + Sync + 'static {
    let seen = AtomicUsize::new(0);
    move |request| match kind(request) && seen.fetch_add(1, Ordering::SeqCst) < count {
        true => fault.clone(),
        false => Fault::Fine,
    }
}

#[test]
fn only_what_is_new_is_uploaded() {
    let (registry, repository) = (registry(), repository());
    let proxy = Faulty::proxy(&registry);
    let [one, two] = ["1", "2"].map(|tag| format!("{}/{repository}:{tag}", proxy.address()));
    let project = project();
    let base = base();
    let args = ["--base", &base, "-t", &one, "-t", &two, "--push"];
    let output = build(&project, &args);
    let digest = output.digest();
    for tag in ["1", "2"] {
        check(&project, &format!("{registry}/{repository}:{tag}"), digest);
    }

    // The manifest comes after every blob, the tags after the manifest.
    let log = proxy.log();
    let at = |line: &str| log.iter().position(|l| *l == line);
    let by_digest = format!("PUT /v2/{repository}/manifests/{digest}");
    let manifest = at(&by_digest).unwrap();
    let uploads = log.iter().filter(|line| is_blob_upload(line));
    let done: Vec<usize> = uploads.map(|l| at(&format!("done {l}")).unwrap()).collect();
    assert!(
        done.len() > 3 && done.iter().all(|done| *done < manifest),
        "{log:?}"
    );
    for tag in ["1", "2"] {
        let tag = at(&format!("PUT /v2/{repository}/manifests/{tag}")).unwrap();
        assert!(tag > at(&format!("done {by_digest}")).unwrap(), "{log:?}");
    }
    assert_eq!(proxy.writes().len(), 2 * done.len() + 3);
    let counts = format!("({} uploaded, 0 there already)", done.len());
    assert!(output.stderr.contains(&counts), "{}", output.stderr);

    // The same again.
    proxy.clear();
    let again = project.ok(&["push", &one]);
    assert_eq!(again.stdout, output.stdout);
    assert_eq!(proxy.writes(), [""; 0]);
    assert!(again.stderr.contains("(0 uploaded, "), "{}", again.stderr);

    // Other code: its layer, and the config that names it.
    project.write("code/train.py", "print(2)\n");
    let changed = build(&project, &args);
    assert_ne!(changed.digest(), digest);
    assert_eq!(blob_uploads(&proxy), 2, "{:?}", proxy.writes());
    assert_eq!(
        inspect(&format!("{registry}/{repository}:1")),
        changed.digest()
    );
}

#[test]
fn a_private_registry_wants_a_login() {
    let registry = address("IMGBUILD_TEST_REGISTRY_AUTH");
    let (project, digest) = small();
    let repository = repository();
    let reference = format!("{registry}/{repository}:1");
    let out = push(&project, &registry, &repository);
    out.expect(3);
    for words in [
        &format!("cannot push to {reference}"),
        "401",
        &format!("hint: log in: docker login {registry}"),
    ] {
        assert!(out.stderr.contains(words), "{}", out.stderr);
    }
    // base64 of tester:wrong and of tester:secret
    for (auth, status) in [("dGVzdGVyOndyb25n", 3), ("dGVzdGVyOnNlY3JldA==", 0)] {
        let config = format!("{{\"auths\": {{\"{registry}\": {{\"auth\": \"{auth}\"}}}}}}");
        project.write("docker/config.json", &config);
        let mut push = command(&project, &["push", IMAGE, &reference]);
        let out = project.output(push.env("DOCKER_CONFIG", project.path("docker")));
        out.expect(status);
        match status {
            0 => assert_eq!(out.digest(), digest),
            _ => assert!(out.stderr.contains("may not push to it"), "{}", out.stderr),
        }
        assert!(!out.stderr.contains("secret"));
    }
}

#[test]
fn passing_faults_are_outlived() {
    let registry = registry();
    let (project, digest) = small();
    let blobs = |method: &'static str| {
        move |request: &str| request.starts_with(method) && request.contains("/blobs/")
    };
    type Rule = Box<dyn Fn(&str) -> Fault + Send + Sync>;
    let denied = || Fault::Status(401, "");
    let cases: Vec<(&str, Rule)> = vec![
        ("401 HEAD", Box::new(first(1, blobs("HEAD "), denied()))),
        ("401 POST", Box::new(first(1, blobs("POST "), denied()))),
        ("401 PUT", Box::new(first(1, is_blob_upload, denied()))),
        (
            "401 manifest",
            Box::new(first(1, is_manifest_upload, denied())),
        ),
        ("cut", Box::new(first(1, is_blob_upload, Fault::Cut(90)))),
        (
            "503",
            Box::new(first(2, blobs("POST "), Fault::Status(503, ""))),
        ),
        (
            "429",
            Box::new(first(1, is_manifest_upload, Fault::Status(429, ""))),
        ),
        (
            "lying HEAD",
            Box::new(first(99, blobs("HEAD "), Fault::Status(200, ""))),
        ),
    ];
    for (what, rule) in cases {
        let repository = repository();
        let proxy = Faulty::faulty_proxy(&registry, rule);
        let out = push(&project, proxy.address(), &repository);
        assert_eq!(out.status, 0, "{what}: {}", out.stderr);
        assert_eq!(out.digest(), digest, "{what}");
        let pushed = inspect(&format!("{registry}/{repository}:1"));
        assert_eq!(pushed, digest, "{what}");
    }
}

#[test]
fn a_large_layer_that_is_cut_is_sent_again() {
    let (registry, repository) = (registry(), repository());
    let proxy = Faulty::faulty_proxy(&registry, first(1, is_blob_upload, Fault::Cut(90)));
    let project = project();
    let reference = format!("{}/{repository}:1", proxy.address());
    let output = build(&project, &["--base", &base(), "-t", &reference, "--push"]);
    assert!(output.stderr.contains("trying again"), "{}", output.stderr);
    check(
        &project,
        &format!("{registry}/{repository}:1"),
        output.digest(),
    );
}

#[test]
fn faults_that_stay_are_told() {
    let registry = registry();
    let (project, _) = small();
    let posts = |request: &str| request.starts_with("POST ");
    for (status, words) in [
        (401, "hint: log in: docker login"),
        (403, "hint: log in: docker login"),
        (404, "hint: check the name; some registries"),
        (400, "why: HTTP status 400"),
        (500, "why: HTTP status 500"),
    ] {
        let proxy = Faulty::faulty_proxy(&registry, first(99, posts, Fault::Status(status, "")));
        let repository = repository();
        let out = push(&project, proxy.address(), &repository);
        out.expect(3);
        let what = format!("error: cannot push to {}/{repository}:1\n", proxy.address());
        assert!(out.stderr.contains(&what), "{status}: {}", out.stderr);
        assert!(out.stderr.contains(words), "{status}: {}", out.stderr);
        assert_eq!(out.stdout, "", "{status}");
        let manifests = proxy.writes().into_iter().filter(|r| is_manifest_upload(r));
        assert_eq!(manifests.count(), 0, "{status}");
    }
    // Harbor says so of a tag that must not move.
    let is_tag = |request: &str| request.starts_with("PUT ") && request.ends_with("/manifests/1");
    let proxy = Faulty::faulty_proxy(&registry, first(99, is_tag, Fault::Status(412, "")));
    let out = push(&project, proxy.address(), &repository());
    out.expect(3);
    assert!(
        out.stderr.contains("why: HTTP status 412"),
        "{}",
        out.stderr
    );
    let refused = push(&project, "127.0.0.1:1", "a");
    refused.expect(3);
    assert!(
        refused.stderr.contains("nothing listens at 127.0.0.1:1"),
        "{}",
        refused.stderr
    );
}

#[test]
fn names_that_cannot_be_pushed_are_told() {
    let (project, _) = small();
    let unknown = project.imgbuild(&["push", "other:dev"]);
    unknown.expect(2);
    assert!(
        unknown.stderr.contains("imgbuild has no image 'other:dev'"),
        "{}",
        unknown.stderr
    );
    let nameless = project.imgbuild(&["build", "env.yml", "--base", "scratch", "--push"]);
    nameless.expect(2);
    assert!(
        nameless.stderr.contains("--push needs a name"),
        "{}",
        nameless.stderr
    );
    // A proxy that refuses, so that Docker Hub is never asked.
    let mut hub = command(&project, &["push", IMAGE]);
    let hub = project.output(hub.env("HTTPS_PROXY", "http://127.0.0.1:9"));
    hub.expect(3);
    for words in [
        "cannot push to docker.io/library/train:dev",
        "a name without a registry means Docker Hub's own images",
    ] {
        assert!(hub.stderr.contains(words), "{}", hub.stderr);
    }
}

#[test]
fn blobs_are_mounted_from_where_the_registry_has_them() {
    let registry = registry();
    let proxy = Faulty::proxy(&registry);
    let (project, digest) = small();
    let [one, two] = [repository(), repository()];
    let references = [&one, &two].map(|name| format!("{}/{name}:1", proxy.address()));
    project.ok(&["push", IMAGE, &references[0], &references[1]]);
    let to = |name: &str| format!(" /v2/{name}/");
    let uploads = proxy.writes().into_iter().filter(|r| is_blob_upload(r));
    let (first, second): (Vec<_>, Vec<_>) = uploads.partition(|r| r.contains(&to(&one)));
    assert!(!first.is_empty() && second.is_empty(), "{second:?}");
    for name in [&one, &two] {
        assert_eq!(inspect(&format!("{registry}/{name}:1")), digest);
    }

    // The base comes from the registry that the image goes to.
    let base = repository();
    let [from, target] = [&base, &repository()].map(|name| format!("{}/{name}:1", proxy.address()));
    let mut skopeo = Command::new("skopeo");
    skopeo.args([
        "copy",
        "--quiet",
        "--insecure-policy",
        "--dest-tls-verify=false",
    ]);
    run(skopeo.args([crate::mini::base(), format!("docker://{registry}/{base}:1")]));
    proxy.clear();
    let output = build(&project, &["--base", &from, "-t", &target, "--push"]);
    assert!(output.stderr.contains(" mounted, "), "{}", output.stderr);
    let log = proxy.log();
    assert!(
        log.iter()
            .any(|line| line.contains(&format!("from={}", base.replace('/', "%2F")))),
        "{log:?}"
    );
    let pushed = target.replace(proxy.address(), &registry);
    check(&project, &pushed, output.digest());
}

#[test]
fn a_refused_mount_is_an_upload() {
    let registry = registry();
    let mounts = |request: &str| request.contains("mount=");
    let proxy = Faulty::faulty_proxy(&registry, first(99, mounts, Fault::Status(202, "")));
    let (project, digest) = small();
    let [one, two] = [repository(), repository()];
    let references = [&one, &two].map(|name| format!("{}/{name}:1", proxy.address()));
    project.ok(&["push", IMAGE, &references[0], &references[1]]);
    assert_eq!(inspect(&format!("{registry}/{two}:1")), digest);
}

fn spawn(project: &Project, reference: &str) -> Child {
    command(project, &["push", IMAGE, reference])
        .spawn()
        .unwrap()
}

#[test]
fn a_killed_push_goes_on_where_it_was() {
    let (registry, repository) = (registry(), repository());
    let (project, digest) = small();
    let proxy = Faulty::faulty_proxy(&registry, first(1, is_blob_upload, Fault::Stall(50)));
    let mut child = spawn(&project, &format!("{}/{repository}:1", proxy.address()));
    proxy.wait_stalled(1);
    // All but the one that hangs: the layers, and the config.
    let manifest = project.cache.join("blobs/sha256").join(&digest[7..]);
    let before = read_json(&manifest)["layers"].as_array().unwrap().len();
    proxy.wait_done(before, is_blob_upload);
    child.kill().unwrap();
    child.wait().unwrap();
    let manifests = proxy.writes().into_iter().filter(|r| is_manifest_upload(r));
    assert_eq!(manifests.count(), 0);

    let second = Faulty::proxy(&registry);
    let out = push(&project, second.address(), &repository);
    out.expect(0);
    assert_eq!(blob_uploads(&second), 1, "{}", out.stderr);
    assert!(
        out.stderr
            .contains(&format!("(1 uploaded, {before} there already)")),
        "{}",
        out.stderr
    );
    assert_eq!(inspect(&format!("{registry}/{repository}:1")), digest);
}

#[test]
fn two_pushes_at_once_both_succeed() {
    let (registry, repository) = (registry(), repository());
    let (project, digest) = small();
    let reference = format!("{registry}/{repository}:1");
    let children = [(); 2].map(|()| spawn(&project, &reference));
    for child in children {
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), digest);
    }
    assert_eq!(inspect(&reference), digest);
}
