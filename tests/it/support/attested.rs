//! Statements about the images of an index, beside them in it (Docker docs, "Image attestation
//! storage").

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::image::{INDEX, MANIFEST, blob, document, list, text};

const ABOUT: &str = "vnd.docker.reference.digest";
const TYPE: &str = "vnd.docker.reference.type";
const PREDICATE: &str = "in-toto.io/predicate-type";

/// Whether an entry of an index is no image, but what is said of one.
pub fn is_attestation(entry: &Value) -> bool {
    entry["annotations"][TYPE] == "attestation-manifest"
}

/// The statements that an entry of an index leads to; every rule of them is checked on the way.
pub fn read(blobs: &Path, index: &Value, entry: &Value) -> Vec<Value> {
    assert_eq!(
        entry["platform"],
        json!({"architecture": "unknown", "os": "unknown"})
    );
    assert_eq!(entry["mediaType"], MANIFEST);
    let about = text(&entry["annotations"][ABOUT]);
    let mut images = list(&index["manifests"]).iter();
    assert!(
        images.any(|image| !is_attestation(image) && image["digest"] == about),
        "{about} is not in the index"
    );
    let manifest = document(blobs, text(&entry["digest"]));
    assert_eq!(manifest["mediaType"], MANIFEST);
    let config = document(blobs, text(&manifest["config"]["digest"]));
    let layers = list(&manifest["layers"]);
    let digests: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
    assert_eq!(config["rootfs"]["diff_ids"], json!(digests));
    let statement = |layer: &Value| {
        assert_eq!(layer["mediaType"], "application/vnd.in-toto+json");
        let digest = text(&layer["digest"]);
        let size = fs::metadata(blob(blobs, digest)).unwrap().len();
        assert_eq!(layer["size"], size, "{digest}");
        let statement = document(blobs, digest);
        assert_eq!(layer["annotations"][PREDICATE], statement["predicateType"]);
        let subject = text(&statement["subject"][0]["digest"]["sha256"]);
        assert_eq!(format!("sha256:{subject}"), about);
        statement
    };
    layers.iter().map(statement).collect()
}

/// The statements in an OCI layout folder, of all its indexes.
pub fn statements(layout: &Path) -> Vec<Value> {
    let blobs = layout.join("blobs/sha256");
    let top = fs::read(layout.join("index.json")).unwrap();
    let top: Value = serde_json::from_slice(&top).unwrap();
    let indexes = list(&top["manifests"]).iter();
    let indexes = indexes.filter(|entry| entry["mediaType"] == INDEX);
    let read = |entry: &Value| {
        let index = document(&blobs, text(&entry["digest"]));
        let entries = list(&index["manifests"]).iter();
        let entries = entries.filter(|entry| is_attestation(entry));
        let read = entries.map(|entry| read(&blobs, &index, entry));
        read.collect::<Vec<_>>().concat()
    };
    indexes.flat_map(read).collect()
}
