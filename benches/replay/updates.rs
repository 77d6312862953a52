//! What each update of a series costs.

use std::collections::BTreeSet;

use imgbuild::{
    lock::Lock,
    plan::{self, Budget, LayerPlan, Locked},
};
use serde::Serialize;

/// A whole series under one number of layers; sizes are of archives, in MB an update.
#[derive(Serialize)]
pub(crate) struct Row {
    /// The layers that packages could take.
    pub layers: usize,
    /// Those of the last image.
    pub used: usize,
    /// The last image.
    pub image_mb: f64,
    /// What was re-downloaded.
    pub downloaded_mb: f64,
    /// What one layer a package would have re-downloaded.
    pub floor_mb: f64,
    /// The one over the other.
    pub ratio: f64,
    /// The part of the re-downloaded bytes in layers of one package.
    pub single_mb: f64,
    /// The part in layers of several.
    pub bin_mb: f64,
}

/// A layer as a registry keeps it: the same packages are the same blob.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Blob {
    packages: Vec<String>,
    bytes: u64,
}

/// Sums what each lock's image has that its predecessor's does not.
pub(crate) fn replay(locks: &[Lock], budget: &Budget, layers: usize) -> Row {
    let images: Vec<BTreeSet<Blob>> = locks.iter().map(|lock| image(lock, budget)).collect();
    let floors: Vec<BTreeSet<Blob>> = locks.iter().map(packages).collect();
    let new: Vec<&Blob> = pairs(&images).collect();
    let bytes = |single: bool| {
        new.iter()
            .filter(|blob| (blob.packages.len() == 1) == single)
            .map(|blob| blob.bytes)
            .sum::<u64>()
    };
    let (single, bin) = (bytes(true), bytes(false));
    let floor: u64 = pairs(&floors).map(|blob| blob.bytes).sum();
    let image: u64 = images
        .last()
        .iter()
        .flat_map(|i| i.iter())
        .map(|b| b.bytes)
        .sum();
    let each = |bytes: u64| bytes as f64 / 1e6 / (locks.len() - 1) as f64;
    Row {
        layers,
        used: images.last().map_or(0, BTreeSet::len),
        image_mb: image as f64 / 1e6,
        downloaded_mb: each(single + bin),
        floor_mb: each(floor),
        ratio: (single + bin) as f64 / floor.max(1) as f64,
        single_mb: each(single),
        bin_mb: each(bin),
    }
}

fn pairs(images: &[BTreeSet<Blob>]) -> impl Iterator<Item = &Blob> {
    images
        .iter()
        .zip(images.iter().skip(1))
        .flat_map(|(before, after)| after.difference(before))
}

fn image(lock: &Lock, budget: &Budget) -> BTreeSet<Blob> {
    let miniconda = lock.miniconda.iter().map(|env| {
        let items = plan::items(env, &Default::default());
        (env, plan::plan_miniconda(&items, budget))
    });
    let items = plan::items(&lock.env, &Default::default());
    let own = (
        &lock.env,
        plan::plan(&items, lock.miniconda.is_some(), budget),
    );
    miniconda
        .chain([own])
        .flat_map(|(env, plan): (_, LayerPlan)| {
            let blob = |layer: &plan::PlannedLayer| {
                blob(layer.packages.iter().filter_map(|member| member.of(env)))
            };
            plan.layers.iter().map(blob).collect::<Vec<_>>()
        })
        .collect()
}

fn packages(lock: &Lock) -> BTreeSet<Blob> {
    lock.environments()
        .flat_map(|env| {
            let conda = env.packages().iter().map(Locked::Conda);
            conda.chain(env.wheels().iter().map(Locked::Wheel))
        })
        .map(|package| blob([package].into_iter()))
        .collect()
}

fn blob<'a>(packages: impl Iterator<Item = Locked<'a>>) -> Blob {
    let mut found = Blob {
        packages: Vec::new(),
        bytes: 0,
    };
    for package in packages {
        found.packages.push(identity(package));
        found.bytes += package.size().unwrap_or(0);
    }
    found
}

/// What of a package a layer's bytes depend on.
fn identity(package: Locked<'_>) -> String {
    match package {
        Locked::Conda(record) => format!("{} {:?}", record.url, record.package_record.sha256),
        Locked::Wheel(wheel) => format!("{} {}", wheel.url, wheel.sha256),
    }
}
