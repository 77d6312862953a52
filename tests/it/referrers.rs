//! Attached documents in registries that list referrers, and in those whose list is a tag.

use serde_json::Value;

use crate::{
    mini::{command, env},
    strict::{Listing, RIVAL, Rules, Strict},
    support::{Project, channel},
};

const IMAGE: &str = "train:dev";
const TYPES: [&str; 2] = ["application/spdx+json", "application/vnd.in-toto+json"];

fn small() -> (Project, String) {
    let project = Project::new(&env(channel(), &["hello-demo=1.0"]));
    let build = ["build", "env.yml", "--base", "scratch", "-t", IMAGE];
    let digest = project.ok(&build).digest().to_owned();
    (project, digest)
}

fn name(registry: &Strict) -> String {
    format!("{}/team/app:1", registry.address)
}

/// Where something was put so far.
fn writes(registry: &Strict) -> Vec<String> {
    let puts = registry.seen("PUT").into_iter();
    puts.map(|put| put.path).collect()
}

fn is_list(path: &str) -> bool {
    path.contains("/manifests/sha256-")
}

/// What the list of an image's referrers under a tag says of each of them.
fn listed(registry: &Strict, digest: &str, field: &str) -> Vec<String> {
    let tag = digest.replace(':', "-");
    let index = registry.manifest("team/app", &tag).unwrap();
    let entries = index["manifests"].as_array().unwrap().iter();
    let said = entries.filter_map(|entry: &Value| entry[field].as_str());
    said.map(str::to_owned).collect()
}

#[test]
fn a_registry_that_lists_referrers_gets_no_tag() {
    let (project, digest) = small();
    for listing in [Listing::Pages, Listing::Late] {
        let registry = Strict::start(Rules {
            referrers: Some(listing),
            ..Rules::default()
        });
        let name = name(&registry);
        let push = ["push", IMAGE, &name, "--sbom", "--provenance"];
        project.ok(&push);
        let first = writes(&registry);
        assert!(!first.iter().any(|path| is_list(path)), "{first:?}");
        let tagged = registry.manifest("team/app", "1").unwrap();
        assert_eq!(tagged, registry.manifest("team/app", &digest).unwrap());
        // Once more: what is listed is not sent again, whatever page it is on.
        project.ok(&push);
        let mut again = writes(&registry).split_off(first.len());
        assert!(!again.iter().any(|path| is_list(path)), "{again:?}");
        // This registry does not say what its manifests' digests are.
        again.retain(|path| !path.ends_with(&digest) && !path.ends_with("/manifests/1"));
        assert_eq!(again.is_empty(), listing == Listing::Pages, "{again:?}");
        if listing == Listing::Pages {
            let attached = Project::new("").ok(&["sbom", &name]);
            assert_eq!(attached.stdout, project.ok(&["sbom", IMAGE]).stdout);
        }
    }
}

#[test]
fn another_writer_of_the_list_loses_nothing() {
    let (project, digest) = small();
    // Before the list is there, and when it is.
    for rival in [0, 1] {
        let registry = Strict::start(Rules {
            etags: true,
            rival: Some(rival),
            ..Rules::default()
        });
        project.ok(&["push", IMAGE, &name(&registry), "--sbom", "--provenance"]);
        assert_eq!(listed(&registry, &digest, "artifactType"), TYPES);
        let digests = listed(&registry, &digest, "digest");
        assert_eq!(digests.len(), 3, "{digests:?}");
        assert!(digests.iter().any(|digest| digest == RIVAL));
        let lists = writes(&registry).into_iter().filter(|path| is_list(path));
        assert_eq!(lists.count(), 3, "one was refused");
    }
}

#[test]
fn two_who_attach_at_once_are_both_listed() {
    let (project, digest) = small();
    let registry = Strict::start(Rules {
        etags: true,
        ..Rules::default()
    });
    let name = name(&registry);
    project.ok(&["push", IMAGE, &name]);
    let children = ["--sbom", "--provenance"].map(|document| {
        let mut push = command(&project, &["push", IMAGE, &name, document]);
        push.spawn().unwrap()
    });
    for child in children {
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
    }
    let mut types = listed(&registry, &digest, "artifactType");
    types.sort();
    assert_eq!(types, TYPES);
}
