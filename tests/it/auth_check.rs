//! `imgbuild auth check`: who one is, where that stands, and what is granted.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::{
    faulty::{Fault, Faulty},
    mini::{command, env},
    support::{Output, Project, channel, fixture, write_program},
};

fn address(name: &str) -> String {
    fixture(name).display().to_string()
}

fn open() -> String {
    address("IMGBUILD_TEST_REGISTRY")
}

fn private() -> String {
    address("IMGBUILD_TEST_REGISTRY_AUTH")
}

fn project() -> Project {
    Project::new(&env(channel(), &["hello-demo=1.0"]))
}

fn name(registry: &str, what: &str) -> String {
    format!("{registry}/auth-check/{}-{what}:1", std::process::id())
}

fn check(project: &Project, args: &[&str], variables: &[(&str, &Path)]) -> Output {
    let mut check = command(project, &[&["auth", "check"], args].concat());
    let out = project.output(check.envs(variables.iter().copied()));
    assert!(!format!("{}{}", out.stdout, out.stderr).contains("secret"));
    out
}

fn row<'o>(out: &'o Output, name: &str) -> &'o str {
    let row = out.stdout.lines().find_map(|line| line.strip_prefix(name));
    row.unwrap_or_else(|| panic!("{name}: {}{}", out.stdout, out.stderr))
        .trim()
}

#[test]
fn anyone_may_use_an_open_registry() {
    let project = project();
    let proxy = Faulty::proxy(&open());
    let reference = name(proxy.address(), "open");
    let out = check(&project, &[&reference, "--push"], &[]);
    out.expect(0);
    assert_eq!(row(&out, "login"), "nobody (no login for it was found)");
    assert_eq!(row(&out, "pull"), "granted; there is no such image yet");
    assert_eq!(row(&out, "push"), "granted");
    // The upload that was begun does not stay.
    let log = proxy.log();
    let count = |method: &str| log.iter().filter(|line| line.starts_with(method)).count();
    assert_eq!((count("POST "), count("DELETE ")), (1, 1), "{log:?}");
    let build = [
        "build", "env.yml", "--base", "scratch", "-t", &reference, "--push",
    ];
    project.ok(&build);
    let out = check(&project, &[&reference], &[]);
    assert_eq!(row(&out, "pull"), "granted");
}

#[test]
fn a_private_registry_knows_who_one_is() {
    let (project, registry) = (project(), private());
    let reference = name(&registry, "private");
    let out = check(&project, &[&reference], &[]);
    out.expect(3);
    for grant in ["pull", "push"] {
        assert!(
            row(&out, grant).starts_with("denied: HTTP status 401"),
            "{}",
            out.stdout
        );
    }
    // base64 of tester:secret and of tester:wrong
    let file = project.path("docker/config.json");
    let variables = [("DOCKER_CONFIG", file.parent().unwrap())];
    for (auth, status, grant) in [
        ("dGVzdGVyOnNlY3JldA==", 0, "granted"),
        ("dGVzdGVyOndyb25n", 3, "denied: HTTP status 401"),
    ] {
        let auths = json!({"auths": {&registry: {"auth": auth}}});
        project.write("docker/config.json", &auths.to_string());
        let out = check(&project, &[&reference, "--push"], &variables);
        out.expect(status);
        assert_eq!(row(&out, "login"), "tester");
        let source = format!("{}, auths \"{registry}\"", file.display());
        assert_eq!(row(&out, "from"), source);
        assert!(row(&out, "pull").starts_with(grant), "{}", out.stdout);
        assert!(row(&out, "push").starts_with(grant), "{}", out.stdout);
    }
}

#[test]
fn a_helper_is_named_and_one_that_is_absent_is_a_warning() {
    let (project, registry) = (project(), private());
    let reference = name(&registry, "helper");
    let helper = project.path("bin/docker-credential-imgbuildtest");
    // Reads its input to the end, as helpers do: one that has ended cannot be written to.
    let script = r#"#!/bin/sh
cat > /dev/null
echo '{"ServerURL": "x", "Username": "tester", "Secret": "secret"}'
"#;
    fs::create_dir_all(helper.parent().unwrap()).unwrap();
    write_program(&helper, script);
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", helper.parent().unwrap().display());
    let docker = project.path("docker");
    let variables = [
        ("DOCKER_CONFIG", docker.as_path()),
        ("PATH", Path::new(&path)),
    ];
    project.write("docker/config.json", r#"{"credsStore": "imgbuildtest"}"#);
    let out = check(&project, &[&reference], &variables);
    out.expect(0);
    let place = "docker-credential-imgbuildtest, its credsStore";
    assert!(row(&out, "from").ends_with(place), "{}", out.stdout);
    project.write("docker/config.json", r#"{"credsStore": "imgbuildabsent"}"#);
    let out = check(&project, &[&reference], &variables);
    out.expect(3);
    assert!(out.stderr.contains("cannot be run"), "{}", out.stderr);
    assert!(row(&out, "login").starts_with("nobody"));
}

#[test]
fn who_may_only_read_is_told_so() {
    let project = project();
    let proxy = Faulty::faulty_proxy(&open(), |line| match line.starts_with("POST ") {
        true => Fault::Status(403, ""),
        false => Fault::Fine,
    });
    let reference = name(proxy.address(), "read");
    let out = check(&project, &[&reference, "--format", "json"], &[]);
    out.expect(0);
    let told: Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!(told["pull"], json!({"answer": "no-image"}));
    assert_eq!(told["push"]["answer"], "denied");
    assert_eq!(told["login"], "anonymous");
    check(&project, &[&reference, "--push"], &[]).expect(3);
}

#[test]
fn what_is_no_registry_grants_nothing() {
    let project = project();
    let folder = Faulty::serve(&project.path("."), |_, _| Fault::Fine);
    for host in [folder.address(), "127.0.0.1:1"] {
        let out = check(&project, &[&name(host, "none")], &[]);
        out.expect(3);
        assert_eq!(out.stdout, "", "{host}");
        assert!(
            out.stderr.starts_with("error: cannot pull "),
            "{}",
            out.stderr
        );
    }
    check(&project, &["Not A Reference"], &[]).expect(2);
}
