//! Packing the packages of a prefix into layers.
//!
//! The largest packages get a layer each; the rest of a tier go into a fixed number of bins by
//! rendezvous hash of the package *name*. A version bump therefore stays in its layer, and a new
//! package changes one bin, or, where it pushes the smallest of the largest out, three layers.
//! Neither history nor popularity is needed.

use std::{cmp::Reverse, collections::BTreeSet};

use super::tiers::Tier;
use crate::digest::Digest;

/// A package smaller than this never gets a layer of its own, in bytes of its archive.
const SMALLEST_SINGLE: u64 = 1 << 20;
/// The bins of each tier, in the tiers' order.
const BINS: [usize; 4] = [4, 4, 12, 4];
/// More layers give no other plan.
const FULL: usize = 116;

/// How many layers packages may take.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Packages with a layer of their own, at most.
    singles: usize,
    /// Layers for the rest of each tier.
    bins: [usize; 4],
}

impl Budget {
    /// The fewest layers that packages can be put into: one bin a tier.
    pub const MIN: usize = 4;

    /// Splits that many layers; anything from 116 up gives the same plan, so that a base image
    /// with more layers does not change it.
    pub fn of(layers: usize) -> Self {
        let layers = layers.min(FULL);
        let bins = BINS.map(|bins| (bins * layers / FULL).max(1));
        Self {
            singles: layers.saturating_sub(bins.iter().sum()),
            bins,
        }
    }

    /// Layers for those of a tier that get none of their own.
    pub(super) fn bins(&self, tier: Tier) -> usize {
        let places = Tier::ALL.iter().zip(self.bins);
        let mut own = places.filter(|(of, _)| **of == tier);
        own.next().map_or(1, |(_, bins)| bins)
    }
}

/// A package as the packing sees it.
pub(super) struct Item<'a> {
    pub index: usize,
    /// Its name; no two items share it.
    pub name: &'a str,
    pub size: u64,
}

/// The packages of all tiers that get a layer of their own, by index.
pub(super) fn largest(items: &[Item<'_>], budget: &Budget) -> BTreeSet<usize> {
    let mut large: Vec<&Item<'_>> = items
        .iter()
        .filter(|item| item.size >= SMALLEST_SINGLE)
        .collect();
    large.sort_by_key(|item| (Reverse(item.size), item.name));
    let singles = large.into_iter().take(budget.singles);
    singles.map(|item| item.index).collect()
}

/// Groups the items of a tier into those that stand alone, the largest first, and at most so many
/// bins; each group is ordered by name.
pub(super) fn group(
    mut items: Vec<Item<'_>>,
    alone: &BTreeSet<usize>,
    bins: usize,
) -> Vec<Vec<usize>> {
    items.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.name.cmp(b.name)));
    let (singles, mut rest): (Vec<_>, Vec<_>) = items
        .into_iter()
        .partition(|item| alone.contains(&item.index));
    rest.sort_by(|a, b| a.name.cmp(b.name));
    let mut packed = vec![Vec::new(); bins];
    for item in rest {
        packed[bin_of(item.name, bins)].push(item.index);
    }
    let singles = singles.into_iter().map(|item| vec![item.index]);
    singles
        .chain(packed.into_iter().filter(|bin| !bin.is_empty()))
        .collect()
}

/// Rendezvous hashing: the bin with the highest hash wins, so another number of bins moves the
/// fewest packages.
fn bin_of(name: &str, bins: usize) -> usize {
    (0..bins)
        .max_by_key(|bin| Digest::of(format!("{bin}\0{name}").as_bytes()))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn packed(packages: &[(String, u64)]) -> Vec<Vec<usize>> {
        let items = packages
            .iter()
            .enumerate()
            .map(|(index, (name, size))| Item {
                index,
                name,
                size: *size,
            });
        let items: Vec<Item<'_>> = items.collect();
        let alone = largest(&items, &BUDGET);
        group(items, &alone, BUDGET.bins(Tier::Other))
    }

    fn names(packages: &[(String, u64)]) -> BTreeSet<Vec<String>> {
        packed(packages)
            .into_iter()
            .map(|layer| layer.into_iter().map(|i| packages[i].0.clone()).collect())
            .collect()
    }

    fn environments() -> impl Strategy<Value = Vec<(String, u64)>> {
        proptest::collection::btree_map("[a-z]{1,8}", 0_u64..(4 << 20), 0..60)
            .prop_map(|map| map.into_iter().collect())
    }

    const BUDGET: Budget = Budget {
        singles: 5,
        bins: [1, 1, 4, 1],
    };

    proptest! {
        #[test]
        fn is_a_partition_within_budget(packages in environments()) {
            let layers = packed(&packages);
            prop_assert!(layers.len() <= BUDGET.singles + BUDGET.bins(Tier::Other));
            let mut all: Vec<usize> = layers.into_iter().flatten().collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..packages.len()).collect::<Vec<_>>());
        }

        #[test]
        fn input_order_does_not_matter(packages in environments(), turn in 0_usize..60) {
            let mut turned = packages.clone();
            if !turned.is_empty() {
                let by = turn % turned.len();
                turned.rotate_left(by);
            }
            prop_assert_eq!(names(&packages), names(&turned));
        }

        #[test]
        fn a_new_package_changes_at_most_three_layers(
            packages in environments(), size in 0_u64..(4 << 20)
        ) {
            let before = names(&packages);
            let mut more = packages.clone();
            more.push(("new-package".into(), size));
            let after = names(&more);
            prop_assert!(after.difference(&before).count() <= 3);
        }
    }

    #[test]
    fn budgets_fit() {
        for layers in Budget::MIN..=130 {
            let budget = Budget::of(layers);
            let bins: usize = Tier::ALL.map(|tier| budget.bins(tier)).iter().sum();
            let total = budget.singles + bins;
            assert!(total <= layers, "{total} of {layers}");
        }
        assert_eq!(Budget::of(116).singles, Budget::of(125).singles);
        assert_eq!(Budget::of(116).bins, Budget::of(125).bins);
    }
}
