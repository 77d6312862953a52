//! Several builds on one cache, and pruning beside them.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    process::{Child, ChildStderr},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use super::{BUILD, ENV, names_in, project};
use crate::{
    faulty::{Fault, Faulty},
    mini::{Mini, command, names},
    support::{Output, Project},
};

const PACKAGES: [&str; 5] = [
    "hello-demo-1.0-0.tar.bz2",
    "links-demo-1.0-0.tar.bz2",
    "activate-demo-1.0-0.conda",
    "clobber-a-1.0-0.conda",
    "modes-demo-1.0-0.tar.bz2",
];

/// Another project with the same environment and the same cache.
fn beside(first: &Project, channel: &str) -> Project {
    let mut other = project();
    other.write_env(&ENV.replace("@CHANNEL@", channel));
    other.cache = first.cache.clone();
    other
}

fn start(project: &Project) -> (Child, BufReader<ChildStderr>) {
    let mut child = command(project, &BUILD).spawn().unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    (child, stderr)
}

/// Reads on until a line begins like this.
fn read_until(stderr: &mut impl BufRead, start: &str) -> String {
    let mut all = String::new();
    loop {
        let mut line = String::new();
        let more = stderr.read_line(&mut line).unwrap();
        assert!(more > 0, "no '{start}' in:\n{all}");
        if line.starts_with(start) {
            return line;
        }
        all += &line;
    }
}

fn finish(mut child: Child, mut stderr: impl BufRead, digest: &str) {
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    let status = child.wait().unwrap();
    let mut stdout = String::new();
    std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut stdout).unwrap();
    assert!(status.success(), "{rest}");
    assert_eq!(stdout.trim_end(), digest);
}

#[test]
fn each_thing_is_made_once() {
    let server = Faulty::serve_mini(Mini::of(&PACKAGES), |path, _| match path.contains("demo") {
        true => Fault::Slow,
        false => Fault::Fine,
    });
    let first = project();
    let projects = [(); 4].map(|()| beside(&first, &server.url));
    let outputs = thread::scope(|scope| {
        let build = |project| scope.spawn(move || Project::ok(project, &BUILD));
        let builds: Vec<_> = projects.iter().map(build).collect();
        let join = |build: thread::ScopedJoinHandle<'_, _>| build.join().unwrap();
        builds.into_iter().map(join).collect::<Vec<_>>()
    });
    for file in PACKAGES {
        assert_eq!(server.gets(file).len(), 1, "{file}");
    }
    let stderr: String = outputs.iter().map(|output| &*output.stderr).collect();
    let mut built: Vec<&str> = stderr
        .lines()
        .filter(|l| l.starts_with("Built  "))
        .collect();
    built.sort_unstable();
    let count = built.len();
    built.dedup();
    assert_eq!((built.len(), count), (5, 5), "{built:?}");
    for output in &outputs {
        assert_eq!(output.digest(), outputs[0].digest());
    }
    assert_eq!(names_in(&projects[0], "locks"), [""; 0]);
    projects[0].ok(&["cache", "verify"]);
}

#[test]
fn a_build_waits_for_a_layer_that_another_makes() {
    let project = project();
    let digest = project.ok(&BUILD).digest().to_owned();
    let keys = names_in(&project, "layers");
    assert_eq!(keys.len(), 5);
    for key in keys {
        project.ok(&["cache", "prune", "--all", "-q"]);
        let name = format!("locks/layer-{}", key.trim_end_matches(".json"));
        let path = project.cache.join(name);
        let (child, mut stderr) = {
            let other = File::create(&path).unwrap();
            other.lock().unwrap();
            // The first process that is alone would sweep the file.
            let user = File::open(project.cache.join("lock")).unwrap();
            user.lock_shared().unwrap();
            let (child, mut stderr) = start(&project);
            read_until(&mut stderr, "Waiting for another build that makes ");
            (child, stderr)
            // The other one dies here: its file stays and its lock goes.
        };
        read_until(&mut stderr, "Image  ");
        finish(child, stderr, &digest);
        assert!(!path.exists());
    }
}

#[test]
fn a_build_waits_for_a_download_and_takes_over_from_the_dead() {
    let hello = PACKAGES[0];
    let server = Faulty::serve_mini(Mini::of(&PACKAGES), move |path, nth| {
        match path.ends_with(hello) && nth == 0 {
            true => Fault::Stall(50),
            false => Fault::Fine,
        }
    });
    let first = project();
    let (one, two) = (beside(&first, &server.url), beside(&first, &server.url));
    let (mut killed, _stderr) = start(&one);
    server.wait_stalled(1);
    let (child, mut stderr) = start(&two);
    let line = read_until(&mut stderr, "Waiting for another build that downloads ");
    assert!(line.contains("hello-demo"), "{line}");

    // Nothing is taken away from the two.
    let refused = one.imgbuild(&["cache", "prune", "--all"]);
    assert_eq!(refused.status, 3);
    assert!(
        refused.stderr.contains("the cache is in use"),
        "{}",
        refused.stderr
    );
    two.ok(&["cache", "du"]);

    killed.kill().unwrap();
    killed.wait().unwrap();
    let digest = two.imgbuild(&BUILD);
    finish(child, stderr, digest.digest());
    assert_eq!(server.gets(hello).len(), 2);
    // The dead one's files are swept by the next that is alone.
    two.ok(&["cache", "verify"]);
    for folder in ["tmp", "locks"] {
        assert_eq!(names(&two.cache.join(folder)), [""; 0], "{folder}");
    }
}

#[test]
fn pruning_all_the_time_breaks_no_build() {
    let project = project();
    let digest = project.ok(&BUILD).digest().to_owned();
    let (done, removed) = (AtomicBool::new(false), AtomicUsize::new(0));
    let build = |layout: &str| {
        let output = format!("type=oci,dest={layout}");
        for round in 0..9 {
            // Something is pruned between two builds, at the latest when both wait here.
            let pruned = || {
                thread::sleep(Duration::from_millis(10));
                removed.load(Ordering::Relaxed) > 0
            };
            assert!(round < 8 || (0..6000).any(|_| pruned()), "never pruned");
            let _ = fs::remove_dir_all(project.path(layout));
            let mut command = project.command(env!("CARGO_BIN_EXE_imgbuild"));
            // The layout is looked at, for the cache may be pruned by now.
            let built = Output::of(command.args(BUILD).args(["-o", &output]));
            assert_eq!(built.status, 0, "{}", built.stderr);
            assert_eq!(built.digest(), digest);
            crate::support::validate_layout(&project.path(layout));
        }
    };
    thread::scope(|scope| {
        let pruner = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let pruned = project.imgbuild(&["cache", "prune", "--all"]);
                assert!([0, 3].contains(&pruned.status), "{}", pruned.stderr);
                let freed = pruned.status == 0 && !pruned.stdout.starts_with("Freed 0 B");
                removed.fetch_add(usize::from(freed), Ordering::Relaxed);
            }
        });
        let build = &build;
        let other = scope.spawn(move || build("b"));
        // A failure here must end the pruner too, or the test would hang.
        let one = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| build("a")));
        let other = other.join();
        done.store(true, Ordering::Relaxed);
        pruner.join().unwrap();
        one.unwrap();
        other.unwrap();
    });
}

#[test]
fn the_bound_waits_for_other_builds() {
    let project = project().with_env("IMGBUILD_CACHE_MAX_SIZE", "1kB");
    fs::create_dir_all(&project.cache).unwrap();
    let other = File::create(project.cache.join("lock")).unwrap();
    other.lock_shared().unwrap();
    project.ok(&BUILD);
    assert_eq!(names_in(&project, "packages").len(), 5);
    drop(other);
    project.ok(&BUILD);
    assert_eq!(names_in(&project, "packages").len(), 0);
}
