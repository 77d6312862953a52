//! Packing the packages of a tier into layers.
//!
//! The largest packages get a layer each; the rest go into a fixed number of bins by rendezvous
//! hash of the package *name*. A version bump therefore stays in its layer, and a new package
//! changes one bin, or, where it pushes the smallest of the largest out, three layers. Neither
//! history nor popularity is needed.

use super::tiers::Tier;
use crate::digest::Digest;

/// A package smaller than this never gets a layer of its own, in bytes of its archive.
const SMALLEST_SINGLE: u64 = 1 << 20;

/// How many layers each tier may take.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    miniconda: Share,
    cuda: Share,
    other: Share,
    pip: Share,
}

/// The layers of one tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// Packages with a layer of their own, at most.
    singles: usize,
    /// Layers for the rest.
    bins: usize,
}

impl Budget {
    /// The fewest layers that packages can be put into: one bin a tier.
    pub const MIN: usize = 4;

    /// Splits that many layers between the tiers; anything from 116 up gives the same plan, so
    /// that a base image with more layers does not change it.
    pub fn of(layers: usize) -> Self {
        const SINGLES: [usize; 4] = [8, 32, 32, 8];
        const BINS: [usize; 4] = [4, 4, 24, 4];
        const FULL: usize = 116;
        let layers = layers.min(FULL);
        let bins = BINS.map(|bins| (bins * layers / FULL).max(1));
        let left = layers.saturating_sub(bins.iter().sum());
        let all: usize = SINGLES.iter().sum();
        let share = |tier: usize| Share {
            singles: SINGLES[tier] * left / all,
            bins: bins[tier],
        };
        Self {
            miniconda: share(0),
            cuda: share(1),
            other: share(2),
            pip: share(3),
        }
    }

    pub(super) fn share(&self, tier: Tier) -> Share {
        match tier {
            Tier::Miniconda => self.miniconda,
            Tier::Cuda => self.cuda,
            Tier::Other => self.other,
            Tier::Pip => self.pip,
        }
    }
}

/// A package as the packing sees it.
pub(super) struct Item<'a> {
    pub index: usize,
    /// Its name; no two items share it.
    pub name: &'a str,
    pub size: u64,
}

/// Groups items into at most `singles + bins` layers; each group is ordered by name.
pub(super) fn group(mut items: Vec<Item<'_>>, share: Share) -> Vec<Vec<usize>> {
    items.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.name.cmp(b.name)));
    let singles = items
        .iter()
        .take(share.singles)
        .take_while(|item| item.size >= SMALLEST_SINGLE)
        .count();
    let mut rest = items.split_off(singles);
    rest.sort_by(|a, b| a.name.cmp(b.name));
    let mut bins = vec![Vec::new(); share.bins];
    for item in rest {
        bins[bin_of(item.name, share.bins)].push(item.index);
    }
    let singles = items.into_iter().map(|item| vec![item.index]);
    singles
        .chain(bins.into_iter().filter(|bin| !bin.is_empty()))
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

    fn packed(packages: &[(String, u64)], share: Share) -> Vec<Vec<usize>> {
        let items = packages
            .iter()
            .enumerate()
            .map(|(index, (name, size))| Item {
                index,
                name,
                size: *size,
            });
        group(items.collect(), share)
    }

    fn names(packages: &[(String, u64)], share: Share) -> BTreeSet<Vec<String>> {
        packed(packages, share)
            .into_iter()
            .map(|layer| layer.into_iter().map(|i| packages[i].0.clone()).collect())
            .collect()
    }

    fn environments() -> impl Strategy<Value = Vec<(String, u64)>> {
        proptest::collection::btree_map("[a-z]{1,8}", 0_u64..(4 << 20), 0..60)
            .prop_map(|map| map.into_iter().collect())
    }

    const SHARE: Share = Share {
        singles: 5,
        bins: 4,
    };

    proptest! {
        #[test]
        fn is_a_partition_within_budget(packages in environments()) {
            let layers = packed(&packages, SHARE);
            prop_assert!(layers.len() <= SHARE.singles + SHARE.bins);
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
            prop_assert_eq!(names(&packages, SHARE), names(&turned, SHARE));
        }

        #[test]
        fn a_new_package_changes_at_most_three_layers(
            packages in environments(), size in 0_u64..(4 << 20)
        ) {
            let before = names(&packages, SHARE);
            let mut more = packages.clone();
            more.push(("new-package".into(), size));
            let after = names(&more, SHARE);
            prop_assert!(after.difference(&before).count() <= 3);
        }
    }

    #[test]
    fn budgets_fit() {
        for layers in Budget::MIN..=130 {
            let budget = Budget::of(layers);
            let total: usize = Tier::ALL
                .map(|tier| budget.share(tier))
                .iter()
                .map(|share| share.singles + share.bins)
                .sum();
            assert!(total <= layers, "{total} of {layers}");
        }
        assert_eq!(
            Budget::of(116).share(Tier::Cuda),
            Budget::of(125).share(Tier::Cuda)
        );
    }
}
