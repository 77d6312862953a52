//! `imgbuild cache du`, `prune` and `verify`, and the bound.

use std::{
    fs::{self, File},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use serde_json::Value;

use super::{BUILD, names_in, project};
use crate::support::{Output, Project};

const DAY: u64 = 24 * 3600;

fn json(output: &Output) -> Value {
    serde_json::from_str(&output.stdout).unwrap()
}

fn du(project: &Project) -> Value {
    json(&project.ok(&["cache", "du", "--format", "json"]))
}

fn sum(du: &Value, kind: &str) -> (u64, u64) {
    let kinds = du["kinds"].as_array().unwrap();
    let found = kinds.iter().find(|of| of["kind"] == kind).unwrap();
    (
        found["count"].as_u64().unwrap(),
        found["bytes"].as_u64().unwrap(),
    )
}

/// Every file of the cache but the lock that it begins with.
fn files(project: &Project) -> Vec<PathBuf> {
    fn below(folder: PathBuf, all: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => below(path, all),
                false => all.push(path),
            }
        }
    }
    let mut all = Vec::new();
    below(project.cache.clone(), &mut all);
    all.retain(|path| *path != project.cache.join("lock"));
    all
}

/// Makes everything look as if it was last used so many days ago.
fn age(project: &Project, days: u64) {
    let then = SystemTime::now() - Duration::from_secs(days * DAY);
    for path in files(project) {
        File::open(path).unwrap().set_modified(then).unwrap();
    }
}

fn size(project: &Project) -> u64 {
    let sizes = files(project).into_iter();
    sizes.map(|path| fs::metadata(path).unwrap().len()).sum()
}

#[test]
fn du_adds_up() {
    let project = project();
    project.ok(&BUILD);
    let du = du(&project);
    assert_eq!(du["version"], 1);
    assert_eq!(du["folder"], project.cache.to_str().unwrap());
    assert_eq!(du["max_bytes"], Value::Null);
    assert_eq!(du["bytes"], size(&project));
    assert_eq!(sum(&du, "packages").0, 5);
    // 4 layers of packages and one of code, each with its record.
    assert_eq!(sum(&du, "layers").0, 10);
    // The fixture base's layer, its manifest, and its record.
    assert_eq!(sum(&du, "bases").0, 3);
    // The name, the manifest, the config, and the state's layer.
    assert_eq!(sum(&du, "images").0, 4);
    assert_eq!(sum(&du, "repodata").0, 1);
    assert_eq!(sum(&du, "unfinished"), (0, 0));
    let text = project.ok(&["cache", "du"]).stdout;
    assert!(text.starts_with("packages         5 "), "{text}");
    assert_eq!(text.lines().count(), 12);
}

#[test]
fn prune_keeps_what_is_named_or_recent() {
    let project = project();
    let digest = project.ok(&BUILD).digest().to_owned();
    let pruned = project.ok(&["cache", "prune"]);
    assert_eq!(pruned.stdout, "Freed 0 B\n");

    age(&project, 15);
    let before = size(&project);
    let dry = json(&project.ok(&["cache", "prune", "--dry-run", "--format", "json"]));
    assert_eq!(
        (&dry["dry_run"], size(&project)),
        (&Value::Bool(true), before)
    );
    let text = project.ok(&["cache", "prune", "--dry-run"]).stdout;
    assert!(
        text.contains("packages ") && text.contains("\nWould free "),
        "{text}"
    );
    let real = json(&project.ok(&["cache", "prune", "--format", "json"]));
    assert_eq!(real["things"], dry["things"]);
    assert_eq!(real["bytes"], before - size(&project));
    assert_eq!(names_in(&project, "packages"), [""; 0]);

    // The named image is whole, and its layers are used again.
    project.ok(&["cache", "verify"]);
    assert_eq!(names_in(&project, "layers").len(), 5);
    let again = project.ok(&BUILD);
    assert_eq!(again.digest(), digest);
    assert!(
        again.stderr.contains("Reusing 4 of 4 layers"),
        "{}",
        again.stderr
    );

    let all = project.ok(&["cache", "prune", "--all"]);
    assert!(
        all.stderr.contains("localhost/app:1 is named no more"),
        "{}",
        all.stderr
    );
    assert!(files(&project).is_empty());
    assert_eq!(project.ok(&BUILD).digest(), digest);
}

#[test]
fn prune_to_a_size_takes_the_least_recently_used() {
    let project = project();
    project.ok(&BUILD);
    age(&project, 3);
    // Another image over the same base, named apart; the first one's own layers are older now.
    project.write("code/main.py", "print('other')\n");
    project.ok(&["build", "env.yml", "-t", "localhost/other:1", "--code=code"]);
    let packages = names_in(&project, "packages").len();
    assert_eq!(packages, 5);
    let whole = size(&project);
    let bound = (whole - 1).to_string();
    project.ok(&["cache", "prune", "--max-size", &bound]);
    assert!(size(&project) < whole);
    // The oldest goes first, but what is known of packages.
    project.ok(&["cache", "verify"]);
    let bound = format!("{}kB", (whole - 20_000) / 1000);
    project.ok(&["cache", "prune", "--max-size", &bound]);
    assert_eq!(names_in(&project, "packages"), [""; 0]);
    project.ok(&["cache", "verify"]);
    let gone = project.imgbuild(&["push", "localhost/app:1"]);
    assert_eq!(gone.status, 2);
    assert!(
        gone.stderr
            .contains("imgbuild has no image 'localhost/app:1'"),
        "{}",
        gone.stderr
    );
    assert_eq!(names_in(&project, "images").len(), 1);
    let bad = project.imgbuild(&["cache", "prune", "--max-size", "5 apples"]);
    assert_eq!(bad.status, 2);
    assert!(
        bad.stderr.contains("such as 50GB or 50GiB"),
        "{}",
        bad.stderr
    );
}

#[test]
fn a_build_keeps_the_bound_and_its_image() {
    let bad = project().with_env("IMGBUILD_CACHE_MAX_SIZE", "much");
    let refused = bad.imgbuild(&BUILD);
    assert_eq!(refused.status, 2, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("IMGBUILD_CACHE_MAX_SIZE"),
        "{}",
        refused.stderr
    );

    // Smaller than the image.
    let project = project().with_env("IMGBUILD_CACHE_MAX_SIZE", "1MB");
    let built = project.ok(&BUILD);
    assert!(built.stderr.contains("Freed "), "{}", built.stderr);
    project.image(&built);
    project.ok(&["cache", "verify"]);
    assert_eq!(names_in(&project, "packages"), [""; 0]);
    assert_eq!(du(&project)["max_bytes"], 1_000_000);
    let first = names_in(&project, "layers");

    // Its own code goes when another image has the turn.
    project.write("code/main.py", "print('other')\n");
    let other = project.ok(&["build", "env.yml", "-t", "localhost/other:1", "--code=code"]);
    project.image(&other);
    assert_ne!(names_in(&project, "layers"), first);
    assert_eq!(names_in(&project, "images").len(), 1);
    project.ok(&["cache", "verify"]);
}

#[test]
fn verify_finds_what_is_damaged_and_the_next_build_makes_it_again() {
    let project = project();
    let digest = project.ok(&BUILD).digest().to_owned();
    let whole = project.ok(&["cache", "verify"]);
    assert!(whole.stdout.ends_with(": 0 damaged\n"), "{}", whole.stdout);
    for folder in [
        "blobs/sha256",
        "packages",
        "layers",
        "images",
        "surveys",
        "bases",
    ] {
        for name in names_in(&project, folder) {
            let path = project.cache.join(folder).join(&name);
            // A layer that was made in vain while packages came may be among them.
            let hashed =
                ["blobs/sha256", "packages"].map(|folder| names_in(&project, folder).len());
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            match folder {
                // Of the right size.
                "blobs/sha256" | "packages" => bytes[middle] ^= 1,
                _ => bytes.truncate(middle),
            }
            fs::write(&path, bytes).unwrap();
            let found = project.imgbuild(&["cache", "verify", "--format", "json"]);
            assert_eq!(found.status, 3, "{folder}/{name}");
            let found = json(&found);
            let damaged = found["damaged"].as_array().unwrap();
            let is_it = |damage: &Value| damage["path"] == path.to_str().unwrap();
            assert!(damaged.iter().any(is_it), "{folder}/{name}: {found}");
            assert_eq!(found["files"], hashed.iter().sum::<usize>());
            assert!(!path.exists(), "{folder}/{name}");
            project.ok(&["cache", "verify"]);
            let again = project.ok(&BUILD);
            assert_eq!(again.digest(), digest, "{folder}/{name}");
            project.image(&again);
            // Layers are there, so no package was needed: bring it back for the next round.
            project.ok(&["cache", "prune", "--all", "-q"]);
            project.ok(&BUILD);
        }
    }
}

/// What `.tar.bz2` packages say of themselves is kept; a build without it, or with half of it, gives
/// the same image and keeps it again.
#[test]
fn what_packages_say_of_themselves_may_be_lost() {
    let project = project();
    let digest = project.ok(&BUILD).digest().to_owned();
    let kept = names_in(&project, "infos");
    assert!(!kept.is_empty());
    let folder = |name: &str| project.cache.join(name);
    let again = || {
        for name in ["surveys", "layers"] {
            fs::remove_dir_all(folder(name)).unwrap();
            fs::create_dir(folder(name)).unwrap();
        }
        let output = project.ok(&BUILD);
        assert_eq!(output.digest(), digest);
        project.image(&output);
        assert_eq!(names_in(&project, "infos"), kept);
    };
    again();
    for name in &kept {
        let path = folder("infos").join(name);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    }
    again();
    for name in &kept {
        let path = folder("infos").join(name);
        assert!(serde_json::from_slice::<Value>(&fs::read(&path).unwrap()).is_ok());
        fs::remove_file(path).unwrap();
    }
    again();
}
