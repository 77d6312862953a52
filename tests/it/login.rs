//! Logins for registries, wherever docker and podman keep them.

use std::{fs, path::Path, process::Command};

use crate::{
    mini::{command, env},
    support::{Output, Project, channel, fixture, run},
};

const IMAGE: &str = "train:dev";

fn registry() -> String {
    let address = fixture("IMGBUILD_TEST_REGISTRY_AUTH");
    address.into_os_string().into_string().unwrap()
}

fn project() -> Project {
    let project = Project::new(&env(channel(), &["hello-demo=1.0"]));
    let build = ["build", "env.yml", "--base", "scratch", "-t", IMAGE];
    project.ok(&build);
    project
}

/// Logs in as another tool does.
fn skopeo_login(file: &Path, registry: &str) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let mut skopeo = Command::new("skopeo");
    skopeo.args([
        "login",
        "--tls-verify=false",
        "-u",
        "tester",
        "-p",
        "secret",
    ]);
    run(skopeo.arg("--authfile").arg(file).arg(registry));
}

fn push(project: &Project, reference: &str, variables: &[(&str, &Path)]) -> Output {
    let mut push = command(project, &["push", IMAGE, reference]);
    project.output(push.envs(variables.iter().copied()))
}

#[test]
fn podmans_logins_are_found() {
    let (registry, project) = (registry(), project());
    let reference = format!("{registry}/login/{}:1", std::process::id());
    push(&project, &reference, &[]).expect(3);
    let named = project.path("named.json");
    skopeo_login(&named, &registry);
    push(&project, &reference, &[("REGISTRY_AUTH_FILE", &named)]).expect(0);
    let session = project.path("run");
    skopeo_login(&session.join("containers/auth.json"), &registry);
    push(&project, &reference, &[("XDG_RUNTIME_DIR", &session)]).expect(0);
    let config = project.path("config");
    skopeo_login(&config.join("containers/auth.json"), &registry);
    push(&project, &reference, &[("XDG_CONFIG_HOME", &config)]).expect(0);
}

#[test]
fn dockers_login_comes_first_and_a_repositorys_before_its_hosts() {
    let (registry, project) = (registry(), project());
    let name = format!("{registry}/login-narrow/{}", std::process::id());
    // base64 of tester:wrong and of tester:secret
    let entry = |good: bool| match good {
        true => r#"{"auth": "dGVzdGVyOnNlY3JldA=="}"#,
        false => r#"{"auth": "dGVzdGVyOndyb25n"}"#,
    };
    let podman = project.path("podman.json");
    skopeo_login(&podman, &registry);
    let docker = project.path("docker");
    let variables = [
        ("REGISTRY_AUTH_FILE", podman.as_path()),
        ("DOCKER_CONFIG", docker.as_path()),
    ];
    for (host, repository, status) in [
        (false, None, 3),
        (false, Some(true), 0),
        (true, Some(false), 3),
    ] {
        let mut auths = format!("\"{registry}\": {}", entry(host));
        if let Some(good) = repository {
            auths += &format!(", \"{name}\": {}", entry(good));
        }
        project.write("docker/config.json", &format!("{{\"auths\": {{{auths}}}}}"));
        let out = push(&project, &format!("{name}:1"), &variables);
        out.expect(status);
        assert!(!out.stderr.contains("secret"), "{}", out.stderr);
    }
}
