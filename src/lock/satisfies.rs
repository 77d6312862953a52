//! Whether one locked environment still is what channels and specs ask for.

use std::collections::{BTreeMap, BTreeSet};

use rattler_conda_types::{Matches, PackageName, RepoDataRecord};

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
            .filter(|spec| !env.packages().iter().any(|r| meets(r, spec)))
            .map(|spec| {
                let what = format!("no locked package meets '{}'", spec.text);
                Unmet::at(spec.place, what)
            }),
    );
    unmet.extend(unneeded(env.packages(), specs).into_iter().map(|name| {
        Unmet::anywhere(format!(
            "{name} is locked, but nothing asks for it any more"
        ))
    }));
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
fn meets(record: &RepoDataRecord, wanted: &WantedSpec) -> bool {
    let holds = |channel: &String| super::channels::holds(channel, &record.url);
    wanted.spec.matches(record) && (wanted.from.is_empty() || wanted.from.iter().any(holds))
}

/// The packages that nothing leads to, without those that only they need.
fn unneeded<'a>(packages: &'a [RepoDataRecord], specs: &[WantedSpec]) -> Vec<&'a str> {
    let name = |record: &'a RepoDataRecord| record.package_record.name.as_normalized();
    // By name: what a spec asks for in another version is asked for.
    let asked = specs
        .iter()
        .filter_map(|wanted| wanted.spec.name.as_exact());
    let asked = asked.map(|name| name.as_normalized().to_owned()).collect();
    let needed = reachable(packages, asked);
    let orphans: Vec<&RepoDataRecord> = packages
        .iter()
        .filter(|record| !needed.contains(name(record)))
        .collect();
    let below: BTreeSet<String> = orphans.iter().copied().flat_map(depends).collect();
    let tops: Vec<&str> = orphans
        .iter()
        .map(|record| name(record))
        .filter(|name| !below.contains(*name))
        .collect();
    match tops.is_empty() {
        // A circle has no top.
        true => orphans.into_iter().map(name).collect(),
        false => tops,
    }
}

fn depends(record: &RepoDataRecord) -> impl Iterator<Item = String> {
    let depends = record.package_record.depends.iter();
    depends.map(|spec| PackageName::normalized_name_from_matchspec_str(spec).into_owned())
}

fn reachable(packages: &[RepoDataRecord], mut queue: Vec<String>) -> BTreeSet<String> {
    let by_name: BTreeMap<&str, &RepoDataRecord> = packages
        .iter()
        .map(|record| (record.package_record.name.as_normalized(), record))
        .collect();
    let mut found = BTreeSet::new();
    while let Some(name) = queue.pop() {
        let Some(record) = by_name.get(name.as_str()) else {
            continue;
        };
        if found.insert(name) {
            queue.extend(depends(record));
        }
    }
    found
}
