//! `imgbuild diff` on real locks, images and plans.

use std::fs;

use serde_json::{Value, json};

use crate::{
    mini::{base, command, env},
    support::{Project, channel, fixture, run},
};

const OLD: [&str; 2] = ["hello-demo=1.0", "generic-demo"];
const NEW: [&str; 2] = ["hello-demo=1.1", "names-demo=1.1"];

/// A project with `old.lock.yml` and `new.lock.yml`, and images `old` and `new` of them.
fn project() -> Project {
    project_with(&[])
}

/// The same with more packages in both.
fn project_with(more: &[&str]) -> Project {
    let project = Project::new("channels: []\ndependencies: []\n");
    let with_more = |packages: &[&str]| env(channel(), &[packages, more].concat());
    project.write("code/train.py", "print(1)\n");
    for (name, packages, base) in [("old", OLD, "scratch"), ("new", NEW, base().as_str())] {
        project.write(&format!("{name}.yml"), &with_more(&packages));
        let file = format!("{name}.yml");
        let args = ["build", &file, "-t", name, "--base", base, "--code", "code"];
        project.ok(&args);
        let plan = project.ok(&[&args[..], &["--dry-run", "--format", "json"]].concat());
        project.write(&format!("{name}.json"), &plan.stdout);
    }
    project
}

fn diff(project: &Project, left: &str, right: &str) -> Value {
    let output = project.ok(&["diff", left, right, "--format", "json"]);
    serde_json::from_str(&output.stdout).unwrap()
}

/// What is said of packages, a word for each.
fn packages(diff: &Value) -> Vec<String> {
    let changes = diff["packages"].as_array().unwrap().iter();
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    changes
        .map(|change| format!("{} {}", word(&change["change"]), word(&change["name"])))
        .collect()
}

#[test]
fn every_kind_compares_with_every_kind() {
    let project = project_with(&["python=3.11", "click"]);
    let olds = ["old.lock.yml", "old", "old.json"];
    let news = ["new.lock.yml", "new", "new.json"];
    let expected = [
        "removed generic-demo",
        "version hello-demo",
        "added names-demo",
    ];
    for left in olds {
        for right in news {
            let found = diff(&project, left, right);
            assert_eq!(packages(&found), expected, "{left} {right}");
            assert_eq!(
                (&found["version"], &found["same"]),
                (&json!(1), &json!(false))
            );
            // Mirrored.
            let back = diff(&project, right, left);
            assert_eq!(found["totals"]["added"], back["totals"]["removed"]);
        }
        for other in olds {
            let found = diff(&project, left, other);
            assert_eq!(packages(&found), [""; 0], "{left} {other}");
            let facts = found["facts"].as_array().unwrap();
            assert_eq!(facts, &[] as &[Value], "{left} {other}");
            let layers = &found["layers"];
            if !layers.is_null() {
                assert_eq!(
                    (&layers["added"], &layers["removed"]),
                    (&json!([]), &json!([]))
                );
            }
            assert_eq!(found["same"], true, "{left} {other}");
        }
    }
}

#[test]
fn locks_tell_what_they_are_of() {
    let project = project();
    let found = diff(&project, "old.lock.yml", "new.lock.yml");
    let facts = found["facts"].as_array().unwrap();
    let names: Vec<&str> = facts.iter().map(|f| f["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["digest", "name"]);
    let size = |file: &str| {
        let channel = fixture("IMGBUILD_TEST_CHANNEL_DIR");
        fs::metadata(channel.join(file)).unwrap().len()
    };
    let download =
        size("linux-64/hello-demo-1.1-0.conda") + size("linux-64/names-demo-1.1-0.conda");
    assert_eq!(found["totals"]["download_bytes"], download);
    assert_eq!(found["totals"]["changed"], 1);
    let text = project.ok(&["diff", "old.lock.yml", "new.lock.yml"]).stdout;
    insta::with_settings!({filters => vec![(r"sha256:[0-9a-f]{64}", "DIGEST")]}, {
        insta::assert_snapshot!(text);
    });
}

#[test]
fn another_tools_lock_is_read() {
    let project = project();
    let lock = fs::read_to_string(project.path("old.lock.yml")).unwrap();
    let mut list = "@EXPLICIT\n".to_owned();
    let mut url = "";
    for line in lock.lines() {
        let line = line.trim().trim_start_matches("- ");
        if let Some(found) = line.strip_prefix("conda: ") {
            url = found;
        } else if let Some(sha256) = line.strip_prefix("sha256: ") {
            list.push_str(&format!("{url}#sha256:{sha256}\n"));
        }
    }
    project.write("list.txt", &list);
    let found = diff(&project, "old.lock.yml", "list.txt");
    assert_eq!(packages(&found), [""; 0]);
    assert_eq!(found["topics"], json!(["channels"]));
    let found = diff(&project, "list.txt", "new");
    assert_eq!(found["totals"]["changed"], 1);
}

#[test]
fn images_compare_wherever_they_are() {
    let project = project();
    let registry = fixture("IMGBUILD_TEST_REGISTRY");
    let pushed = format!("{}/diffed/{}:1", registry.display(), std::process::id());
    project.ok(&["push", "old", &pushed]);
    let output = [
        "-o",
        "type=oci,dest=layout",
        "-o",
        "type=docker-archive,dest=image.tar",
    ];
    let build = ["build", "old.yml", "--base", "scratch", "--code", "code"];
    project.ok(&[&build[..], &output].concat());
    for same in ["oci:layout", &pushed] {
        let found = diff(&project, "old", same);
        assert_eq!(found["same"], true, "{same}: {found}");
    }
    // Archives for Docker have the layers unpacked.
    let found = diff(&project, "old", "docker-archive:image.tar");
    assert_eq!(packages(&found), [""; 0]);
    for moved in ["added", "removed"] {
        assert_eq!(found["layers"][moved], json!([]), "{found}");
    }
    // Another cache has none of it: layers that both have are not fetched, the others are.
    let elsewhere = Project::new("channels: []\ndependencies: []\n");
    elsewhere.ok(&["diff", &pushed, &pushed]);
    let blobs = || {
        fs::read_dir(elsewhere.cache.join("blobs/sha256"))
            .unwrap()
            .count()
    };
    assert_eq!(blobs(), 2, "a manifest and a config");
    let lock = project.path("new.lock.yml").display().to_string();
    let found = diff(&elsewhere, &pushed, &lock);
    assert_eq!(found["totals"]["changed"], 1, "{found}");
    assert!(blobs() > 2);
}

#[test]
fn what_a_daemon_holds_compares() {
    let project = project();
    let daemon = fixture("DOCKER_HOST");
    let with_daemon = |args: &[&str]| {
        let mut command = command(&project, args);
        let output = project.output(command.env("DOCKER_HOST", &daemon));
        output.expect(0);
        output.stdout
    };
    let name = format!("diffed-{}:1", std::process::id());
    let load = [
        "build", "old.yml", "--base", "scratch", "--code", "code", "--load",
    ];
    // Every engine takes gzip.
    with_daemon(&[&load[..], &["--compression", "gzip", "-t", &name]].concat());
    let loaded = format!("docker-daemon:{name}");
    let found = with_daemon(&["diff", "old", &loaded, "--format", "json"]);
    let found: Value = serde_json::from_str(&found).unwrap();
    let mut docker = std::process::Command::new("docker");
    run(docker
        .env("DOCKER_HOST", &daemon)
        .args(["rmi", "-f", &name]));
    // A daemon keeps layers unpacked.
    assert_eq!(packages(&found), [""; 0]);
    assert_eq!(found["facts"], json!([]));
    assert_eq!(found["layers"]["added"], json!([]));
    assert_eq!(found["layers"]["removed"], json!([]));
}

#[test]
fn the_status_tells_only_when_asked() {
    let project = project();
    let status = |args: &[&str]| project.imgbuild(&[&["diff"], args].concat()).status;
    assert_eq!(status(&["old", "new"]), 0);
    assert_eq!(status(&["old", "new", "--exit-code"]), 6);
    assert_eq!(status(&["old", "old", "--exit-code"]), 0);
    let says = |args: &[&str]| {
        let output = project.imgbuild(&[&["diff"], args].concat());
        output.expect(2);
        output.stderr
    };
    assert!(says(&["old.yml", "new"]).contains("neither a lock nor a plan"));
    assert!(says(&["code", "new"]).contains("oci:code"));
    assert!(says(&["no.lock.yml", "new"]).contains("there is no file no.lock.yml"));
    let plan = fs::read_to_string(project.path("new.json")).unwrap();
    project.write(
        "v9.json",
        &plan.replacen("\"version\": 1", "\"version\": 9", 1),
    );
    assert!(says(&["v9.json", "new"]).contains("its version is 9"));
    project.write("half.json", "{\"version\": 1, \"layers\": []}");
    assert!(says(&["half.json", "new"]).contains("is no plan"));
    let offline = project.imgbuild(&["diff", "registry.invalid/x:1", "new", "--offline"]);
    offline.expect(3);
    assert!(offline.stderr.contains("--offline"), "{}", offline.stderr);
}
