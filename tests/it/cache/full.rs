//! Disks that are full: on real small file systems, and where only the sync finds out.

use std::path::Path;

use super::{BUILD, ENV, names_in, project, strace::traced};
use crate::support::{Output, Project, fixture, run};

/// Runs the first build on a file system of that size and the second one with room, both in one
/// mount namespace. Prints what is left in `tmp/` between them.
const SCRIPT: &str = r#"
set -e
folder=$1; size=$2; shift 2
mkdir -p "$folder"
mount -t tmpfs -o size="$size" tmpfs "$folder"
"$@" && exit 99 || status=$?
find "$folder" -name '.imgbuild-*'
[ ! -e "$folder/tmp" ] || ls -A "$folder/tmp"
mount -o remount,size=200m "$folder"
"$@" --quiet
exit $((status + 50))
"#;

/// Builds while `folder` is that small: the first build's error, and the digest of the second,
/// which has room; nothing where the first one had enough.
fn squeezed(project: &Project, folder: &Path, size: &str, more: &[&str]) -> Option<Output> {
    let mut command = project.command("unshare");
    if run(std::process::Command::new("id").arg("-u")).trim() != "0" {
        command.arg("--map-root-user");
    }
    command
        .args(["--mount", "sh", "-c", SCRIPT, "sh"])
        .arg(folder)
        .arg(size)
        .arg(env!("CARGO_BIN_EXE_imgbuild"))
        .args(BUILD)
        .args(more);
    // Its cache is gone with the file system.
    let output = Output::of(&mut command);
    if output.status == 99 {
        return None;
    }
    assert_eq!(
        output.status, 53,
        "53 is exit status 3 of a build on a small file system; mounting one takes root or user \
         namespaces (unshare --mount): {}{}",
        output.stdout, output.stderr
    );
    assert!(
        output.stderr.contains("error: no space left in ") && output.stderr.contains(" are free"),
        "{size}: {}",
        output.stderr
    );
    assert!(
        output
            .stderr
            .contains("hint: `imgbuild cache prune` makes room")
            && output.stderr.contains("IMGBUILD_CACHE_DIR"),
        "{size}: {}",
        output.stderr
    );
    // Nothing half-written was left, so this is the second build's digest alone.
    output.digest();
    Some(output)
}

#[test]
fn a_full_cache_is_told_whatever_comes_first() {
    let scratch = ["--base", "scratch"];
    let squeeze = |project: &Project, size: &str| {
        // The lock's file is not in the cache.
        let _ = std::fs::remove_file(project.path("env.lock.yml"));
        squeezed(project, &project.cache, size, &scratch)
    };
    let http = project();
    let index = squeeze(&http, "4k").unwrap();
    assert!(index.stderr.contains("/repodata\n"), "{}", index.stderr);
    // The index of a folder is not cached, and rattler tries to cache one for many seconds.
    let project = project();
    let folder = format!("file://{}", fixture("IMGBUILD_TEST_CHANNEL_DIR").display());
    project.write_env(&ENV.replace("@CHANNEL@", &folder));
    let whole = project.ok(&[&BUILD[..], &scratch].concat());
    let sizes = (1..).map(|pages| format!("{}k", pages * 4));
    let failed: Vec<Output> = sizes.map_while(|size| squeeze(&project, &size)).collect();
    assert!(failed.len() > 10, "{}", failed.len());
    for output in &failed {
        assert_eq!(output.digest(), whole.digest());
    }
    // Packages, layers and records all had their turn.
    for words in ["/tmp\n", "/blobs/sha256\n", "/layers\n", "are needed, "] {
        let said = failed.iter().any(|output| output.stderr.contains(words));
        assert!(said, "never '{words}' in {failed:#?}");
    }
}

#[test]
fn what_is_needed_is_told_where_it_is_known() {
    let project = project();
    let cache = project.cache.clone();
    let output = squeezed(&project, &cache, "10m", &[]).unwrap();
    assert!(
        output.stderr.contains("32.7 MB are needed, "),
        "{}",
        output.stderr
    );

    let digest = project.ok(&BUILD).digest().to_owned();
    for (kind, dest) in [
        ("oci", "out/layout"),
        ("oci-archive", "out/image.tar"),
        ("docker-archive", "out/image.tar"),
    ] {
        let option = format!("type={kind},dest={dest}");
        let out = project.path("out");
        let output = squeezed(&project, &out, "10m", &["-o", &option]).unwrap();
        // docker-archive holds plain tars, which are larger.
        let needed = match kind {
            "docker-archive" => "32.8 MB are needed, ",
            _ => "32.7 MB are needed, ",
        };
        assert!(output.stderr.contains(needed), "{}", output.stderr);
        assert_eq!(output.digest(), digest);
    }
}

/// File systems that allocate late tell only the one who syncs.
#[test]
fn a_sync_that_finds_no_room() {
    let mut failed = 0;
    for nth in 1..60 {
        let project = project();
        let inject = format!("inject=fsync:error=ENOSPC:when={nth}+");
        let output = traced(&project, &["-e", "trace=fsync", "-e", &inject], &BUILD);
        if output.status == 0 {
            break;
        }
        failed += 1;
        refused(&project, &output, "error: no space left in ");
    }
    assert!(failed > 5, "{failed}");
    let project = project();
    let inject = "inject=fsync:error=EDQUOT";
    let output = traced(&project, &["-e", "trace=fsync", "-e", inject], &BUILD);
    refused(&project, &output, "error: your disk quota for ");
}

/// A build that failed so: nothing half-written is left, and the next one works.
fn refused(project: &Project, output: &Output, start: &str) {
    output.expect(3);
    let said = output.stderr.contains(start) && output.stderr.contains("hint: `imgbuild");
    assert!(said, "{}", output.stderr);
    assert_eq!(names_in(project, "tmp"), [""; 0]);
    project.ok(&["cache", "verify"]);
    project.ok(&BUILD);
    assert_eq!(names_in(project, "locks"), [""; 0]);
}
