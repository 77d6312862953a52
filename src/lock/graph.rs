//! Bounds on what a lock's packages need of each other, checked before they are sorted.
//!
//! rattler's topological sort recurses once a package on the way down, scans that way at every
//! step and keeps a copy of every circle that it meets. Real environments have some 1,500
//! packages, 20,000 dependencies and circles of two or three; a made-up lock could exhaust the
//! stack, the memory or the clock.

use std::collections::HashMap;

use rattler_conda_types::{PackageName, RepoDataRecord};

/// The most packages of one environment.
pub const MAX_PACKAGES: usize = 4_000;
/// The most dependencies of all packages together.
const MAX_DEPENDS: usize = 100_000;
/// The most packages that need each other in a circle.
const MAX_CIRCLE: usize = 64;

/// Why these packages are more than an environment can be, in words; `None` if they are not.
pub fn unreasonable(records: &[RepoDataRecord]) -> Option<String> {
    if records.len() > MAX_PACKAGES {
        return Some(format!("it has more than {MAX_PACKAGES} packages"));
    }
    let depends = records.iter().map(|record| &record.package_record.depends);
    if depends.map(Vec::len).sum::<usize>() > MAX_DEPENDS {
        return Some(format!("it has more than {MAX_DEPENDS} dependencies"));
    }
    let (size, member) = largest_circle(&needs(records));
    let name = records.get(member)?.package_record.name.as_normalized();
    (size > MAX_CIRCLE)
        .then(|| format!("{size} packages need each other in a circle, {name} among them"))
}

/// For each package, the positions of those that it needs.
fn needs(records: &[RepoDataRecord]) -> Vec<Vec<usize>> {
    let positions: HashMap<&str, usize> = records
        .iter()
        .enumerate()
        .map(|(position, record)| (record.package_record.name.as_normalized(), position))
        .collect();
    let position = |spec: &String| {
        let name = PackageName::normalized_name_from_matchspec_str(spec);
        positions.get(&*name).copied()
    };
    records
        .iter()
        .map(|record| {
            let depends = record.package_record.depends.iter();
            depends.filter_map(position).collect()
        })
        .collect()
}

/// The size of the largest strongly connected component and one of its members (Kosaraju's
/// algorithm, with stacks of its own).
fn largest_circle(needs: &[Vec<usize>]) -> (usize, usize) {
    let mut needed_by = vec![Vec::new(); needs.len()];
    for (from, to) in needs.iter().enumerate() {
        for to in to {
            needed_by[*to].push(from);
        }
    }
    let mut left = vec![false; needs.len()];
    let mut finished = Vec::with_capacity(needs.len());
    for start in 0..needs.len() {
        walk(start, needs, &mut left, &mut finished);
    }
    let mut seen = vec![false; needs.len()];
    let mut largest = (0, 0);
    for start in finished.into_iter().rev() {
        let mut component = Vec::new();
        walk(start, &needed_by, &mut seen, &mut component);
        if component.len() > largest.0 {
            largest = (component.len(), start);
        }
    }
    largest
}

/// Appends what can be reached from `start` and was not seen yet, in the order of leaving.
fn walk(start: usize, edges: &[Vec<usize>], seen: &mut [bool], left: &mut Vec<usize>) {
    if std::mem::replace(&mut seen[start], true) {
        return;
    }
    let mut way = vec![(start, edges[start].iter())];
    while let Some((node, rest)) = way.last_mut() {
        match rest.next() {
            Some(next) if !seen[*next] => {
                seen[*next] = true;
                way.push((*next, edges[*next].iter()));
            }
            Some(_) => {}
            None => {
                left.push(*node);
                way.pop();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circles_are_measured_and_chains_are_none() {
        let chain: Vec<Vec<usize>> = (0..100_000).map(|i| vec![(i + 1).min(99_999)]).collect();
        assert_eq!(largest_circle(&chain).0, 1);
        let ring: Vec<Vec<usize>> = (0..1000).map(|i| vec![(i + 1) % 1000, 0]).collect();
        assert_eq!(largest_circle(&ring).0, 1000);
        let two = [vec![1], vec![0, 2], vec![3], vec![4], vec![2]];
        assert_eq!(largest_circle(&two), (3, 2));
        assert_eq!(largest_circle(&[]), (0, 0));
    }
}
