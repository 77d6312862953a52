//! Packages that are odd, broken or hostile: what they ask for is done right or refused by name.

use std::{path::Path, process::Command, sync::OnceLock};

use crate::support::{Channel, Image, Kind, Output, Project, run, source};

/// The channel that odd_channel.py makes.
fn odd_channel() -> &'static str {
    static CHANNEL: OnceLock<Channel> = OnceLock::new();
    let channel = CHANNEL.get_or_init(|| {
        // The same bytes each time; a static is never dropped, so no temporary folder.
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("odd-channel");
        let script = source("tests/support/odd_channel.py");
        run(Command::new("python3").arg(script).arg(&dir));
        Channel::serve(&dir)
    });
    &channel.url
}

fn project(packages: &str) -> Project {
    let channel = odd_channel();
    Project::new(&format!(
        "channels: ['{channel}']\ndependencies: [{packages}]\n"
    ))
}

fn build(packages: &str) -> Image {
    project(packages).build(&["--base", "scratch"])
}

/// The build must fail, say all of that, and keep nothing but whole layers of other packages.
#[track_caller]
fn refused(packages: &str, args: &[&str], status: i32, said: &[&str]) {
    let project = project(packages);
    let output: Output =
        project.imgbuild(&[&["build", "env.yml", "--base", "scratch"], args].concat());
    output.expect(status);
    for text in said {
        assert!(output.stderr.contains(text), "{text}:\n{}", output.stderr);
    }
    assert_eq!(output.stdout, "");
    let left = |folder: &str| {
        let folder = project.cache.join(folder);
        folder.read_dir().map_or(0, |entries| entries.count())
    };
    assert_eq!((left("blobs/sha256"), left("tmp")), (left("layers"), 0));
}

#[test]
fn a_hard_link_has_its_files_mode() {
    let image = build("link-mode");
    let [a, b] =
        ["bin/a", "bin/b"].map(|path| image.rootfs.node(Path::new("/opt/conda").join(path)));
    assert_eq!(a, b);
    assert_eq!(b.mode, 0o755);
    // That the tar says so too is checked for every hard link when an image is read.
}

#[test]
fn a_packages_command_replaces_its_file() {
    let build = ["--base", "scratch", "--no-compile"]; // this channel's Python does not run
    let image = project("python, twice-command").build(&build);
    let script = image.rootfs.text("/opt/conda/bin/twice-command");
    assert!(
        script.starts_with("#!/opt/conda/bin/python3.11\n"),
        "{script}"
    );
    assert!(script.contains("from twice import main"), "{script}");
    let record = image
        .rootfs
        .text("/opt/conda/conda-meta/twice-command-1.0-0.json");
    let record: serde_json::Value = serde_json::from_str(record).unwrap();
    let files = record["files"].as_array().unwrap();
    assert_eq!(
        files,
        &["bin/twice-command", "lib/python3.11/site-packages/twice.py"]
    );
}

#[test]
fn set_id_bits_do_not_come_from_packages() {
    let image = build("set-id");
    assert_eq!(image.rootfs.node("/opt/conda/bin/set-id").mode, 0o755);
}

#[test]
fn nothing_leaves_the_prefix() {
    refused(
        "leaves-prefix",
        &[],
        3,
        &["leaves-prefix-1.0-0", "share/../../../etc/passwd"],
    );
    refused(
        "python, leaves-by-command",
        &[],
        3,
        &["leaves-by-command-1.0-0", "../../../usr/bin/env"],
    );
}

#[test]
fn nothing_goes_through_a_packages_link() {
    let link = build("a-link");
    assert_eq!(
        link.rootfs.node("/opt/conda/share/way").kind,
        Kind::Symlink("/etc".into())
    );
    refused(
        "a-link, through-link",
        &[],
        2,
        &["a-link-1.0-0", "through-link-1.0-0", "share/way/passwd"],
    );
    refused("own-link", &[], 2, &["own-link-1.0-0", "share/own/passwd"]);
}

#[test]
fn a_prefix_must_fit_into_binaries() {
    let image = project("short-placeholder").build(&["--base", "scratch", "--prefix", "/srv/env"]);
    let bytes = image.rootfs.text("/srv/env/bin/short");
    assert_eq!(bytes, format!("\0/srv/env/lib\0{}", "\0".repeat(5)));
    let long = ["--prefix", "/srv/too/long"];
    let fits = project("short-placeholder").build(&[&["--base", "scratch"], &long[..]].concat());
    assert_eq!(
        fits.rootfs.text("/srv/too/long/bin/short"),
        "\0/srv/too/long/lib\0"
    );
    let longer = ["--prefix", "/srv/too/long1"];
    refused(
        "short-placeholder",
        &longer,
        2,
        &["bin/short", "/srv/too/long1", "--prefix"],
    );
}

#[test]
fn an_archive_must_hold_what_it_lists() {
    refused(
        "lists-too-much",
        &[],
        3,
        &["lists-too-much-1.0-0", "share/never-packed"],
    );
}
