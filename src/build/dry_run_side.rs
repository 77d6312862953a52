//! The JSON of a plan as a side of a comparison.

use std::collections::BTreeMap;

use super::dry_run_plan::{BuildPlan, LayerOutlook, LayerTier, PackageOutlook};
use crate::{
    base::BaseSource,
    diff::{Area, Kind, Layer, Package, PackageId, Subject, Topic},
    digest::Digest,
    lock::LockedBase,
};

/// A plan.
pub fn of_plan(name: &str, plan: &BuildPlan) -> Subject {
    let base = base(&plan.base.image);
    let base = base.map(|base| ("name".to_owned(), base));
    let state = plan.layers.iter().find(|l| l.tier == LayerTier::State);
    let prefix = state.map(|layer| layer.path.as_str());
    // What the state's layer holds is only known once it is built.
    let layers = plan.layers.iter();
    let layers = layers.filter(|layer| layer.tier != LayerTier::State);
    let mut subject = Subject {
        name: name.to_owned(),
        kind: Kind::Plan,
        facts: BTreeMap::from([(Topic::Base, base.into_iter().collect())]),
        packages: BTreeMap::new(),
        layers: layers.map(layer).collect(),
    };
    for layer in &plan.layers {
        let area = match prefix == Some(&layer.path) {
            true => Area::Environment,
            false => Area::Miniconda,
        };
        for package in &layer.packages {
            let id = PackageId {
                area: area.clone(),
                manager: package.manager,
                name: package.name.clone(),
            };
            subject.packages.insert(id, known(package));
        }
    }
    subject
}

/// The base image as a lock calls it.
fn base(image: &str) -> Option<String> {
    LockedBase::reference_of(&image.parse::<BaseSource>().ok()?)
}

fn known(package: &PackageOutlook) -> Package {
    Package {
        version: package.version.clone(),
        build: package.build.clone(),
        channel: package.channel.clone(),
        sha256: package.sha256,
        size: package.bytes,
    }
}

fn layer(layer: &LayerOutlook) -> Layer {
    let mut contents = format!("{:?} {} {}\n", layer.tier, layer.path, layer.title);
    for package in &layer.packages {
        let known = known(package);
        contents.push_str(&format!(
            "{:?} {} {known} {:?}\n",
            package.manager, package.name, known.sha256
        ));
    }
    if layer.tier == LayerTier::Code {
        contents.push_str(&format!("{:?} {}", layer.key, layer.bytes));
    }
    let blob = layer.blob.as_ref();
    Layer {
        title: layer.title.clone(),
        bytes: blob.map_or(layer.bytes, |blob| blob.bytes),
        digest: blob.map(|blob| blob.digest),
        diff_id: None,
        key: layer.key,
        contents: Some(Digest::of(contents.as_bytes())),
    }
}
