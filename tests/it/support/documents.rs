//! The rules of an image's manifest and config that need no layer (OCI image-spec, manifest.md,
//! config.md, annotations.md).

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::image::{list, text};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const KEY: &str = "dev.imgbuild.layer-key";
/// Docker's classic stores load no more.
const MAX_LAYERS: usize = 125;

/// Checks a manifest and its config; returns the history's entry of each layer.
pub fn check<'a>(manifest: &Value, config: &'a Value) -> Vec<&'a Value> {
    assert_eq!(manifest["schemaVersion"], 2);
    assert_eq!(manifest["mediaType"], MANIFEST);
    assert_eq!(manifest["config"]["mediaType"], CONFIG);
    let layers = list(&manifest["layers"]);
    for descriptor in layers.iter().chain([&manifest["config"]]) {
        check_digest(text(&descriptor["digest"]));
        assert!(descriptor["size"].as_u64().unwrap() > 0, "{descriptor}");
        check_texts(descriptor.get("annotations"));
    }
    check_texts(manifest.get("annotations"));
    let base = &manifest["annotations"]["org.opencontainers.image.base.digest"];
    base.as_str().into_iter().for_each(check_digest);

    assert_eq!(config["os"], "linux");
    let known = ["amd64", "arm64"];
    assert!(known.contains(&text(&config["architecture"])), "{config}");
    assert_eq!(config["rootfs"]["type"], "layers");
    let diff_ids = list(&config["rootfs"]["diff_ids"]);
    diff_ids.iter().for_each(|id| check_digest(text(id)));
    check_run_config(&config["config"]);
    let empty = |entry: &&Value| entry["empty_layer"] != true;
    let history: Vec<&Value> = list(&config["history"]).iter().filter(empty).collect();
    assert_eq!(layers.len(), diff_ids.len());
    assert_eq!(layers.len(), history.len());
    assert!(layers.len() <= MAX_LAYERS, "{}", layers.len());
    if history.iter().any(|entry| is_ours(entry)) {
        check_ours(layers, &history, config);
    }
    history
}

/// Whether imgbuild made the layer of this entry of the history.
pub fn is_ours(entry: &Value) -> bool {
    entry["comment"] == "imgbuild"
}

/// What only images that imgbuild made keep to.
fn check_ours(layers: &[Value], history: &[&Value], config: &Value) {
    // A base that imgbuild made has its words in the history, but no keys here.
    let keyed = |layer: &Value| !layer["annotations"][KEY].is_null();
    let base = layers.iter().position(keyed).expect("a layer with a key");
    let created = text(&config["created"]);
    let time: Vec<char> = created.chars().collect();
    let form = "0000-00-00T00:00:00Z".chars();
    let fits = |(said, form): (&char, char)| match form {
        '0' => said.is_ascii_digit(),
        other => *said == other,
    };
    assert!(
        time.len() == 20 && time.iter().zip(form).all(fits),
        "{created}"
    );
    let names = |map: &Map<String, Value>| map.keys().cloned().collect::<BTreeSet<_>>();
    let expected = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    let mut keys = BTreeSet::new();
    for (layer, told) in layers.iter().zip(history).skip(base) {
        let told_of = names(told.as_object().unwrap());
        assert_eq!(told_of, expected(&["created", "created_by", "comment"]));
        assert!(is_ours(told), "{told} stands over a layer of imgbuild");
        assert_eq!(text(&told["created"]), created);
        let title = text(&told["created_by"]);
        assert!(!title.is_empty());
        if title.starts_with("Environment state") {
            let described = names(layer.as_object().unwrap());
            assert_eq!(described, expected(&["mediaType", "digest", "size"]));
            continue;
        }
        let annotations = layer["annotations"].as_object().unwrap();
        assert_eq!(names(annotations), expected(&[KEY]), "{title}");
        let key = text(&annotations[KEY]);
        check_digest(key);
        assert!(keys.insert(key), "two layers of the key {key}");
    }
}

fn check_run_config(run: &Value) {
    let mut names = BTreeSet::new();
    for pair in run["Env"].as_array().into_iter().flatten() {
        let (name, _) = text(pair).split_once('=').expect("NAME=VALUE");
        assert!(
            !name.is_empty() && names.insert(name),
            "{name} is set twice"
        );
    }
    check_texts(run.get("Labels"));
    for key in ["Entrypoint", "Cmd"] {
        run[key].as_array().into_iter().flatten().for_each(|word| {
            text(word);
        });
    }
}

/// A map from names to texts, where there is one.
fn check_texts(map: Option<&Value>) {
    let Some(map) = map.filter(|map| !map.is_null()) else {
        return;
    };
    for (name, value) in map.as_object().unwrap() {
        assert!(!name.is_empty() && value.is_string(), "{name}: {value}");
    }
}

fn check_digest(digest: &str) {
    let digits = digest.strip_prefix("sha256:").unwrap_or_default();
    let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    assert!(digits.len() == 64 && digits.chars().all(hex), "{digest}");
}
