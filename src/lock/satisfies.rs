//! Whether one locked environment still is what channels and specs ask for.

use std::collections::{BTreeMap, BTreeSet};

use rattler_conda_types::{MatchSpec, Matches, PackageName, RepoDataRecord};

use super::{LockedEnv, WantedSpec, renew::Unmet};
use crate::spec::source::Place;

/// A channel to search: its URL, and where the environment file names it.
#[derive(Clone, Debug)]
pub struct WantedChannel {
    /// The URL, without credentials, with a slash at its end.
    pub url: String,
    /// The place in the file.
    pub place: Place,
}

/// Why the lock does not answer these channels and specs any more; empty if it does.
///
/// A lock answers when the channels are equal, every spec is met by a locked package, and every
/// locked package is needed by one of them.
pub(super) fn unsatisfied(
    env: &LockedEnv,
    channels: &[WantedChannel],
    specs: &[WantedSpec],
) -> Vec<Unmet> {
    let mut unmet: Vec<Unmet> = channels_changed(env, channels).into_iter().collect();
    unmet.extend(
        specs
            .iter()
            .filter(|spec| !env.packages().iter().any(|r| meets(r, &spec.spec)))
            .map(|spec| {
                let what = format!("no locked package meets '{}'", spec.spec);
                Unmet::at(spec.place, what)
            }),
    );
    let needed = reachable(env.packages(), specs);
    unmet.extend(
        env.packages()
            .iter()
            .map(|record| record.package_record.name.as_normalized())
            .filter(|name| !needed.contains(*name))
            .map(|name| {
                Unmet::anywhere(format!(
                    "{name} is locked, but nothing asks for it any more"
                ))
            }),
    );
    unmet
}

fn channels_changed(env: &LockedEnv, channels: &[WantedChannel]) -> Option<Unmet> {
    let urls = channels.iter().map(|channel| &channel.url);
    if urls.eq(&env.channels) {
        return None;
    }
    let mut locked = env.channels.iter();
    let first = channels
        .iter()
        .find(|channel| locked.next() != Some(&channel.url));
    Some(match first {
        Some(channel) => Unmet::at(channel.place, "the channels changed".into()),
        None => Unmet::anywhere("the channels changed: the lock has more of them".into()),
    })
}

/// Whether a package is one that a spec asks for, from the channel that it names.
///
/// `MatchSpec` itself does not look at the channel of a record.
fn meets(record: &RepoDataRecord, spec: &MatchSpec) -> bool {
    let channel = spec.channel.as_ref();
    spec.matches(record)
        && channel.is_none_or(|c| super::channels::holds(c.base_url.as_str(), &record.url))
}

fn reachable(packages: &[RepoDataRecord], specs: &[WantedSpec]) -> BTreeSet<String> {
    let by_name: BTreeMap<&str, &RepoDataRecord> = packages
        .iter()
        .map(|record| (record.package_record.name.as_normalized(), record))
        .collect();
    let mut queue: Vec<String> = packages
        .iter()
        .filter(|record| specs.iter().any(|spec| spec.spec.matches(*record)))
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
