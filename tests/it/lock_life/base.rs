//! The base image of a lock.

use std::{fs, process::Command};

use super::{HELLO, lock_text};
use crate::{
    mini::{Mini, base, env, layout_manifest},
    support::{Project, fixture, run},
};

/// The digest in the lock's line about the base image.
fn base_line(project: &Project) -> String {
    let text = lock_text(project);
    let line = text.lines().find(|line| line.contains("imgbuild: base"));
    line.unwrap().to_owned()
}

#[test]
fn a_local_base_is_known_by_its_bytes() {
    let mini = Mini::of(&[HELLO]);
    let project = Project::new(&env(&mini.url(), &["hello-demo"]));
    project.ok(&["lock", "env.yml"]);
    let (digest, _) = layout_manifest(&fixture("IMGBUILD_TEST_BASE"));
    assert_eq!(
        base_line(&project),
        format!("# imgbuild: base oci@{digest}")
    );
    let text = lock_text(&project);
    for file in ["linux-64", "noarch"] {
        // From here on no channel can be asked: only the base is renewed.
        fs::remove_file(mini.path().join(file).join("repodata.json")).unwrap();
    }

    // Another base, which this program made.
    let out = project.ok(&["build", "env.yml", "-o", "type=oci,dest=other"]);
    let other = ["--base", "oci:other"];
    let reason = format!("the base image changed from {digest} to {}", out.digest());
    let refused = project.imgbuild(&[&["build", "env.yml", "--locked"], &other[..]].concat());
    refused.expect(2);
    assert!(refused.stderr.contains(&reason), "{}", refused.stderr);
    assert_eq!(lock_text(&project), text);
    let checked = project.imgbuild(&[&["lock", "env.yml", "--locked"], &other[..]].concat());
    checked.expect(2);
    let built = project.ok(&[&["build", "env.yml"], &other[..]].concat());
    assert!(built.stderr.contains(&reason), "{}", built.stderr);
    assert!(
        built
            .stderr
            .contains(&format!("Updated base oci {digest} ->")),
        "{}",
        built.stderr
    );
    assert_eq!(lock_text(&project), text.replace(&digest, out.digest()));

    // A lock from before bases were locked, and no base at all.
    project.write("env.lock.yml", &text.replace(&base_line_of(&text), ""));
    let built = project.ok(&["build", "env.yml"]);
    assert!(
        built.stderr.contains("it does not lock the base image"),
        "{}",
        built.stderr
    );
    assert_eq!(lock_text(&project), text);
    project.ok(&["build", "env.yml", "--base", "scratch"]);
    assert!(!lock_text(&project).contains("imgbuild: base"));
}

fn base_line_of(text: &str) -> String {
    let line = text.lines().find(|line| line.contains("imgbuild: base"));
    format!("{}\n", line.unwrap())
}

fn copy_image(layout: &str, to: &str) {
    run(Command::new("skopeo").args([
        "copy",
        "--quiet",
        "--insecure-policy",
        "--dest-tls-verify=false",
        layout,
        &format!("docker://{to}"),
    ]));
}

#[test]
fn a_tag_that_moves_does_not_move_the_base() {
    let mini = Mini::of(&[HELLO]);
    let registry = fixture("IMGBUILD_TEST_REGISTRY");
    let name = format!(
        "{}/moving/base-{}:1",
        registry.display(),
        std::process::id()
    );
    copy_image(&base(), &name);
    let project = Project::new(&env(&mini.url(), &["hello-demo"]));
    project.write("imgbuild.yaml", &format!("base: {name}\n"));
    let first = project.ok(&["build", "env.yml", "-o", "type=oci,dest=out"]);
    let locked = base_line(&project);
    assert!(
        locked.starts_with(&format!("# imgbuild: base {name}@sha256:")),
        "{locked}"
    );
    let text = lock_text(&project);

    let moved = format!("oci:{}", project.path("out").display());
    copy_image(&moved, &name);
    let words = format!("{name} is {} by now", first.digest());
    for round in ["warm", "cold"] {
        if round == "cold" {
            fs::remove_dir_all(&project.cache).unwrap();
        }
        let again = project.ok(&["build", "env.yml", "--locked"]);
        assert_eq!(again.digest(), first.digest(), "{round}");
        assert!(again.stderr.contains(&words), "{}", again.stderr);
    }
    let offline = project.ok(&["build", "env.yml", "--locked", "--offline"]);
    assert!(!offline.stderr.contains("by now"), "{}", offline.stderr);
    for args in [&["lock", "env.yml", "--locked"][..], &["lock", "env.yml"]] {
        let out = project.ok(args);
        assert!(out.stderr.contains(&words), "{}", out.stderr);
        assert!(out.stderr.contains("--update-base"), "{}", out.stderr);
        assert_eq!(lock_text(&project), text);
    }
    let out = project.ok(&["lock", "env.yml", "--update-base"]);
    assert!(
        base_line(&project).ends_with(&format!("@{}", first.digest())),
        "{}",
        out.stderr
    );
    let out = project.ok(&["lock", "env.yml", "--locked"]);
    assert!(!out.stderr.contains("by now"), "{}", out.stderr);
    // Another name is another base, and nothing else is solved again.
    let other = name.replace(":1", ":2");
    copy_image(&base(), &other);
    let out = project.ok(&["build", "env.yml", "--base", &other]);
    assert!(
        out.stderr.contains(&format!("and not {other}")),
        "{}",
        out.stderr
    );
    assert_eq!(
        lock_text(&project).replace(&base_line(&project), ""),
        text.replace(&locked, "")
    );
}
