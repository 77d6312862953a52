//! What a plan says of changes: why a layer has to be built, and what a push would send.

use std::fs;

use serde_json::Value;

use super::{PACKAGES, dry, small};
use crate::{
    mini::{self, Mini},
    support::{Project, channel},
};

const TAG: &str = "train:dev";

/// A project over the test channel that was built as [`TAG`] already, over nothing.
fn built(packages: &[&str]) -> Project {
    let project = Project::new(&mini::env(channel(), packages));
    project.write("code/train.py", "print(1)\n");
    project.ok(&[&["build", "env.yml", "--code", "code"], &ARGS[..]].concat());
    project
}

const ARGS: [&str; 4] = ["--base", "scratch", "-t", TAG];

/// The layers that have a reason, as `title: reason`, as the text shows them.
fn reasons(plan: &Value) -> Vec<String> {
    let mut all = Vec::new();
    for layer in plan["layers"].as_array().unwrap() {
        let title = layer["title"].as_str().unwrap();
        let title = title.split(':').next_back().unwrap().trim();
        for why in layer["why"].as_array().unwrap() {
            let fields = why.as_object().unwrap().values();
            let words: Vec<&str> = fields.map(|v| v.as_str().unwrap()).collect();
            all.push(format!("{title}: {}", words.join(" ")));
        }
    }
    all
}

const STATE: &str = "conda history, activation: always";

#[test]
fn each_change_is_named() {
    let project = built(&["hello-demo=1.0", "generic-demo", "names-demo=1.1"]);
    let plan = || dry(&project, &ARGS);
    let unchanged = plan();
    assert_eq!(reasons(&unchanged), [STATE]);
    assert_eq!(unchanged["compared_with"]["name"], TAG);
    // All but the state's layer is there.
    assert_eq!(unchanged["sending"]["layers"], 1);
    assert_eq!(unchanged["sending"]["there_layers"], 4);

    project.write_env(&mini::env(channel(), &["hello-demo=1.1", "names-demo=1.1"]));
    project.write("code/train.py", "print(2)\n");
    project.ok(&["lock", "env.yml"]);
    let changed = plan();
    let said = [
        "hello-demo 1.1: changed hello-demo 1.0 1.1",
        STATE,
        "User code in /workspace: code",
    ];
    assert_eq!(reasons(&changed), said);
    assert_eq!(
        changed["gone"],
        serde_json::json!(["Conda packages: generic-demo 1.0"])
    );
    // The new package is not here: it may ship files of the others, though that is not expected.
    let state = |title: &str| {
        let mut layers = changed["layers"].as_array().unwrap().iter();
        let layer = layers.find(|layer| layer["title"].as_str().unwrap().contains(title));
        let layer = layer.unwrap();
        (
            layer["state"].as_str().unwrap(),
            layer["in_earlier"] == true,
        )
    };
    assert_eq!(state("names-demo"), ("expected", true));
    assert_eq!(state("hello-demo"), ("to-build", false));
    assert_eq!(changed["sending"]["there_layers"], 1);
    let text = project.ok(&[&super::DRY, &ARGS[..]].concat()).stdout;
    // How large the blob of that layer is, is compression's business.
    insta::with_settings!({filters => vec![(r"other 1, .*", "other 1, SIZE")]}, {
        insta::assert_snapshot!(text);
    });
}

#[test]
fn other_settings_are_named() {
    let project = built(&["hello-demo=1.1", "names-demo=1.1"]);
    let moved = dry(&project, &[&ARGS, &["--prefix", "/srv/env"][..]].concat());
    let moved = reasons(&moved);
    let prefix = |title: &str| format!("{title}: prefix /opt/conda /srv/env");
    assert!(moved.contains(&prefix("names-demo 1.1")), "{moved:?}");
    assert!(moved.contains(&prefix("hello-demo 1.1")), "{moved:?}");

    let plain = reasons(&dry(
        &project,
        &[&ARGS, &["--compression", "none"][..]].concat(),
    ));
    let none = "names-demo 1.1: compression zstd:1 none".to_owned();
    assert!(plain.contains(&none), "{plain:?}");

    // The base's own folder on the way to the prefix is repeated in a layer; scratch has none.
    let base = mini::base();
    let based = dry(&project, &["--base", &base, "-t", TAG]);
    let based = reasons(&based);
    let folders = "names-demo 1.1: base-folders".to_owned();
    assert!(based.contains(&folders), "{based:?}");
}

#[test]
fn another_python_is_named() {
    let project = built(&["python=3.9", "pip=26.0"]);
    project.write_env(&mini::env(channel(), &["python=3.11", "pip=26.0"]));
    project.ok(&["lock", "env.yml"]);
    let plan = dry(&project, &ARGS);
    let said = reasons(&plan);
    let pip = "pip 26.0.1: python 3.9 3.11".to_owned();
    assert!(said.contains(&pip), "{said:?}");
}

#[test]
fn what_is_compared_with_is_the_tag_then_the_last_build() {
    let mini = Mini::of(&PACKAGES);
    let project = small(&mini.url());
    let first = dry(&project, &ARGS);
    assert_eq!(first["compared_with"], Value::Null);
    assert!(reasons(&first).iter().any(|why| why.ends_with(": first")));

    let other = [
        "build", "env.yml", "--code", "code", "--base", "scratch", "-t", "other:1",
    ];
    let image = project.image(&project.ok(&other));
    let after = dry(&project, &ARGS);
    assert_eq!(after["compared_with"]["name"], "the last build of env.yml");
    assert_eq!(after["compared_with"]["digest"], image.digest.as_str());
    // Blobs are counted as they are; all of them are in that image.
    let sizes = image.manifest["layers"].as_array().unwrap().iter();
    let state = image
        .ours()
        .position(|layer| layer.title.starts_with("Environment"));
    let there: u64 = sizes
        .enumerate()
        .filter(|(index, _)| Some(*index) != state)
        .map(|(_, layer)| layer["size"].as_u64().unwrap())
        .sum();
    assert_eq!(after["sending"]["there_bytes"], there);
    assert_eq!(after["sending"]["estimated_layers"], 1);

    // The same file elsewhere is another one.
    let copy = small(&mini.url());
    assert_eq!(dry(&copy, &ARGS)["compared_with"], Value::Null);

    // A layer whose blob is gone is built again, and nothing else is the reason.
    for layer in image.ours().filter(|layer| layer.title.contains("hello")) {
        fs::remove_file(&layer.path).unwrap();
    }
    let said = reasons(&dry(&project, &ARGS));
    assert_eq!(said, ["hello-demo 1.0: gone", STATE]);

    // An image of which nothing was recorded is still one whose layers are there.
    fs::remove_dir_all(project.cache.join("recipes")).unwrap();
    let unknown = dry(&project, &ARGS);
    assert_eq!(unknown["compared_with"]["known"], false);
    assert_eq!(reasons(&unknown), [STATE]);
}
