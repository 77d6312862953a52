//! Debian's docker-registry behind a token service with real tokens.

use std::{
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use serde_json::json;

use crate::{
    debian::Registry,
    faulty::{Fault, Faulty},
    mini::{command, env},
    support::{Output, Project, channel, run},
    token_service::{PASSWORD, PUBLIC, TokenService, USER},
};

const IMAGE: &str = "train:dev";

/// A small image in the store, as [`IMAGE`], and its digest.
fn small() -> (Project, String) {
    let project = Project::new(&env(channel(), &["hello-demo=1.0", "links-demo"]));
    let build = ["build", "env.yml", "--base", "scratch", "-t", IMAGE];
    let digest = project.ok(&build).digest().to_owned();
    (project, digest)
}

/// Runs the program as somebody who is logged in to a registry.
fn logged_in(project: &Project, registry: &str, args: &[&str]) -> Output {
    // base64 of tester:secret
    let auths = json!({"auths": {registry: {"auth": "dGVzdGVyOnNlY3JldA=="}}});
    project.write("docker/config.json", &auths.to_string());
    let mut command = command(project, args);
    let out = project.output(command.env("DOCKER_CONFIG", project.path("docker")));
    assert!(!out.stderr.contains(PASSWORD), "{}", out.stderr);
    out
}

/// The digest that another tool sees with the same login.
fn inspect(reference: &str) -> String {
    let mut skopeo = Command::new("skopeo");
    let creds = format!("{USER}:{PASSWORD}");
    skopeo.args(["inspect", "--tls-verify=false", "--creds", &creds]);
    skopeo.args(["--format", "{{.Digest}}", &format!("docker://{reference}")]);
    run(&mut skopeo).trim().to_owned()
}

#[test]
fn pushes_mounts_and_bases_come_with_tokens() {
    let service = TokenService::start(&[]);
    let registry = Registry::start(&service.settings());
    let host = &registry.address;
    let [one, two] = ["team/app", "team/other"].map(|name| format!("{host}/{name}:1"));
    let (project, digest) = small();
    let denied = project.imgbuild(&["push", IMAGE, &one]);
    denied.expect(3);
    let hint = format!("hint: log in: docker login {host}\n");
    assert!(denied.stderr.ends_with(&hint), "{}", denied.stderr);
    logged_in(&project, host, &["push", IMAGE, &one]).expect(0);
    assert_eq!(inspect(&one), digest);

    let out = logged_in(&project, host, &["push", IMAGE, &one, &two]);
    out.expect(0);
    let all = "(0 uploaded, 4 mounted, 0 there already)";
    assert!(out.stderr.contains(all), "{}", out.stderr);
    assert_eq!(inspect(&two), digest);
    let both = "tester repository:team/other:pull,push repository:team/app:pull";
    let asked = service.asked();
    assert!(asked.iter().any(|asked| asked == both), "{asked:?}");

    // As a base on another machine, and on top of it in another repository.
    let (elsewhere, _) = small();
    let top = format!("{host}/team/top:1");
    let build = ["build", "env.yml", "--base", &one, "-t", &top, "--push"];
    let prefix = ["--prefix", "/opt/other"];
    let out = logged_in(&elsewhere, host, &[&build[..], &prefix].concat());
    out.expect(0);
    assert!(out.stderr.contains(" mounted, "), "{}", out.stderr);
    assert_eq!(inspect(&top), out.digest());
}

fn row<'o>(out: &'o Output, name: &str) -> &'o str {
    let row = out.stdout.lines().find_map(|line| line.strip_prefix(name));
    row.unwrap_or_else(|| panic!("{name}: {}{}", out.stdout, out.stderr))
        .trim()
}

#[test]
fn what_a_token_grants_is_told() {
    let service = TokenService::start(&[]);
    let registry = Registry::start(&service.settings());
    let host = &registry.address;
    let [private, public] = ["team/", PUBLIC].map(|place| format!("{host}/{place}app:1"));
    let (project, _) = small();
    let out = logged_in(&project, host, &["auth", "check", "--push", &private]);
    out.expect(0);
    assert_eq!(row(&out, "login"), USER);
    assert_eq!(row(&out, "pull"), "granted; there is no such image yet");
    assert_eq!(row(&out, "push"), "granted");
    logged_in(&project, host, &["push", IMAGE, &public]).expect(0);

    // Anyone may read what is public, and nobody else writes.
    let out = project.imgbuild(&["auth", "check", &public]);
    out.expect(0);
    assert_eq!(row(&out, "pull"), "granted");
    assert!(row(&out, "push").starts_with("denied: HTTP status 401"));
    let out = project.imgbuild(&["auth", "check", &private]);
    out.expect(3);
    for grant in ["pull", "push"] {
        let denied = row(&out, grant);
        assert!(denied.starts_with("denied: HTTP status 401"), "{denied}");
    }
}

#[test]
fn a_token_that_ends_in_the_middle_of_a_push_is_renewed() {
    const LIFE: u64 = 4;
    let service = TokenService::start(&[LIFE]);
    let registry = Registry::start(&service.settings());
    let (first, is_upload) = (AtomicBool::new(true), |request: &str| {
        request.starts_with("PUT ") && request.contains("/blobs/")
    });
    // The first layer that is sent arrives when its token has ended.
    let proxy = Faulty::faulty_proxy(&registry.address, move |request| {
        if is_upload(request) && first.swap(false, Ordering::SeqCst) {
            thread::sleep(Duration::from_secs(LIFE + 2));
        }
        Fault::Fine
    });
    let (project, digest) = small();
    let reference = format!("{}/team/app:1", proxy.address());
    logged_in(&project, proxy.address(), &["push", IMAGE, &reference]).expect(0);
    assert_eq!(service.asked().len(), 2, "{:?}", service.asked());
    assert_eq!(inspect(&format!("{}/team/app:1", registry.address)), digest);
    let mut uploads = proxy.log();
    uploads.retain(|line| is_upload(line));
    uploads.sort();
    let sent = uploads.len();
    uploads.dedup();
    assert!(sent > uploads.len(), "the body is sent again: {uploads:?}");
}
