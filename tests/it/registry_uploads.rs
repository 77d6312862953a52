//! Uploads that are cut, refused, sent elsewhere, or meet a registry that is busy or hangs.

use crate::{
    faulty::{Fault, Faulty},
    mini::{command, env},
    strict::{Rules, Seen, Strict},
    support::{Output, Project, channel, fixture},
};

const IMAGE: &str = "train:dev";
const MIB: usize = 1 << 20;

/// An image whose largest layer has three million bytes that do not compress.
fn project() -> (Project, String) {
    let project = Project::new(&env(channel(), &["hello-demo=1.0"]));
    let mut word = 1u32;
    let noise = (0..3_000_000).map(|_| {
        word ^= word << 13;
        word ^= word >> 17;
        word ^= word << 5;
        word as u8
    });
    std::fs::create_dir_all(project.path("code")).unwrap();
    std::fs::write(project.path("code/noise"), noise.collect::<Vec<u8>>()).unwrap();
    let build = ["build", "env.yml", "--code", "code", "--base", "scratch"];
    let digest = project
        .ok(&[&build[..], &["-t", IMAGE]].concat())
        .digest()
        .to_owned();
    (project, digest)
}

fn push(project: &Project, server: &str, more: &[&str]) -> Output {
    let reference = format!("{server}/team/app:1");
    project.imgbuild(&[&["push", IMAGE, &reference], more].concat())
}

/// Where a part begins and how long it is.
fn parts(seen: &[Seen]) -> Vec<(usize, usize)> {
    let part = |seen: &Seen| {
        let (from, _) = seen.headers["content-range"].split_once('-').unwrap();
        (from.parse().unwrap(), seen.body.len())
    };
    seen.iter().map(part).collect()
}

#[test]
fn after_a_cut_only_the_rest_is_sent() {
    let (project, digest) = project();
    let kept = 2 * MIB;
    let registry = Strict::start(Rules {
        cut: Some(kept),
        ..Rules::default()
    });
    let out = push(&project, &registry.address, &[]);
    out.expect(0);
    assert!(registry.has("team/app", &digest));
    assert!(out.stderr.contains("trying again"), "{}", out.stderr);
    let parts = parts(&registry.seen("PATCH"));
    let puts = registry.seen("PUT");
    let size = puts.iter().find(|put| put.body.len() == kept).unwrap();
    let size: usize = size.headers["content-length"].parse().unwrap();
    assert_eq!(parts, [(kept, size - kept)]);
    // Begun once: what the registry had was not sent again.
    let begun = registry.seen("POST").len();
    let closed = puts.iter().filter(|put| put.path.contains("digest="));
    assert_eq!(closed.count(), begun + 1);
}

#[test]
fn a_registry_that_limits_requests_gets_parts() {
    let (project, digest) = project();
    for (rules, most) in [
        (
            Rules {
                most: Some(2 * MIB),
                ..Rules::default()
            },
            MIB,
        ),
        (
            Rules {
                whole: Some(405),
                ..Rules::default()
            },
            16 * MIB,
        ),
        (
            Rules {
                whole: Some(416),
                ..Rules::default()
            },
            16 * MIB,
        ),
        (
            Rules {
                most: Some(3 * MIB / 2),
                least: Some(5 * MIB / 4),
                ..Rules::default()
            },
            5 * MIB / 4,
        ),
    ] {
        let registry = Strict::start(rules);
        let out = push(&project, &registry.address, &[]);
        out.expect(0);
        assert!(registry.has("team/app", &digest));
        let taken = parts(&registry.seen("PATCH"));
        let largest = taken
            .iter()
            .filter(|(from, _)| *from > 0)
            .map(|(_, size)| *size)
            .max();
        match most < 3 * MIB {
            true => assert_eq!(largest, Some(most), "{taken:?}"),
            false => assert_eq!(largest, None, "{taken:?}"),
        }
        assert!(!taken.is_empty());
    }
}

#[test]
fn a_login_is_not_shown_to_another_host() {
    let (project, digest) = project();
    for start in ["PUT /v2/team/app/blobs/uploads", "HEAD /v2/team/app/blobs"] {
        let other = Strict::start(Rules::default());
        let registry = Strict::start(Rules {
            elsewhere: Some((start, other.address.clone())),
            ..Rules::default()
        });
        let proxy = Faulty::faulty_proxy(&registry.address, |request| match request {
            "GET /v2/" => Fault::Status(401, "WWW-Authenticate: Basic realm=\"r\"\r\n"),
            _ => Fault::Fine,
        });
        // base64 of tester:secret
        let auth = "dGVzdGVyOnNlY3JldA==";
        let host = proxy.address();
        let config = format!("{{\"auths\": {{\"{host}\": {{\"auth\": \"{auth}\"}}}}}}");
        project.write("docker/config.json", &config);
        let reference = format!("{host}/team/app:1");
        let mut push = command(&project, &["push", IMAGE, &reference]);
        let out = project.output(push.env("DOCKER_CONFIG", project.path("docker")));
        for (server, shown) in [(&registry, true), (&other, false)] {
            let all = ["HEAD", "POST", "PUT"]
                .map(|method| server.seen(method))
                .concat();
            assert!(!all.is_empty(), "{start}: {}", out.stderr);
            let with = all
                .iter()
                .filter(|seen| seen.headers.contains_key("authorization"));
            assert_eq!(with.count(), if shown { all.len() } else { 0 }, "{start}");
        }
        out.expect(0);
        assert!(registry.has("team/app", &digest));
    }
}

fn debians() -> String {
    let address = fixture("IMGBUILD_TEST_REGISTRY");
    address.into_os_string().into_string().unwrap()
}

fn is_post(request: &str) -> bool {
    request.starts_with("POST ")
}

#[test]
fn a_busy_registry_says_when_to_come_again() {
    let (project, _) = project();
    let busy = std::sync::atomic::AtomicBool::new(true);
    let proxy = Faulty::faulty_proxy(&debians(), move |request| {
        match is_post(request) && busy.swap(false, std::sync::atomic::Ordering::SeqCst) {
            true => Fault::Status(429, "Retry-After: 2\r\n"),
            false => Fault::Fine,
        }
    });
    let reference = format!("{}/busy/{}:1", proxy.address(), std::process::id());
    let out = project.imgbuild(&["push", IMAGE, &reference]);
    out.expect(0);
    assert!(out.stderr.contains("trying again in 2 s"), "{}", out.stderr);

    let proxy = Faulty::faulty_proxy(&debians(), |request| match is_post(request) {
        true => Fault::Status(429, "Retry-After: 3600\r\n"),
        false => Fault::Fine,
    });
    let out = push(&project, proxy.address(), &[]);
    out.expect(3);
    for words in [
        "429",
        "it asks to come again in 3600 s",
        "hint: the registry limits",
    ] {
        assert!(out.stderr.contains(words), "{}", out.stderr);
    }
    assert!(!out.stderr.contains("trying again"), "{}", out.stderr);
}

#[test]
fn a_registry_that_hangs_is_noticed() {
    let (project, _) = project();
    let upload = |request: &str| request.starts_with("PUT ") && request.contains("/blobs/");
    let first = std::sync::atomic::AtomicBool::new(true);
    let proxy = Faulty::faulty_proxy(&debians(), move |request| {
        match upload(request) && first.swap(false, std::sync::atomic::Ordering::SeqCst) {
            true => Fault::Stall(50),
            false => Fault::Fine,
        }
    });
    let timeout = ["--registry-timeout", "2"];
    let reference = format!("{}/hung/{}:1", proxy.address(), std::process::id());
    let out = project.imgbuild(&[&["push", IMAGE, &reference], &timeout[..]].concat());
    out.expect(0);
    assert!(out.stderr.contains("silent for 2 s"), "{}", out.stderr);

    let proxy = Faulty::faulty_proxy(&debians(), |_| Fault::Stall(0));
    let out = push(&project, proxy.address(), &["--registry-timeout", "1"]);
    out.expect(3);
    for words in [
        "the registry was silent for 1 s",
        "tried 5 times",
        "--registry-timeout",
    ] {
        assert!(out.stderr.contains(words), "{}", out.stderr);
    }
}

#[test]
fn plain_http_is_spoken_where_it_is_asked_for() {
    let (project, _) = project();
    let proxy = Faulty::proxy(&debians());
    let host = "registry.example:5000";
    let reference = format!("{host}/plain/{}:1", std::process::id());
    let run = |more: &[&str]| {
        let args = [&["push", IMAGE, &reference], more].concat();
        let mut push = command(&project, &args);
        let variables = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"];
        let variables = variables.map(|name| (name, proxy.url.as_str()));
        project.output(push.envs(variables).env("NO_PROXY", "").env("no_proxy", ""))
    };
    run(&[]).expect(3);
    let http = |line: &String| line.contains(&format!(" http://{host}/"));
    assert!(!proxy.log().iter().any(http), "{:?}", proxy.log());
    run(&["--plain-http", "registry.example"]).expect(3);
    run(&["--plain-http", host]).expect(0);
    assert!(proxy.log().iter().any(http));
}
