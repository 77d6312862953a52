//! Two sides held against each other.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Change, Kind, Layer, PackageChange, Subject, Topic, changes};

/// The version of [`Diff`]'s JSON: another one when a field goes or changes its meaning.
const VERSION: u32 = 1;

/// What is different; its JSON is described in docs/diff.md.
#[derive(Clone, Debug, Serialize)]
pub struct Diff {
    /// The version of this format.
    pub version: u32,
    /// Whether nothing is different in what was compared.
    pub same: bool,
    /// The left side.
    pub left: Side,
    /// The right side.
    pub right: Side,
    /// The topics that both sides have.
    pub topics: Vec<Topic>,
    /// What of them is different.
    pub facts: Vec<FactChange>,
    /// The packages that are different.
    pub packages: Vec<PackageChange>,
    /// The layers, if they can be compared.
    pub layers: Option<LayerChanges>,
    /// The counts.
    pub totals: DiffTotals,
}

/// One side as it was named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Side {
    /// As the user named it.
    pub name: String,
    /// What it is.
    pub kind: Kind,
}

/// A fact that is not the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FactChange {
    /// What it is about.
    pub topic: Topic,
    /// Its name.
    pub name: String,
    /// What it is on the left, if it is there.
    pub from: Option<String>,
    /// What it is on the right, if it is there.
    pub to: Option<String>,
}

/// What is different about the layers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LayerChanges {
    /// Layers that both sides have.
    pub common: usize,
    /// Their size in bytes.
    pub common_bytes: u64,
    /// Layers of the same content in other blobs: of the left, then of the right.
    pub repacked: Vec<(Layer, Layer)>,
    /// Layers that only the left has, lowest first.
    pub removed: Vec<Layer>,
    /// Layers that only the right has, lowest first.
    pub added: Vec<Layer>,
    /// Whether those that both have stand in another order.
    pub reordered: bool,
}

/// The counts of a comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiffTotals {
    /// Packages that only the right has.
    pub added: usize,
    /// Packages that only the left has.
    pub removed: usize,
    /// Packages that are another version, build or archive.
    pub changed: usize,
    /// What the added and changed packages take to download, in bytes.
    pub download_bytes: u64,
    /// Added and changed packages whose size is not known; they count as 0 bytes.
    pub packages_of_unknown_size: usize,
    /// The size in bytes of the layers that only the right has, repacked ones included.
    pub new_layer_bytes: u64,
}

impl Diff {
    /// Compares what both sides know.
    pub fn of(left: &Subject, right: &Subject) -> Self {
        let topics: Vec<Topic> = left
            .facts
            .keys()
            .filter(|topic| right.facts.contains_key(topic))
            .copied()
            .collect();
        let facts: Vec<FactChange> = topics
            .iter()
            .flat_map(|topic| facts(*topic, left, right))
            .collect();
        let packages = changes(&left.packages, &right.packages);
        let layers = comparable(left, right).map(|(left, right)| layers(&left, &right));
        let changed = layers.as_ref().is_some_and(LayerChanges::any);
        Self {
            version: VERSION,
            same: facts.is_empty() && packages.is_empty() && !changed,
            left: side(left),
            right: side(right),
            topics,
            totals: totals(&packages, layers.as_ref()),
            facts,
            packages,
            layers,
        }
    }
}

impl LayerChanges {
    fn any(&self) -> bool {
        let lists = [&self.removed, &self.added];
        self.reordered || !self.repacked.is_empty() || lists.iter().any(|list| !list.is_empty())
    }
}

/// The layers of both sides, if they can be compared. Those of a lock are of the packing that
/// imgbuild chooses by default; a plan has neither the base's layers nor the state's.
fn comparable(left: &Subject, right: &Subject) -> Option<(Vec<Layer>, Vec<Layer>)> {
    let keyed = |subject: &Subject| -> Option<Vec<Layer>> {
        if subject.kind == Kind::Plan {
            return Some(subject.layers.clone());
        }
        let layers = subject.layers.iter().filter(|layer| layer.key.is_some());
        let layers: Vec<Layer> = layers.cloned().collect();
        (!layers.is_empty()).then_some(layers)
    };
    match (left.kind, right.kind) {
        (left_kind, right_kind) if left_kind == right_kind => {
            Some((left.layers.clone(), right.layers.clone()))
        }
        (Kind::Lock, _) | (_, Kind::Lock) => None,
        _ => Some((keyed(left)?, keyed(right)?)),
    }
}

fn side(subject: &Subject) -> Side {
    Side {
        name: subject.name.clone(),
        kind: subject.kind,
    }
}

fn facts(topic: Topic, left: &Subject, right: &Subject) -> Vec<FactChange> {
    let nothing = BTreeMap::new();
    let alike = left.kind == right.kind;
    let left = left.facts.get(&topic).unwrap_or(&nothing);
    let right = right.facts.get(&topic).unwrap_or(&nothing);
    let names: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    // What only one of the kinds can say is no difference.
    let both = |name: &&String| left.contains_key(*name) && right.contains_key(*name);
    let changed = |name: &&String| left.get(*name) != right.get(*name) && (alike || both(name));
    let change = |name: &String| FactChange {
        topic,
        name: name.clone(),
        from: left.get(name).cloned(),
        to: right.get(name).cloned(),
    };
    names.into_iter().filter(changed).map(change).collect()
}

fn layers(left: &[Layer], right: &[Layer]) -> LayerChanges {
    let mut rest: Vec<Option<&Layer>> = right.iter().map(Some).collect();
    let (left, pairs) = pair(left, &mut rest, Layer::is);
    let (removed, repacked) = pair(&left, &mut rest, Layer::unpacks_to);
    let places: Vec<usize> = pairs.iter().map(|(at, _)| *at).collect();
    let bytes = |(at, _): &(usize, Layer)| right.get(*at).map_or(0, |layer| layer.bytes);
    let twin = |(at, layer): (usize, Layer)| Some((layer, right.get(at)?.clone()));
    LayerChanges {
        common: pairs.len(),
        common_bytes: pairs.iter().map(bytes).sum(),
        repacked: repacked.into_iter().filter_map(twin).collect(),
        removed,
        added: rest.into_iter().flatten().cloned().collect(),
        reordered: !places.is_sorted(),
    }
}

/// Takes out of `rest` what each layer matches; returns the layers that match nothing, and the
/// others with the index of their match.
fn pair(
    layers: &[Layer],
    rest: &mut [Option<&Layer>],
    matches: impl Fn(&Layer, &Layer) -> bool,
) -> (Vec<Layer>, Vec<(usize, Layer)>) {
    let (mut alone, mut paired) = (Vec::new(), Vec::new());
    for layer in layers {
        let found = rest
            .iter_mut()
            .enumerate()
            .find(|(_, other)| other.is_some_and(|other| matches(layer, other)));
        match found {
            None => alone.push(layer.clone()),
            Some((at, other)) => {
                *other = None;
                paired.push((at, layer.clone()));
            }
        }
    }
    (alone, paired)
}

fn totals(packages: &[PackageChange], layers: Option<&LayerChanges>) -> DiffTotals {
    let mut totals = DiffTotals::default();
    for package in packages {
        match package.change {
            Change::Added => totals.added += 1,
            Change::Removed => totals.removed += 1,
            _ => totals.changed += 1,
        }
        match package.to.as_ref().map(|package| package.size) {
            Some(Some(size)) => totals.download_bytes += size,
            Some(None) => totals.packages_of_unknown_size += 1,
            None => {}
        }
    }
    if let Some(layers) = layers {
        let repacked = layers.repacked.iter().map(|(_, layer)| layer);
        let new = layers.added.iter().chain(repacked);
        totals.new_layer_bytes = new.map(|layer| layer.bytes).sum();
    }
    totals
}
