//! Whether a lock still is what an environment file asks for.

use std::collections::{BTreeMap, BTreeSet};

use rattler_conda_types::{MatchSpec, Matches, PackageName, RepoDataRecord};

use super::LockedEnv;

/// Why the lock does not answer these channels and specs any more, in words; `None` if it does.
///
/// A lock answers when the channels are equal, every spec is met by a locked package, and every
/// locked package is needed by one of them.
pub fn unsatisfied(env: &LockedEnv, channels: &[String], specs: &[MatchSpec]) -> Option<String> {
    if env.channels != channels {
        return Some("the channels changed".into());
    }
    for spec in specs {
        let met = env.packages().iter().any(|record| spec.matches(record));
        if !met {
            return Some(format!("no locked package meets '{spec}'"));
        }
    }
    let needed = reachable(env.packages(), specs);
    env.packages()
        .iter()
        .map(|record| record.package_record.name.as_normalized())
        .find(|name| !needed.contains(*name))
        .map(|name| format!("{name} is locked, but nothing asks for it any more"))
}

fn reachable(packages: &[RepoDataRecord], specs: &[MatchSpec]) -> BTreeSet<String> {
    let by_name: BTreeMap<&str, &RepoDataRecord> = packages
        .iter()
        .map(|record| (record.package_record.name.as_normalized(), record))
        .collect();
    let mut queue: Vec<String> = packages
        .iter()
        .filter(|record| specs.iter().any(|spec| spec.matches(*record)))
        .map(|record| record.package_record.name.as_normalized().to_owned())
        .collect();
    let mut found = BTreeSet::new();
    while let Some(name) = queue.pop() {
        let Some(record) = by_name.get(name.as_str()) else {
            continue;
        };
        if !found.insert(name) {
            continue;
        }
        queue.extend(
            record
                .package_record
                .depends
                .iter()
                .map(|spec| PackageName::normalized_name_from_matchspec_str(spec).into_owned()),
        );
    }
    found
}
