//! Large images go to a graph driver's daemon in parts, which are gone in the end.

use std::{
    process::{Child, Command},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use super::{
    delta::{Fresh, is_containerd},
    docker,
};
use crate::support::{Project, Proxy, Tricks, run};

/// How often, and how many times, something is looked at that is about to be.
const PACE: Duration = Duration::from_millis(50);
const PATIENCE: usize = 2400;

/// The parts in the daemon that begin with a layer.
pub(crate) fn parts(lowest: &str) -> Vec<String> {
    let images = docker(&[
        "images",
        "-aq",
        "--no-trunc",
        "--filter",
        "label=dev.imgbuild.part",
    ]);
    let begins = |id: &&str| {
        let mut inspect = Command::new("docker");
        inspect.env("DOCKER_HOST", crate::support::fixture("DOCKER_HOST"));
        inspect.args(["inspect", "--format", "{{index .RootFS.Layers 0}}", id]);
        // Other tests' parts come and go.
        let layer = inspect.output().unwrap().stdout;
        String::from_utf8_lossy(&layer).trim() == lowest
    };
    images.lines().filter(begins).map(str::to_owned).collect()
}

fn wait_for_part(lowest: &str) -> String {
    for _ in 0..PATIENCE {
        if let Some(part) = parts(lowest).pop() {
            return part;
        }
        thread::sleep(PACE);
    }
    panic!("no part came")
}

/// The diff id of the layer of the project's base.
pub(crate) fn lowest(project: &Project) -> String {
    let config = std::fs::read(project.path("zbase/index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&config).unwrap();
    let blob = |digest: &serde_json::Value| -> serde_json::Value {
        let digest = digest.as_str().unwrap();
        let path = project.path("zbase/blobs/sha256").join(&digest[7..]);
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    let manifest = blob(&index["manifests"][0]["digest"]);
    let config = blob(&manifest["config"]["digest"]);
    config["rootfs"]["diff_ids"][0].as_str().unwrap().to_owned()
}

/// Calls something when the second load begins, before the daemon hears of it.
fn at_second(call: impl Fn() + Send + Sync + 'static) -> Tricks {
    let loads = AtomicUsize::new(0);
    Tricks {
        before: Some(Box::new(move |request| {
            if request == "POST /images/load" && loads.fetch_add(1, Ordering::Relaxed) == 1 {
                call();
            }
        })),
        ..Tricks::default()
    }
}

fn has_parts() -> bool {
    if is_containerd() {
        eprintln!("not run: containerd's store takes images in one part");
    }
    !is_containerd()
}

#[test]
fn a_part_that_goes_away_costs_a_load_in_full() {
    if !has_parts() {
        return;
    }
    let told = Arc::<OnceLock<String>>::default();
    let removed = Arc::<AtomicBool>::default();
    let (base, is_removed) = (Arc::clone(&told), Arc::clone(&removed));
    let proxy = Proxy::start(at_second(move || {
        docker(&["rmi", &wait_for_part(base.get().unwrap())]);
        is_removed.store(true, Ordering::Relaxed);
    }));
    let mut fresh = Fresh::new("part-gone", &proxy);
    let tar = fresh.over_zstd();
    let lowest = lowest(&fresh.project);
    told.set(lowest.clone()).unwrap();
    let (image, output) = fresh.load();
    assert!(removed.load(Ordering::Relaxed));
    let in_full = output.stderr.contains("sending the whole image");
    assert!(in_full, "{}", output.stderr);
    let loads = proxy.loads();
    assert!(
        loads.len() == 3 && loads[2] > tar && loads[1] < tar,
        "{loads:?}"
    );
    fresh.check(&image, "one");
    assert!(parts(&lowest).is_empty());
}

/// A build that is sent a signal once the daemon has a part, and goes on no sooner.
struct Stopped {
    fresh: Fresh,
    proxy: Proxy,
    tar: u64,
    lowest: String,
}

impl Stopped {
    fn by(signal: &str, name: &str, status: Option<i32>) -> Self {
        let go_on = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&go_on);
        let proxy = Proxy::start(at_second(move || {
            let mut patience = 0..PATIENCE;
            while !is_over.load(Ordering::Relaxed) && patience.next().is_some() {
                thread::sleep(PACE);
            }
        }));
        let mut fresh = Fresh::new(name, &proxy);
        let tar = fresh.over_zstd();
        let lowest = lowest(&fresh.project);
        let mut command = fresh.project.command(env!("CARGO_BIN_EXE_imgbuild"));
        let mut child: Child = command.args(fresh.args(&["--load"])).spawn().unwrap();
        wait_for_part(&lowest);
        run(Command::new("kill").args([signal, &child.id().to_string()]));
        go_on.store(true, Ordering::Relaxed);
        assert_eq!(child.wait().unwrap().code(), status);
        Self {
            fresh,
            proxy,
            tar,
            lowest,
        }
    }
}

#[test]
fn a_build_that_is_stopped_leaves_no_part() {
    if !has_parts() {
        return;
    }
    let stopped = Stopped::by("-INT", "part-stopped", Some(130));
    assert!(parts(&stopped.lowest).is_empty());
}

#[test]
fn the_part_of_a_killed_build_is_built_upon_and_removed() {
    if !has_parts() {
        return;
    }
    let killed = Stopped::by("-KILL", "part-killed", None);
    assert_eq!(parts(&killed.lowest).len(), 1);
    killed.proxy.loads();
    let (image, output) = killed.fresh.load();
    let loads = killed.proxy.loads();
    assert!(loads.len() == 1 && loads[0] < killed.tar, "{loads:?}");
    assert!(output.stderr.contains(" sent, "), "{}", output.stderr);
    killed.fresh.check(&image, "one");
    assert!(parts(&killed.lowest).is_empty());
}
