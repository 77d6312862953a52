//! Which package goes into which layer, and the key of each layer. Pure.

mod bins;
mod key;
mod tiers;

use rattler_conda_types::RepoDataRecord;
use serde::Serialize;

pub use bins::Budget;
pub use key::{KeyInput, layer_key};
pub use tiers::Tier;

/// The package layers of one prefix, lowest first.
#[derive(Clone, Debug, Serialize)]
pub struct LayerPlan {
    /// The layers; every package is in exactly one.
    pub layers: Vec<PlannedLayer>,
}

/// One layer of packages.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedLayer {
    /// Where it stands.
    pub tier: Tier,
    /// What a person reads in `docker history`.
    pub title: String,
    /// Indices into the packages that were planned, ordered by package name.
    pub packages: Vec<usize>,
}

/// Plans the packages of an environment. With `over_miniconda`, the Miniconda base is another
/// prefix and has its own plan, so the environment's Python counts among the other packages.
pub fn plan(packages: &[RepoDataRecord], over_miniconda: bool, budget: &Budget) -> LayerPlan {
    let tiers = tiers::assign(packages, over_miniconda);
    plan_tiers(packages, &tiers, budget)
}

/// Plans the packages of a Miniconda base: all of them are of that tier.
pub fn plan_miniconda(packages: &[RepoDataRecord], budget: &Budget) -> LayerPlan {
    let tiers = vec![Tier::Miniconda; packages.len()];
    plan_tiers(packages, &tiers, budget)
}

fn plan_tiers(packages: &[RepoDataRecord], tiers: &[Tier], budget: &Budget) -> LayerPlan {
    let mut layers = Vec::new();
    for tier in Tier::ALL {
        let items: Vec<bins::Item<'_>> = packages
            .iter()
            .zip(tiers)
            .enumerate()
            .filter(|(_, (_, of))| **of == tier)
            .map(|(index, (record, _))| bins::Item {
                index,
                name: record.package_record.name.as_normalized(),
                size: record.package_record.size.unwrap_or(0),
            })
            .collect();
        for group in bins::group(items, budget.share(tier)) {
            layers.push(PlannedLayer {
                tier,
                title: title(tier, packages, &group),
                packages: group,
            });
        }
    }
    LayerPlan { layers }
}

/// How many packages a title names before it counts the rest.
const NAMED: usize = 4;

fn title(tier: Tier, packages: &[RepoDataRecord], group: &[usize]) -> String {
    let mut by_size: Vec<&RepoDataRecord> = group.iter().map(|index| &packages[*index]).collect();
    by_size.sort_by_key(|record| {
        let package = &record.package_record;
        (
            std::cmp::Reverse(package.size),
            package.name.as_normalized().to_owned(),
        )
    });
    let names: Vec<String> = by_size
        .iter()
        .take(NAMED)
        .map(|record| {
            let package = &record.package_record;
            format!("{} {}", package.name.as_normalized(), package.version)
        })
        .collect();
    let mut title = format!("{}: {}", tier.title(), names.join(", "));
    if by_size.len() > NAMED {
        title.push_str(&format!(" and {} more", by_size.len() - NAMED));
    }
    title
}
