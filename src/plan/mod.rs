//! Which package goes into which layer, and the key of each layer. Pure.

mod bins;
mod item;
mod key;
#[cfg(test)]
mod tests;
mod tiers;

use serde::Serialize;

pub use bins::Budget;
pub use item::{Locked, Member, PlanItem, items};
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
    /// The packages, ordered by name, wheels after all others.
    pub packages: Vec<Member>,
}

/// Plans the packages of an environment. With `over_miniconda`, the Miniconda base is another
/// prefix and has its own plan, so the environment's Python counts among the other packages.
pub fn plan(items: &[PlanItem], over_miniconda: bool, budget: &Budget) -> LayerPlan {
    let tiers = tiers::assign(items, over_miniconda);
    plan_tiers(items, &tiers, budget)
}

/// Plans the packages of a Miniconda base: all of them are of that tier.
pub fn plan_miniconda(items: &[PlanItem], budget: &Budget) -> LayerPlan {
    let tiers = vec![Tier::Miniconda; items.len()];
    plan_tiers(items, &tiers, budget)
}

fn plan_tiers(items: &[PlanItem], tiers: &[Tier], budget: &Budget) -> LayerPlan {
    let ids: Vec<String> = items.iter().map(PlanItem::id).collect();
    let members = |of: Option<Tier>| -> Vec<bins::Item<'_>> {
        let all = items.iter().zip(&ids).zip(tiers).enumerate();
        all.filter(|(_, (_, tier))| of.is_none_or(|of| of == **tier))
            .map(|(index, ((item, id), _))| bins::Item {
                index,
                name: id,
                size: item.size,
            })
            .collect()
    };
    let alone = bins::largest(&members(None), budget);
    let mut layers = Vec::new();
    for tier in Tier::ALL {
        for group in bins::group(members(Some(tier)), &alone, budget.bins(tier)) {
            let group: Vec<&PlanItem> = group.into_iter().map(|index| &items[index]).collect();
            layers.push(PlannedLayer {
                tier,
                title: title(tier, &group),
                packages: ordered(&group),
            });
        }
    }
    LayerPlan { layers }
}

/// The order of a layer's entries: it must not depend on that of a lock.
fn ordered(group: &[&PlanItem]) -> Vec<Member> {
    let mut group = group.to_vec();
    let place = |item: &PlanItem| (matches!(item.member, Member::Wheel(_)), item.name.clone());
    group.sort_by_key(|item| place(item));
    group.iter().map(|item| item.member).collect()
}

/// How many packages a title names before it counts the rest.
const NAMED: usize = 4;

fn title(tier: Tier, group: &[&PlanItem]) -> String {
    let mut by_size = group.to_vec();
    by_size.sort_by_key(|item| (std::cmp::Reverse(item.size), item.id()));
    let names: Vec<String> = by_size
        .iter()
        .take(NAMED)
        .map(|item| format!("{} {}", item.name, item.version))
        .collect();
    let mut title = format!("{}: {}", tier.title(), names.join(", "));
    if by_size.len() > NAMED {
        title.push_str(&format!(" and {} more", by_size.len() - NAMED));
    }
    title
}
