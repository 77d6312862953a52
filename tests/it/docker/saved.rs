//! What `docker save` gives of an image.

use std::{collections::HashMap, io::Read};

use serde_json::{Value, json};

use super::docker;
use crate::support::{Sha, decoded, temp_dir};

/// The diff ids of the layers that the daemon gives, lowest first: of their bytes, not their names.
pub(super) fn diff_ids(name: &str) -> Value {
    let dir = temp_dir();
    let file = dir.path().join("saved.tar");
    docker(&["save", "-o", file.to_str().unwrap(), name]);
    of_archive(&file)
}

/// The same of an archive with a `manifest.json`.
pub(super) fn of_archive(file: &std::path::Path) -> Value {
    let mut archive = tar::Archive::new(std::fs::File::open(file).unwrap());
    let (mut found, mut links) = (HashMap::new(), HashMap::new());
    let mut list = Value::Null;
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        if name == "manifest.json" {
            list = serde_json::from_reader(entry).unwrap();
        } else if let Some(target) = entry.link_name().unwrap() {
            // Docker 20.10 has a layer that comes twice as `../<id>/layer.tar`.
            let target = target.display().to_string();
            links.insert(name, target.trim_start_matches("../").to_owned());
        } else {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            let mut tar = Sha::new(decoded(std::io::Cursor::new(bytes)));
            std::io::copy(&mut tar, &mut std::io::sink()).unwrap();
            found.insert(name, format!("sha256:{}", tar.finish().0));
        }
    }
    let layers = list[0]["Layers"].as_array().unwrap().iter();
    let ids = layers.map(|layer| {
        let name = layer.as_str().unwrap();
        let name = links.get(name).map_or(name, String::as_str);
        found
            .get(name)
            .unwrap_or_else(|| panic!("{name} was not saved"))
    });
    json!(ids.collect::<Vec<_>>())
}
