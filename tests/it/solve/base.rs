//! `__glibc` is the base image's.

use std::fs;

use serde_json::json;

use super::{Channels, locked};
use crate::{mini::write_json, support::Project};

/// An OCI layout of one layer with these files.
fn base(project: &Project, name: &str, files: &[(&str, &[u8])]) -> String {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        tar.append_data(&mut header, path, *content).unwrap();
    }
    let layer = tar.into_inner().unwrap();
    let dir = project.path(name);
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |media: &str, bytes: &[u8]| {
        let digest = crate::mini::sha256(bytes);
        fs::write(blobs.join(&digest), bytes).unwrap();
        json!({"mediaType": format!("application/vnd.oci.image.{media}"), "size": bytes.len(),
            "digest": format!("sha256:{digest}")})
    };
    let layer = put("layer.v1.tar", &layer);
    let config = json!({"architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}});
    let config = put("config.v1+json", config.to_string().as_bytes());
    let media = "application/vnd.oci.image.manifest.v1+json";
    let manifest =
        json!({"schemaVersion": 2, "mediaType": media, "config": config, "layers": [layer]});
    let manifest = put("manifest.v1+json", manifest.to_string().as_bytes());
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    write_json(&dir.join("index.json"), &index);
    write_json(
        &dir.join("oci-layout"),
        &json!({"imageLayoutVersion": "1.0.0"}),
    );
    format!("oci:{name}")
}

const BANNER: &str = "\x7fELF GNU C Library (Debian GLIBC 2.31-13) stable release version 2.31.\n";

#[test]
fn glibc_is_the_base_images() {
    let channels = Channels::crafted(&[
        "c: tool 1.0 <- __glibc >=2.17",
        "c: tool 2.0 <- __glibc >=2.30",
        "c: tool 3.0 <- __glibc >=2.34",
        "c: free 1.0",
    ]);
    let project = channels.project(&["c"], &["tool"]);
    let lib: (&str, &[u8]) = ("usr/lib/x86_64-linux-gnu/libc.so.6", BANNER.as_bytes());
    let bases = [
        ("debian11", base(&project, "debian11", &[lib]), "tool-2.0"),
        (
            "debian9",
            base(
                &project,
                "debian9",
                &[("lib/x86_64-linux-gnu/libc-2.24.so", b"")],
            ),
            "tool-1.0",
        ),
        (
            "empty",
            base(&project, "empty", &[("etc/motd", b"")]),
            "tool-1.0",
        ),
        ("scratch", "scratch".into(), "tool-1.0"),
    ];
    let run = |base: &str| {
        project.write("imgbuild.yaml", &format!("base: {base}\n"));
        let output = project.imgbuild(&["lock", "env.yml"]);
        let text = fs::read_to_string(project.path("env.lock.yml")).unwrap_or_default();
        (output, text)
    };
    for (name, base, tool) in &bases {
        let (output, text) = run(base);
        output.expect(0);
        assert!(text.contains(tool), "{name}: {text}");
        let assumed = output.stderr.contains("__glibc is taken as 2.28");
        assert_eq!(assumed, !name.starts_with("debian"), "{}", output.stderr);
    }
    let alpine = base(
        &project,
        "alpine",
        &[("lib/ld-musl-x86_64.so.1", b"\x7fELF")],
    );
    let (output, _) = run(&alpine);
    output.expect(2);
    assert!(output.stderr.contains("it has musl"), "{}", output.stderr);

    // conda's override wins.
    project.write("imgbuild.yaml", "base: oci:alpine\n");
    let lock = ["lock", "env.yml", "--update-all"];
    let mut command = crate::mini::command(&project, &lock);
    project
        .output(command.env("CONDA_OVERRIDE_GLIBC", "2.40"))
        .expect(0);
    assert!(crate::mini::read(&project, "env.lock.yml").contains("tool-3.0"));
}

/// A lock that was made for another base does not get into an image that cannot run it.
#[test]
fn a_lock_must_fit_the_base() {
    let channels = Channels::crafted(&["c: tool 3.0 <- __glibc >=2.34,<3.0.a0"]);
    let project = channels
        .project(&["c"], &["tool"])
        .with_env("CONDA_OVERRIDE_GLIBC", "2.36");
    locked(&project, &[]);
    let lib: (&str, &[u8]) = ("lib64/libc.so.6", BANNER.as_bytes());
    let old = base(&project, "old", &[lib]);
    let alpine = base(
        &project,
        "alpine",
        &[("lib/ld-musl-x86_64.so.1", b"\x7fELF")],
    );
    let build = |base: &str| {
        let mut command = crate::mini::command(&project, &["build", "env.yml", "--base", base]);
        let output = project.output(command.env_remove("CONDA_OVERRIDE_GLIBC"));
        output.expect(2);
        output.stderr
    };
    let said = build(&old);
    assert!(
        said.contains("tool-3.0-0.tar.bz2 does not run on the base image"),
        "{said}"
    );
    assert!(
        said.contains("it needs __glibc >=2.34,<3.0.a0, and the base has glibc 2.31"),
        "{said}"
    );
    assert!(build(&alpine).contains("it has musl"));
}
