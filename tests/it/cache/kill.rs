//! kill -9 at every rename and every fsync of a build, and at every few writes: the next build
//! goes on without any help, gives the same image, and nothing in the cache is damaged.

use std::{fs, path::Path, sync::Mutex, thread};

use sha2::{Digest, Sha256};

use super::{BUILD, names_in, project, strace::traced};
use crate::support::Project;

const RENAMES: &str = "rename,renameat,renameat2";
const SYNCS: &str = "fsync,fdatasync,syncfs";
const WRITES: &str = "write,pwrite64,writev,copy_file_range,sendfile";
/// Of the writes, one in this many is tried.
const STRIDE: usize = 5;
const KILLED: i32 = 128 + 9;

/// An undisturbed build: its digest, and where it renames files to, as paths in the project or
/// the cache.
fn reference() -> (String, Vec<String>) {
    let project = project();
    let trace = format!("trace={RENAMES}");
    let output = traced(&project, &["-e", &trace], &BUILD);
    output.expect(0);
    let log = fs::read_to_string(project.path("strace.log")).unwrap();
    let cache = format!("{}/", project.cache.display());
    let mut places: Vec<String> = Vec::new();
    for line in log.lines() {
        // rename(..., "TO") = 0, or its first half where another thread came between.
        let Some(to) = line.rsplit('"').nth(1) else {
            continue;
        };
        let place = to.strip_prefix(&cache).unwrap_or(to).to_owned();
        if !places.contains(&place) {
            places.push(place);
        }
    }
    (output.digest().to_owned(), places)
}

/// The build that follows a kill.
fn goes_on(project: &Project, digest: &str, place: &str) {
    let output = project.imgbuild(&BUILD);
    assert_eq!(output.status, 0, "{place}: {}", output.stderr);
    assert_eq!(output.digest(), digest, "{place}");
    let verified = project.imgbuild(&["cache", "verify"]);
    assert_eq!(verified.status, 0, "{place}: {}", verified.stdout);
    for folder in ["tmp", "locks"] {
        assert_eq!(names_in(project, folder), [""; 0], "{place}: {folder}");
    }
}

fn build_record(project: &Project) -> String {
    let env = project.path("env.yml").canonicalize().unwrap();
    let name = Sha256::digest(env.as_os_str().as_encoded_bytes());
    hex::encode(name) + ".json"
}

/// Kills a build when it renames a file to this place; whether it came to that.
fn kill_at_rename(project: &Project, place: &str) -> bool {
    let inside = match place.strip_prefix("builds/") {
        // Named by where env.yml is, which is another place in every project.
        Some(_) => project.cache.join("builds").join(build_record(project)),
        None => project.cache.join(place),
    };
    // The lock beside env.yml is the one thing that is not in the cache.
    let path = match place.contains('/') {
        true => inside.to_str().unwrap(),
        false => place,
    };
    let (trace, inject) = (
        format!("trace={RENAMES}"),
        format!("inject={RENAMES}:signal=KILL:when=1"),
    );
    let output = traced(project, &["-P", path, "-e", &trace, "-e", &inject], &BUILD);
    output.status == KILLED
}

fn kill_at(project: &Project, calls: &str, nth: usize) -> bool {
    let (trace, inject) = (
        format!("trace={calls}"),
        format!("inject={calls}:signal=KILL:when={nth}"),
    );
    traced(project, &["-e", &trace, "-e", &inject], &BUILD).status == KILLED
}

/// Tries all cases on two threads.
fn each<T: Send>(cases: impl Iterator<Item = T> + Send, try_one: impl Fn(T) + Sync) {
    let cases = Mutex::new(cases);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let next = cases.lock().unwrap().next();
                    let Some(case) = next else { break };
                    try_one(case);
                }
            });
        }
    });
}

#[test]
fn at_every_rename() {
    let (digest, places) = reference();
    for kind in [
        "blobs/sha256/",
        "packages/",
        "layers/",
        "images/",
        "bases/",
        "surveys/",
        "repodata/",
        "env.lock.yml",
    ] {
        let covered = places.iter().any(|place| place.starts_with(kind));
        assert!(covered, "no rename to {kind} in {places:?}");
    }
    each(places.iter(), |place| {
        let project = project();
        assert!(kill_at_rename(&project, place), "{place} was not reached");
        goes_on(&project, &digest, place);
    });
    // One cache, killed again and again on its way; downloads come in another order each time.
    let project = project();
    let there = |place: &str| match place.contains('/') {
        true if place.starts_with("builds/") => project
            .cache
            .join("builds")
            .join(build_record(&project))
            .exists(),
        true => project.cache.join(place).exists(),
        false => project.path(place).exists(),
    };
    let mut killed = 0;
    for place in places.iter().filter(|place| !there(place)) {
        assert!(kill_at_rename(&project, place), "{place} was not reached");
        killed += 1;
    }
    assert!(killed > places.len() / 2, "{killed} of {}", places.len());
    goes_on(&project, &digest, "all");
}

#[test]
fn at_every_sync_and_at_writes() {
    let (digest, _) = reference();
    for (calls, stride, least) in [(SYNCS, 1, 8), (WRITES, STRIDE, 5)] {
        let hits = Mutex::new(0);
        let over = Mutex::new(false);
        let cases = (1..).step_by(stride).take_while(|_| !*over.lock().unwrap());
        each(cases, |nth| {
            let project = project();
            let killed = kill_at(&project, calls, nth);
            *hits.lock().unwrap() += usize::from(killed);
            *over.lock().unwrap() |= !killed;
            goes_on(&project, &digest, &format!("{calls} {nth}"));
        });
        let hits = hits.into_inner().unwrap();
        assert!(hits >= least, "only {hits} of {calls}");
    }
}

/// What a damaged disk leaves is as good as nothing: records are made again.
#[test]
fn records_that_are_cut_short_were_never_written() {
    let project = project();
    let digest = project.ok(&BUILD).digest().to_owned();
    let cut = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    };
    for folder in ["layers", "surveys", "bases", "images"] {
        let names = names_in(&project, folder);
        assert!(!names.is_empty(), "{folder}");
        for name in names {
            cut(&project.cache.join(folder).join(name));
        }
    }
    goes_on(&project, &digest, "cut records");
}
