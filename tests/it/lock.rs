//! The lock: written, kept, renewed with a reason, and what it holds.

use std::{fs, path::Path, process::Command};

use rattler_lock::{CondaPackageData, LockFile};

use crate::{
    mini::{self, Mini, base, env, env_of, names, read},
    support::{Channel, Project, channel, env_file, fixture},
};

const HELLO: &str = "hello-demo-1.0-0.tar.bz2";
const NEWER: &str = "hello-demo-1.1-0.conda";
const GENERIC: &str = "generic-demo-1.0-0.tar.bz2";

/// The packages of a project's lock.
fn locked(project: &Project) -> Vec<CondaPackageData> {
    let lock = LockFile::from_path(&project.path("env.lock.yml")).unwrap();
    let environment = lock.default_environment().unwrap();
    let platform = environment.platforms().next().unwrap();
    let packages = environment.conda_packages(platform).unwrap();
    packages.cloned().collect()
}

fn urls(project: &Project) -> Vec<String> {
    let mut urls: Vec<_> = locked(project)
        .iter()
        .map(|p| p.location().to_string())
        .collect();
    urls.sort();
    urls
}

#[test]
fn is_complete_and_stable() {
    let project = Project::new(&env_file("crafted"));
    let out = project.ok(&["lock", "env.yml"]);
    assert_eq!(out.stdout, "env.lock.yml\n");
    let first = read(&project, "env.lock.yml");
    project.ok(&["lock", "env.yml"]);
    assert_eq!(read(&project, "env.lock.yml"), first);

    let packages = locked(&project);
    assert!(packages.len() > 20, "{packages:?}");
    for package in &packages {
        assert!(package.record().unwrap().sha256.is_some(), "{package:?}");
        let url = package.location().to_string();
        assert!(url.starts_with(channel()), "{url}");
    }

    // Another folder, an empty cache, the specs in another order: the same bytes.
    let (head, specs) = read(&project, "env.yml")
        .split_once("dependencies:\n")
        .map(|(head, specs)| (head.to_owned(), specs.to_owned()))
        .unwrap();
    let reversed: Vec<&str> = specs.lines().rev().collect();
    let other = Project::new(&format!("{head}dependencies:\n{}\n", reversed.join("\n")));
    other.ok(&["lock", "env.yml"]);
    assert_eq!(read(&other, "env.lock.yml"), first);
}

#[test]
fn other_tools_read_it() {
    let project = Project::new(&env(channel(), &["hello-demo", "requests"]));
    project.ok(&["lock", "env.yml"]);
    let program = "import sys, rattler\n\
        lock = rattler.LockFile.from_path(sys.argv[1])\n\
        name, environment = lock.environments()[0]\n\
        packages = environment.packages(environment.platforms()[0])\n\
        print(*sorted(str(p.location) for p in packages), sep='\\n')\n";
    let out = Command::new(fixture("IMGBUILD_TEST_PYTHON"))
        .args(["-c", program])
        .arg(project.path("env.lock.yml"))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&out.stderr);
    let seen: Vec<&str> = std::str::from_utf8(&out.stdout).unwrap().lines().collect();
    assert_eq!(seen, urls(&project), "{errors}");
}

/// Builds, and says what was printed and which hello-demo is locked.
fn build(project: &Project) -> (String, String) {
    let out = project.ok(&["build", "env.yml", "--base", &base()]);
    let urls = urls(project);
    let hello = urls.iter().find(|url| url.contains("hello-demo")).unwrap();
    (out.stderr, hello.rsplit('/').next().unwrap().to_owned())
}

#[test]
fn is_used_while_it_answers_and_renewed_with_a_reason() {
    let mini = Mini::of(&[HELLO, NEWER, GENERIC]);
    let url = mini.url();
    let project = Project::new(&env(&url, &["hello-demo=1.0"]));
    let (said, hello) = build(&project);
    assert!(said.contains("No env.lock.yml yet"), "{said}");
    assert_eq!(hello, HELLO);
    let first = read(&project, "env.lock.yml");

    project.write_env(&env(&url, &["hello-demo"]));
    let (said, hello) = build(&project);
    assert!(!said.contains("ock.yml"), "{said}");
    assert_eq!(
        (hello, read(&project, "env.lock.yml")),
        (HELLO.into(), first)
    );

    let steps: [(&str, &[&str], &str, &str); 4] = [
        (
            &url,
            &["hello-demo>1.0"],
            "no locked package meets 'hello-demo>1.0'",
            NEWER,
        ),
        (
            &url,
            &["hello-demo", "generic-demo"],
            "no locked package meets 'generic-demo",
            NEWER,
        ),
        (
            &url,
            &["hello-demo=1.1"],
            "generic-demo is locked, but nothing asks for it",
            NEWER,
        ),
        (
            channel(),
            &["hello-demo=1.1"],
            "the channels changed",
            NEWER,
        ),
    ];
    for (channel, specs, reason, version) in steps {
        project.write_env(&env(channel, specs));
        let (said, hello) = build(&project);
        let expected = format!("Renewing env.lock.yml: {reason}");
        assert!(said.contains(&expected), "{expected}\n{said}");
        assert_eq!(hello, version);
        let (said, _) = build(&project);
        assert!(!said.contains("Renewing"), "{said}");
    }

    // As in uv: what is locked stays until it is told to move.
    project.write_env(&env(&url, &["hello-demo=1.0"]));
    build(&project);
    project.write_env(&env(&url, &["hello-demo"]));
    project.ok(&["lock", "env.yml"]);
    assert_eq!(build(&project).1, HELLO);
    project.ok(&["lock", "env.yml", "--update", "hello-demo"]);
    assert_eq!(build(&project).1, NEWER);
}

#[test]
fn a_lock_needs_no_channel_index() {
    let mini = Mini::of(&[HELLO]);
    let project = Project::new(&env(&mini.url(), &["hello-demo"]));
    let (_, _) = build(&project);
    for subdir in ["linux-64", "noarch"] {
        fs::remove_file(mini.path().join(subdir).join("repodata.json")).unwrap();
    }
    fs::remove_dir_all(&project.cache).unwrap();
    assert_eq!(build(&project).1, HELLO);
}

fn copy_channel(mini: &Mini, to: &Path) {
    for subdir in ["linux-64", "noarch"] {
        fs::create_dir_all(to.join(subdir)).unwrap();
        for name in names(&mini.path().join(subdir)) {
            let from = mini.path().join(subdir).join(&name);
            fs::copy(from, to.join(subdir).join(&name)).unwrap();
        }
    }
}

#[test]
fn channels_may_be_folders() {
    let mini = Mini::of(&[HELLO, GENERIC]);
    let project = Project::new(&env("./my-channel", &["hello-demo", "generic-demo"]));
    let folder = project.path("my-channel");
    copy_channel(&mini, &folder);
    project.ok(&["build", "env.yml", "--base", &base()]);
    let relative = read(&project, "env.lock.yml");
    // From another working directory the path means the same folder.
    let env_yml = project.path("env.yml");
    let mut command = mini::command(
        &project,
        &["build", env_yml.to_str().unwrap(), "--base", &base()],
    );
    let out = project.output(command.current_dir("/"));
    assert_eq!(out.status, 0, "{}", out.stderr);
    assert!(!out.stderr.contains("Renewing"), "{}", out.stderr);
    // The same folder by its URL and by its path is the same channel.
    for place in [
        format!("file://{}", folder.display()),
        folder.display().to_string(),
    ] {
        project.write_env(&env(&place, &["hello-demo", "generic-demo"]));
        let out = project.ok(&["build", "env.yml", "--base", &base()]);
        assert!(!out.stderr.contains("Renewing"), "{}", out.stderr);
        assert_eq!(read(&project, "env.lock.yml"), relative);
    }
}

/// As in conda: noarch must be there, a platform need not.
#[test]
fn a_channel_has_noarch_at_least() {
    let mini = Mini::of(&[HELLO, GENERIC]);
    let served = Channel::serve(mini.path());
    let places = [&mini.url(), &served.url];
    fs::rename(mini.path().join("linux-64"), mini.path().join("away")).unwrap();
    for place in places {
        let project = Project::new(&env(place, &["generic-demo"]));
        project.ok(&["build", "env.yml", "--base", &base()]);
        assert_eq!(urls(&project).len(), 1);
    }
    fs::rename(mini.path().join("away"), mini.path().join("linux-64")).unwrap();
    fs::remove_dir_all(mini.path().join("noarch")).unwrap();
    for place in places {
        let project = Project::new(&env(place, &["hello-demo"]));
        let out = project.imgbuild(&["lock", "env.yml"]);
        assert_eq!(out.status, 3, "{}", out.stderr);
        assert!(
            out.stderr.contains("noarch/repodata.json"),
            "{}",
            out.stderr
        );
    }
}

#[test]
fn the_first_channel_that_has_a_package_gives_it() {
    let (first, second) = (Mini::of(&[HELLO]), Mini::of(&[NEWER, GENERIC]));
    let (old, new) = (first.url(), second.url());
    for (channels, version) in [([&*old, &*new], HELLO), ([&*new, &*old], NEWER)] {
        let project = Project::new(&env_of(&channels, &["hello-demo", "generic-demo"]));
        assert_eq!(build(&project).1, version);
    }
    let project = Project::new(&env_of(&[&old, &new], &["hello-demo=1.1"]));
    let out = project.imgbuild(&["lock", "env.yml"]);
    assert_eq!(out.status, 2, "{}", out.stderr);
    assert!(out.stderr.contains("priority"), "{}", out.stderr);
}

#[test]
fn an_exported_environment_gives_the_same_packages() {
    let project = Project::new(&env(
        channel(),
        &["python=3.11", "requests", "pyyaml", "pip"],
    ));
    project.ok(&["lock", "env.yml"]);
    let export = |with_build: bool| -> String {
        let packages = locked(&project);
        let line = |package: &CondaPackageData| {
            let record = package.record().unwrap();
            let pinned = format!("{}={}", record.name.as_normalized(), record.version);
            match with_build {
                true => format!("{pinned}={}", record.build),
                false => pinned,
            }
        };
        let lines: Vec<String> = packages.iter().map(line).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        env(channel(), &lines) + "prefix: /home/me/miniconda3/envs/t\n"
    };
    for text in [export(true), export(false)] {
        let other = Project::new(&text);
        let out = other.ok(&["lock", "env.yml"]);
        assert!(
            out.stderr.contains("'prefix:' is ignored"),
            "{}",
            out.stderr
        );
        assert_eq!(urls(&other), urls(&project));
    }
}

#[test]
fn an_edited_lock_is_not_believed() {
    let mini = Mini::of(&[HELLO]);
    let project = Project::new(&env(&mini.url(), &["hello-demo"]));
    project.ok(&["lock", "env.yml"]);
    let good = read(&project, "env.lock.yml");
    let line = good
        .lines()
        .find(|line| line.starts_with("  sha256:"))
        .unwrap();
    let build = ["build", "env.yml"];
    for (edited, status, words) in [
        (
            good.replace(line, &format!("  sha256: {}", "0".repeat(64))),
            3,
            "not what its hash says",
        ),
        (good.replace(line, "  build: '0'"), 2, "without a sha256"),
        (good.replace("version: 7", "version: 99"), 2, "not a lock"),
        ("<<<<<<< HEAD\n".to_owned() + &good, 2, "not a lock"),
        (good.replace("default:", "other:"), 2, "no environment"),
        (good.replace("linux-64", "osx-64"), 2, "linux-64"),
    ] {
        project.write("env.lock.yml", &edited);
        let out = project.imgbuild(&build);
        assert_eq!(out.status, status, "{words}: {}", out.stderr);
        assert!(out.stderr.contains(words), "{words}: {}", out.stderr);
        assert_eq!(names(&project.cache.join("packages")), [""; 0]);
        assert_eq!(read(&project, "env.lock.yml"), edited);
    }
    project.ok(&["lock", "env.yml"]);
    assert_eq!(read(&project, "env.lock.yml"), good);
}
