//! Registries that want a token for everything.

use crate::{
    mini::{command, env},
    strict::{Rules, Strict, Tokens},
    support::{Output, Project, channel},
};

const IMAGE: &str = "train:dev";

fn registry(until: Option<&'static str>, grants: fn(&str) -> Option<String>) -> Strict {
    Strict::start(Rules {
        tokens: Some(Tokens { until, grants }),
        ..Rules::default()
    })
}

fn all(scope: &str) -> Option<String> {
    Some(scope.to_owned())
}

fn project() -> (Project, String) {
    let project = Project::new(&env(channel(), &["hello-demo=1.0", "links-demo"]));
    let build = ["build", "env.yml", "--base", "scratch", "-t", IMAGE];
    let digest = project.ok(&build).digest().to_owned();
    (project, digest)
}

fn name(registry: &Strict, repository: &str) -> String {
    format!("{}/{repository}:1", registry.address)
}

/// The scopes of each token that was asked for.
fn asked(registry: &Strict) -> Vec<String> {
    let gets = registry.seen("GET");
    let queries = gets
        .iter()
        .filter_map(|seen| seen.path.strip_prefix("/token?"));
    let decoded = |query: &str| {
        query
            .replace("%3A", ":")
            .replace("%2F", "/")
            .replace("%2C", ",")
    };
    queries.map(decoded).collect()
}

/// Blobs that were sent.
fn blobs(registry: &Strict) -> usize {
    let puts = registry.seen("PUT");
    puts.iter()
        .filter(|put| put.path.contains("/blobs/"))
        .count()
}

#[test]
fn a_mount_needs_one_token_for_both_repositories() {
    let (project, digest) = project();
    let registry = registry(None, all);
    let names = [name(&registry, "team/app"), name(&registry, "team/other")];
    project.ok(&["push", IMAGE, &names[0]]);
    let sent = blobs(&registry);
    let out = project.ok(&["push", IMAGE, &names[0], &names[1]]);
    assert!(registry.has("team/other", &digest));
    let both = "scope=repository:team/other:pull,push&scope=repository:team/app:pull";
    let asked = asked(&registry);
    assert!(asked.last().unwrap().ends_with(both), "{asked:?}");
    assert_eq!(blobs(&registry), sent, "{}", out.stderr);
    assert!(
        out.stderr.contains("0 uploaded, 4 mounted, "),
        "{}",
        out.stderr
    );
}

#[test]
fn a_token_that_ends_in_the_middle_is_renewed() {
    let (project, digest) = project();
    let registry = registry(Some("PUT"), all);
    project.ok(&["push", IMAGE, &name(&registry, "team/app")]);
    assert!(registry.has("team/app", &digest));
    // One before anything was sent, and one that those who were sending got between them.
    assert_eq!(asked(&registry).len(), 2, "{:?}", asked(&registry));
    assert!(blobs(&registry) > 4, "bodies are sent again");
}

fn check(project: &Project, args: &[&str]) -> Output {
    project.output(&mut command(project, &[&["auth", "check"], args].concat()))
}

#[test]
fn what_a_token_does_not_grant_is_told() {
    let (project, _) = project();
    let less: fn(&str) -> Option<String> = |scope| Some(scope.replace(":pull,push", ":pull"));
    let none: fn(&str) -> Option<String> =
        |scope| Some(scope.to_owned()).filter(|scope| !scope.ends_with("push"));
    for (grants, why) in [
        (less, "denied: HTTP status 401"),
        (none, "denied: the login was refused"),
    ] {
        let registry = registry(None, grants);
        let reference = name(&registry, "team/app");
        let out = check(&project, &[&reference]);
        out.expect(0);
        assert!(
            out.stdout.contains("pull        granted; "),
            "{}",
            out.stdout
        );
        assert!(
            out.stdout.contains(&format!("push        {why}")),
            "{}",
            out.stdout
        );
        check(&project, &[&reference, "--push"]).expect(3);
    }
    let registry = registry(None, all);
    let out = check(&project, &[&name(&registry, "team/app"), "--push"]);
    out.expect(0);
    assert!(
        out.stdout.ends_with("push        granted\n"),
        "{}",
        out.stdout
    );
}
