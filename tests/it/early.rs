//! What is made first is on its way while packages are still to come.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tempfile::TempDir;

use crate::{
    docker::{
        delta::zstd_base,
        parts::{lowest, parts},
    },
    faulty::{Fault, Faulty, wait_for_files},
    mini::{Mini, env, names, tzdata},
    support::{Output, Project, Proxy, Tricks, fixture},
};

const HELLO: &str = "hello-demo-1.0-0.tar.bz2";
const GENERIC: &str = "generic-demo-1.0-0.tar.bz2";

/// A project that was built before, and of which the cache then lost packages and layers. Once it
/// is armed, tzdata comes no sooner than the sign is given.
struct Held {
    server: Faulty,
    project: Project,
    sign: Arc<TempDir>,
    armed: Arc<AtomicBool>,
}

impl Held {
    fn new(at_last: fn() -> Fault) -> Self {
        let (sign, armed) = (
            Arc::new(TempDir::new().unwrap()),
            Arc::new(AtomicBool::new(false)),
        );
        let (folder, is_armed) = (sign.clone(), armed.clone());
        let mini = Mini::of(&[HELLO, GENERIC, tzdata()]);
        let server = Faulty::serve_mini(mini, move |path, nth| {
            let holds = path.ends_with(tzdata()) && is_armed.load(Ordering::Relaxed);
            // A wait in vain ends the connection, and the package is asked for again.
            if !holds || nth > 0 {
                return Fault::Fine;
            }
            wait_for_files(folder.path(), 1);
            at_last()
        });
        let project = Project::new(&env(&server.url, &["hello-demo", "generic-demo", "tzdata"]));
        project.ok(&["build", "env.yml", "--base", "scratch"]);
        for folder in ["packages", "layers"] {
            let folder = project.cache.join(folder);
            for name in names(&folder) {
                fs::remove_file(folder.join(name)).unwrap();
            }
        }
        server.clear();
        armed.store(true, Ordering::Relaxed);
        Self {
            server,
            project,
            sign,
            armed,
        }
    }

    fn build(&self, args: &[&str]) -> Output {
        self.build_on("scratch", args)
    }

    fn build_on(&self, base: &str, args: &[&str]) -> Output {
        let build = ["build", "env.yml", "--base", base];
        self.project.imgbuild(&[&build, args].concat())
    }
}

fn give(sign: &Path) {
    fs::write(sign.join("sign"), "").unwrap();
}

/// A proxy before the registry that gives the sign when a blob is put.
fn registry(held: &Held) -> (Faulty, String) {
    let server = fixture("IMGBUILD_TEST_REGISTRY");
    let sign = held.sign.clone();
    let proxy = Faulty::faulty_proxy(server.to_str().unwrap(), move |request| {
        if request.starts_with("PUT ") {
            give(sign.path());
        }
        Fault::Fine
    });
    let repository = held.sign.path().file_name().unwrap().to_string_lossy();
    let name = format!(
        "{}/early/{}:1",
        proxy.address(),
        repository.trim_start_matches('.').to_lowercase()
    );
    (proxy, name)
}

fn puts(proxy: &Faulty, part: &str) -> usize {
    let log = proxy.log();
    let puts = log.iter().filter(|line| line.starts_with("PUT "));
    puts.filter(|line| line.contains(part)).count()
}

#[test]
fn layers_are_pushed_while_packages_come() {
    let held = Held::new(|| Fault::Fine);
    let (proxy, name) = registry(&held);
    let output = held.build(&["-t", &name, "--push", "--cache-from", ""]);
    output.expect(0);
    assert_eq!(held.server.gets(tzdata()).len(), 1, "{}", output.stderr);
    // Three packages' layers, the environment's, and the config: each once.
    assert_eq!(puts(&proxy, "/blobs/"), 5, "{:?}", proxy.log());
    let told = "5 uploaded, 0 there already";
    assert!(output.stderr.contains(told), "{}", output.stderr);
    let pushed = held.project.ok(&["push", &name]);
    assert_eq!(pushed.digest(), output.digest());
    assert_eq!(puts(&proxy, "/blobs/"), 5, "{:?}", proxy.log());
}

#[test]
fn a_build_that_fails_leaves_no_tag() {
    let held = Held::new(|| Fault::Status(404, ""));
    let (proxy, name) = registry(&held);
    let output = held.build(&["-t", &name, "--push", "--cache-from", ""]);
    assert_ne!(output.status, 0);
    assert!(output.stderr.contains(tzdata()), "{}", output.stderr);
    assert_eq!(puts(&proxy, "/manifests/"), 0, "{:?}", proxy.log());
    assert!(puts(&proxy, "/blobs/") > 0);
}

/// A proxy before the daemon that gives the sign when a load begins.
fn daemon(held: &Held) -> Proxy {
    let sign = held.sign.clone();
    Proxy::start(Tricks {
        before: Some(Box::new(move |request| {
            if request == "POST /images/load" {
                give(sign.path());
            }
        })),
        ..Tricks::default()
    })
}

fn docker(args: &[&str]) -> std::process::Output {
    let mut docker = Command::new("docker");
    docker.env("DOCKER_HOST", fixture("DOCKER_HOST")).args(args);
    docker.output().unwrap()
}

/// The layers of an image that the daemon can give back, which reads all of them.
fn saved(name: &str) -> usize {
    let archive = TempDir::new().unwrap();
    let file = archive.path().join("saved.tar");
    let saved = docker(&["save", "-o", file.to_str().unwrap(), name]);
    assert!(saved.status.success(), "{saved:?}");
    let shown = docker(&["inspect", "--format", "{{len .RootFS.Layers}}", name]);
    String::from_utf8_lossy(&shown.stdout)
        .trim()
        .parse()
        .unwrap()
}

#[test]
fn layers_are_loaded_while_packages_come() {
    let mut held = Held::new(|| Fault::Fine);
    let proxy = daemon(&held);
    held.project = held.project.with_env("DOCKER_HOST", proxy.host());
    let name = format!("it-docker:early-{}", std::process::id());
    let output = held.build(&["-t", &name, "--load"]);
    output.expect(0);
    assert_eq!(held.server.gets(tzdata()).len(), 1, "{}", output.stderr);
    assert_eq!(proxy.loads().len(), 1);
    assert_eq!(saved(&name), 4);
    held.build(&["-t", &name, "--load"]).expect(0);
    assert!(proxy.loads().is_empty());
    docker(&["rmi", "-f", &name]);
}

#[test]
fn a_build_that_fails_leaves_nothing_in_the_daemon() {
    let mut held = Held::new(|| Fault::Status(404, ""));
    let proxy = daemon(&held);
    held.project = held.project.with_env("DOCKER_HOST", proxy.host());
    let name = format!("it-docker:early-failed-{}", std::process::id());
    // Large enough to be a part of its own.
    zstd_base(&held.project.path("zbase"), &name);
    let output = held.build_on("oci:zbase", &["-t", &name, "--load"]);
    assert_ne!(output.status, 0);
    assert!(parts(&lowest(&held.project)).is_empty());
    assert!(output.stderr.contains(tzdata()), "{}", output.stderr);
    assert!(!proxy.loads().is_empty());
    assert!(!docker(&["inspect", &name]).status.success());

    held.armed.store(false, Ordering::Relaxed);
    held.build(&["-t", &name, "--load"]).expect(0);
    assert_eq!(saved(&name), 4);
    docker(&["rmi", "-f", &name]);
}
