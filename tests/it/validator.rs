//! The tests' own check of images, against images with one fault each.

use std::{fs, io, panic, path::Path};

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use crate::support::{Image, hash_file, temp_dir};

/// The entries of a layer: path, kind, link target.
type Entries<'a> = &'a [(&'a str, EntryType, &'a str)];

const TIME: &str = "2026-01-02T03:04:05Z";
const DIR: EntryType = EntryType::Directory;
const FILE: EntryType = EntryType::Regular;

fn tar(entries: Entries<'_>) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (path, kind, link) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_link_name_literal(link).unwrap();
        header.set_cksum();
        tar.append(&header, io::empty()).unwrap();
    }
    tar.into_inner().unwrap()
}

fn put(blobs: &Path, bytes: &[u8]) -> String {
    let path = blobs.join("new");
    fs::write(&path, bytes).unwrap();
    let hash = hash_file(&path).0;
    fs::rename(path, blobs.join(&hash)).unwrap();
    format!("sha256:{hash}")
}

/// Whether the check finds fault with an image of this one layer, changed by `spoil`.
fn faulty(tar: &[u8], spoil: impl FnOnce(&mut Value, &mut Value)) -> bool {
    faulty_blob(tar, ("+gzip", gzip(tar)), spoil)
}

fn gzip(tar: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    io::copy(&mut &tar[..], &mut gzip).unwrap();
    gzip.finish().unwrap()
}

/// The same with the blob of the layer, and how its media type ends.
fn faulty_blob(
    tar: &[u8],
    (suffix, bytes): (&str, Vec<u8>),
    spoil: impl FnOnce(&mut Value, &mut Value),
) -> bool {
    let dir = temp_dir();
    let blobs = dir.path();
    let diff_id = put(blobs, tar);
    let layer = put(blobs, &bytes);
    let mut config = json!({
        "created": TIME, "architecture": "amd64", "os": "linux",
        "config": {"Env": ["A=1"], "Labels": {"dev.imgbuild.prefix": "/opt/conda"}},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": TIME, "created_by": "a layer", "comment": "imgbuild"}],
    });
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json"},
        "layers": [{
            "mediaType": format!("application/vnd.oci.image.layer.v1.tar{suffix}"),
            "digest": layer, "size": bytes.len(),
            "annotations": {"dev.imgbuild.layer-key": format!("sha256:{}", "1".repeat(64))},
        }],
    });
    spoil(&mut config, &mut manifest);
    let config = serde_json::to_vec(&config).unwrap();
    manifest["config"]["size"] = json!(config.len());
    manifest["config"]["digest"] = json!(put(blobs, &config));
    let digest = put(blobs, &serde_json::to_vec(&manifest).unwrap());
    panic::catch_unwind(|| Image::read(blobs, &digest)).is_err()
}

const GOOD: Entries<'_> = &[
    ("opt/", DIR, ""),
    ("opt/conda/", DIR, ""),
    ("opt/conda/a", FILE, ""),
    ("opt/conda/b", EntryType::Link, "opt/conda/a"),
];

#[test]
fn a_sound_image_passes() {
    assert!(!faulty(&tar(GOOD), |_, _| ()));
}

#[test]
fn a_layer_is_what_its_media_type_says() {
    let tar = tar(GOOD);
    let zstd = zstd::encode_all(&tar[..], 1).unwrap();
    let blobs = [("", tar.clone()), ("+gzip", gzip(&tar)), ("+zstd", zstd)];
    for (suffix, _) in &blobs {
        for (said, bytes) in &blobs {
            let faulty = faulty_blob(&tar, (suffix, bytes.clone()), |_, _| ());
            assert_eq!(faulty, suffix != said, "{said} as {suffix}");
        }
    }
    for (suffix, bytes) in blobs {
        let more = [bytes.clone(), b"more".to_vec()].concat();
        assert!(
            faulty_blob(&tar, (suffix, more), |_, _| ()),
            "more {suffix}"
        );
        let less = bytes[..bytes.len() - 4].to_vec();
        assert!(
            faulty_blob(&tar, (suffix, less), |_, _| ()),
            "less {suffix}"
        );
    }
}

#[test]
fn faults_of_layers_are_found() {
    let with = |more: Entries<'_>| tar(&[GOOD, more].concat());
    let bad = |what: &str, tar: Vec<u8>| assert!(faulty(&tar, |_, _| ()), "{what}");
    bad("a file twice", with(&[("opt/conda/a", FILE, "")]));
    bad("a folder twice", with(&[("opt/conda/", DIR, "")]));
    bad("no parent", with(&[("opt/conda/d/x", FILE, "")]));
    bad("parent is a file", with(&[("opt/conda/a/x", FILE, "")]));
    bad(
        "outside",
        with(&[("etc/", DIR, ""), ("etc/passwd", FILE, "")]),
    );
    bad("a way up", with(&[("opt/conda/../../x", FILE, "")]));
    bad("absolute", with(&[("/opt/conda/x", FILE, "")]));
    bad("a device", with(&[("opt/conda/null", EntryType::Char, "")]));
    bad(
        "a hard link to nothing",
        with(&[("opt/conda/c", EntryType::Link, "opt/x")]),
    );
    bad("two ends", [tar(GOOD), tar(&[])].concat());
    let whole = tar(GOOD);
    bad("half an end", whole[..whole.len() - 512].to_vec());
    bad("entries after the end", [tar(GOOD), tar(GOOD)].concat());
}

#[test]
fn faults_of_documents_are_found() {
    let bad = |what: &str, spoil: fn(&mut Value, &mut Value)| {
        assert!(faulty(&tar(GOOD), spoil), "{what}");
    };
    bad("size", |_, manifest| {
        manifest["layers"][0]["size"] = json!(1)
    });
    bad("media type", |_, manifest| {
        manifest["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar");
    });
    bad("diff id", |config, _| {
        config["rootfs"]["diff_ids"][0] = json!(format!("sha256:{}", "0".repeat(64)));
    });
    bad("no history", |config, _| config["history"] = json!([]));
    bad("an empty layer in the history", |config, _| {
        config["history"][0]["empty_layer"] = json!(true);
    });
    bad("too many diff ids", |config, _| {
        let id = config["rootfs"]["diff_ids"][0].clone();
        config["rootfs"]["diff_ids"] = json!([id, id]);
    });
    bad("a history of another time", |config, _| {
        config["history"][0]["created"] = json!("2026-01-02T03:04:06Z");
    });
    bad("a time without a zone", |config, _| {
        config["created"] = json!("2026-01-02T03:04:05");
        config["history"][0]["created"] = json!("2026-01-02T03:04:05");
    });
    bad("a layer that was not told of", |config, _| {
        config["history"][0]["created_by"] = json!("");
    });
    bad("no key", |_, manifest| {
        manifest["layers"][0]["annotations"] = json!({});
    });
    bad("a key that is none", |_, manifest| {
        manifest["layers"][0]["annotations"]["dev.imgbuild.layer-key"] = json!("1");
    });
    bad("an annotation that is no text", |_, manifest| {
        manifest["annotations"] = json!({"a": 1});
    });
    bad("a base that is no digest", |_, manifest| {
        let base = "org.opencontainers.image.base.digest";
        manifest["annotations"] = json!({base: "sha256:12"});
    });
    bad("a variable twice", |config, _| {
        config["config"]["Env"] = json!(["A=1", "A=2"]);
    });
    bad("another platform", |config, _| {
        config["architecture"] = json!("riscv64")
    });
}
