//! An image as a side of a comparison.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    Area, Kind, Layer, LayerContents, Manager, Package, PackageId, Packages, Subject, Topic,
    contents::{prefix, wheel_prefix},
};
use crate::{image::PREFIX_LABEL, spec::CONDA};

/// What an image says of itself.
pub struct ImageSide<'a> {
    /// As the user named it.
    pub name: &'a str,
    /// Its config (OCI image-spec, config.md).
    pub config: &'a Value,
    /// The digest of its base image, if it says it.
    pub base: Option<String>,
    /// Its layers, lowest first, without titles.
    pub layers: Vec<Layer>,
    /// What those layers hold that were opened, lowest first.
    pub contents: &'a [LayerContents],
}

/// An image. Packages of layers that were not opened are not in it.
pub fn of_image(image: ImageSide<'_>) -> Subject {
    let mut facts = BTreeMap::from([(Topic::Config, config(image.config))]);
    if let Some(digest) = image.base {
        let base = BTreeMap::from([("digest".to_owned(), digest)]);
        facts.insert(Topic::Base, base);
    }
    let titles = titles(image.config, image.layers.len());
    let mut layers = image.layers;
    for (layer, title) in layers.iter_mut().zip(titles) {
        layer.title = title;
    }
    Subject {
        name: image.name.to_owned(),
        kind: Kind::Image,
        facts,
        packages: packages(image.config, image.contents),
        layers,
    }
}

/// The words of the history, an entry a layer; none where its length does not fit.
pub(crate) fn titles(config: &Value, layers: usize) -> Vec<String> {
    let history = config.get("history").and_then(Value::as_array);
    let full = |entry: &&Value| entry.get("empty_layer") != Some(&Value::Bool(true));
    let title = |entry: &Value| {
        let said = entry.get("created_by").and_then(Value::as_str);
        said.unwrap_or("a layer").to_owned()
    };
    let titles: Vec<String> = history
        .map(|history| history.iter().filter(full).map(title).collect())
        .unwrap_or_default();
    match titles.len() == layers {
        true => titles,
        false => vec!["a layer".to_owned(); layers],
    }
}

/// Everything of the config that is not about layers, by name.
fn config(config: &Value) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    let top = config.as_object().into_iter().flatten();
    for (key, value) in top {
        if !["rootfs", "history", "config"].contains(&key.as_str()) {
            facts.insert(key.clone(), text(value));
        }
    }
    let run = config.get("config").and_then(Value::as_object);
    for (key, value) in run.into_iter().flatten() {
        match (key.as_str(), value) {
            (_, Value::Null) => {}
            ("Env", Value::Array(list)) => {
                for pair in list.iter().filter_map(Value::as_str) {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    facts.insert(format!("env {name}"), value.to_owned());
                }
            }
            ("Labels", Value::Object(labels)) => {
                let label =
                    |(name, value): (&String, &Value)| (format!("label {name}"), text(value));
                facts.extend(labels.iter().map(label));
            }
            (key, value) => {
                facts.insert(key.to_owned(), text(value));
            }
        }
    }
    facts
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Which part of an image a prefix is.
struct Areas<'a> {
    /// The environment's prefix in an image that imgbuild made.
    ours: Option<&'a str>,
    /// The only prefix there is.
    only: Option<String>,
}

impl Areas<'_> {
    fn of(&self, prefix: &str) -> Area {
        let path = format!("/{prefix}");
        match self.ours {
            Some(ours) if ours == path => Area::Environment,
            Some(_) if path == CONDA => Area::Miniconda,
            None if self.only.as_deref() == Some(prefix) => Area::Environment,
            _ => Area::At(path),
        }
    }
}

fn packages(config: &Value, layers: &[LayerContents]) -> Packages {
    let mut all = LayerContents::default();
    layers.iter().for_each(|layer| all.put_over(layer));
    let label = config.pointer("/config/Labels");
    let label = label.and_then(|labels| labels.get(PREFIX_LABEL));
    let mut prefixes: Vec<&str> = all.conda.keys().filter_map(|path| prefix(path)).collect();
    prefixes.dedup();
    let areas = Areas {
        ours: label.and_then(Value::as_str),
        only: match prefixes[..] {
            [only] => Some(only.to_owned()),
            _ => None,
        },
    };
    let conda = all.conda.into_iter().map(|(path, (name, package))| {
        let area = areas.of(prefix(&path).unwrap_or_default());
        (id(area, Manager::Conda, name), package)
    });
    let mut packages: Packages = conda.collect();
    for (folder, (name, version)) in all.wheels {
        let area = areas.of(wheel_prefix(&folder).unwrap_or_default());
        let package = Package {
            version,
            build: None,
            channel: None,
            sha256: None,
            size: None,
        };
        packages.insert(id(area, Manager::Pip, name), package);
    }
    packages
}

fn id(area: Area, manager: Manager, name: String) -> PackageId {
    PackageId {
        area,
        manager,
        name,
    }
}
