//! Base images from registries that send them from elsewhere, or that send or say what is not so.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::{
    faulty::{Fault, Faulty},
    mini::{command, env},
    strict::{Answer, Rules, Strict},
    support::{Image, Output, Project, channel},
};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An image, pushed to registries as `team/base:1`.
fn pushed(registries: &[&Strict]) -> Image {
    let project = Project::new(&env(channel(), &["hello-demo=1.0"]));
    let image = project.build(&["--base", "scratch", "-t", "base:1"]);
    for registry in registries {
        project.ok(&["push", "base:1", &name(&registry.address)]);
    }
    image
}

fn name(host: &str) -> String {
    format!("{host}/team/base:1")
}

/// A project over that base, which has another prefix.
fn project() -> Project {
    Project::new(&env(channel(), &["links-demo"]))
}

fn build(host: &str) -> [String; 6] {
    let base = name(host);
    [
        "build",
        "env.yml",
        "--prefix",
        "/opt/other",
        "--base",
        &base,
    ]
    .map(str::to_owned)
}

fn run(project: &Project, host: &str) -> Output {
    let words = build(host);
    project.imgbuild(&words.each_ref().map(String::as_str))
}

#[test]
fn blobs_come_from_another_host_which_sees_no_login() {
    let other = Strict::start(Rules::default());
    let registry = Strict::start(Rules {
        elsewhere: Some(("GET /v2/team/base/blobs", other.address.clone())),
        ..Rules::default()
    });
    let image = pushed(&[&registry, &other]);
    let proxy = Faulty::faulty_proxy(&registry.address, |request| match request {
        "GET /v2/" => Fault::Status(401, "WWW-Authenticate: Basic realm=\"r\"\r\n"),
        _ => Fault::Fine,
    });
    let project = project();
    // base64 of tester:secret
    let auths = serde_json::json!({"auths": {proxy.address(): {"auth": "dGVzdGVyOnNlY3JldA=="}}});
    project.write("docker/config.json", &auths.to_string());
    let words = build(proxy.address());
    let mut build = command(&project, &words.each_ref().map(String::as_str));
    let out = project.output(build.env("DOCKER_CONFIG", project.path("docker")));
    out.expect(0);
    let asked = |server: &Strict| {
        let mut gets = server.seen("GET");
        gets.retain(|get| get.path.starts_with("/v2/team/base/blobs/"));
        gets
    };
    let (first, second) = (asked(&registry), asked(&other));
    assert_eq!(second.len(), image.layers.len() + 1, "the config as well");
    assert_eq!(first.len(), second.len());
    let login = |get: &crate::strict::Seen| get.headers.contains_key("authorization");
    assert!(first.iter().all(login));
    assert!(!second.iter().any(login));
}

/// A fault in what is answered to a path that ends like this, and what is said of it.
struct Lie {
    path: String,
    alter: fn(&mut Answer),
    words: Vec<String>,
}

fn garbled(Answer(_, _, body): &mut Answer) {
    *body.last_mut().unwrap() ^= 1;
}

fn lies(image: &Image) -> Vec<Lie> {
    let layer = image.layers[0].digest.clone();
    let config = image.manifest["config"]["digest"].as_str().unwrap();
    let named = |digest: &str, alter, words: &[&str]| Lie {
        path: digest.to_owned(),
        alter,
        words: words.iter().map(|word| (*word).to_owned()).collect(),
    };
    let manifest = "/manifests/1";
    let another = "the registry says that the manifest is sha256:0000";
    vec![
        named(&layer, garbled, &[&layer]),
        named(config, garbled, &[config]),
        named(
            manifest,
            |Answer(_, headers, _)| headers.push(("Content-Type", INDEX.to_owned())),
            &[&format!(
                "the registry says that the manifest is {INDEX}, and it says itself"
            )],
        ),
        named(
            manifest,
            |Answer(_, headers, _)| {
                let digest = format!("sha256:{}", "0".repeat(64));
                headers.push(("Docker-Content-Digest", digest));
            },
            &[another, &format!("sends {}", image.digest)],
        ),
    ]
}

#[test]
fn what_is_not_so_is_told_and_not_kept() {
    let image = pushed(&[]);
    for Lie { path, alter, words } in lies(&image) {
        let (project, lying) = (project(), Arc::new(AtomicBool::new(false)));
        let (now, end) = (lying.clone(), path.clone());
        let registry = Strict::start(Rules {
            alter: Some(Arc::new(move |request, answer| {
                let meant = request.starts_with("GET ") && request.ends_with(&end);
                if meant && now.load(Ordering::SeqCst) {
                    alter(answer);
                }
            })),
            ..Rules::default()
        });
        pushed(&[&registry]);
        lying.store(true, Ordering::SeqCst);
        let out = run(&project, &registry.address);
        out.expect(3);
        for word in words {
            assert!(out.stderr.contains(&word), "{path}: {}", out.stderr);
        }
        let error = out.stderr.find("error: ").unwrap();
        let lines = out.stderr[error..].lines().count();
        assert!(lines <= 4, "{path}: {}", out.stderr);
        project.ok(&["cache", "verify"]);
        lying.store(false, Ordering::SeqCst);
        run(&project, &registry.address).expect(0);
    }
}
