//! A lock as a side of a comparison.

use std::collections::BTreeMap;

use super::{Area, Kind, Layer, Package, PackageId, Subject, Topic};
use crate::{
    digest::Digest,
    lock::{Conditions, Lock, LockedEnv},
    plan::{self, Budget, LayerPlan, Locked},
    secret,
    spec::MAX_LAYERS,
};

/// A lock; only one of imgbuild's `own` says what it was made under.
pub fn of_lock(name: &str, lock: &Lock, own: bool) -> Subject {
    let environments = [
        (Area::Miniconda, lock.miniconda.as_ref()),
        (Area::Environment, Some(&lock.env)),
    ];
    let mut subject = Subject {
        name: name.to_owned(),
        kind: Kind::Lock,
        facts: BTreeMap::from([(Topic::Channels, channels(&lock.env))]),
        packages: BTreeMap::new(),
        layers: Vec::new(),
    };
    if let Some(base) = &lock.base {
        let base = [
            ("name", base.reference.clone()),
            ("digest", base.digest.to_string()),
        ];
        subject.facts.insert(Topic::Base, named(base));
    }
    if own {
        let conditions = conditions(&lock.conditions);
        subject.facts.insert(Topic::Conditions, conditions);
        // One over `scratch` names none, which is an answer too.
        subject.facts.entry(Topic::Base).or_default();
    }
    for (area, env) in environments {
        let Some(env) = env else { continue };
        for package in packages(env) {
            let id = PackageId::of(area.clone(), package);
            subject.packages.insert(id, Package::of(package));
        }
        let planned = planned(env, &area, lock.miniconda.is_some());
        let layers = planned.layers.iter().map(|planned| {
            let members = planned.packages.iter().filter_map(|member| member.of(env));
            layer(&planned.title, &area, members.collect())
        });
        subject.layers.extend(layers);
    }
    subject
}

fn named<const N: usize>(facts: [(&str, String); N]) -> BTreeMap<String, String> {
    let facts = facts.into_iter();
    facts.map(|(name, said)| (name.to_owned(), said)).collect()
}

fn packages(env: &LockedEnv) -> impl Iterator<Item = Locked<'_>> {
    let conda = env.packages().iter().map(Locked::Conda);
    conda.chain(env.wheels().iter().map(Locked::Wheel))
}

/// The channels in their order, which counts.
fn channels(env: &LockedEnv) -> BTreeMap<String, String> {
    let channels = env.channels.iter().map(|url| secret::mask(url));
    named([("conda", channels.collect::<Vec<_>>().join(", "))])
}

fn conditions(conditions: &Conditions) -> BTreeMap<String, String> {
    let mut facts = named([(
        "channel-priority",
        format!("{:?}", conditions.channel_priority).to_lowercase(),
    )]);
    for package in &conditions.virtual_packages {
        let (name, version) = package.split_once('=').unwrap_or((package, ""));
        facts.insert(name.to_owned(), version.to_owned());
    }
    if let Some(time) = conditions.exclude_newer {
        facts.insert("exclude-newer".into(), time.to_string());
    }
    if let Some(pip) = &conditions.pip {
        facts.extend(named([
            ("pip", pip.names.join(" ")),
            ("pip indexes", pip.indexes.join(", ")),
            ("pip find-links", pip.find_links.join(", ")),
            ("pip pre-releases", pip.prereleases.to_string()),
        ]));
    }
    facts
}

/// The packing that a build chooses when nobody says how many layers there may be, over a base
/// of few layers.
fn planned(env: &LockedEnv, area: &Area, miniconda: bool) -> LayerPlan {
    let items = plan::items(env, &BTreeMap::new());
    let parts = if miniconda { 2 } else { 1 };
    let budget = Budget::of((MAX_LAYERS as usize - 3) / parts);
    match area {
        Area::Miniconda => plan::plan_miniconda(&items, &budget),
        _ => plan::plan(&items, miniconda, &budget),
    }
}

fn layer(title: &str, area: &Area, packages: Vec<Locked<'_>>) -> Layer {
    let mut contents = format!("{area:?}\n");
    for package in &packages {
        let id = PackageId::of(area.clone(), *package);
        contents.push_str(&format!("{id} {:?}\n", hash(*package)));
    }
    Layer {
        title: title.to_owned(),
        bytes: packages.iter().filter_map(Locked::size).sum(),
        contents: Some(Digest::of(contents.as_bytes())),
        ..Layer::default()
    }
}

/// What tells one archive from another, as far as the lock says it.
fn hash(package: Locked<'_>) -> (String, Option<Digest>) {
    let package = Package::of(package);
    (package.to_string(), package.sha256)
}
