//! Whether a lock still answers, and what of it is kept when it does not.

use std::collections::BTreeSet;

use pep508_rs::{ExtraName, VersionOrUrl};
use rattler_conda_types::RepoDataRecord;

use super::{
    Conditions, Lock, LockedBase, LockedEnv, LockedWheel, PipConditions, WantedSpec,
    conditions::clean,
    pip::markers,
    satisfies::{WantedChannel, unsatisfied},
};
use crate::{
    digest::Digest,
    machine::Machine,
    spec::{PipRequirement, PipSection, source::Place},
};

/// One reason why a lock does not answer any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmet {
    /// Where the environment file asks for it; `None` when the reason stands nowhere in it.
    pub place: Option<Place>,
    /// The reason, in words.
    pub what: String,
}

impl Unmet {
    pub(super) fn at(place: Place, what: String) -> Self {
        Self {
            place: (place.line > 0).then_some(place),
            what,
        }
    }

    /// A reason that stands nowhere in the environment file.
    pub fn anywhere(what: String) -> Self {
        Self { place: None, what }
    }

    /// The reason, with `file:line:column` where there is a place.
    pub fn in_file(&self, file: &str) -> String {
        match self.place {
            Some(Place { line, column }) => format!("{} ({file}:{line}:{column})", self.what),
            None => self.what.clone(),
        }
    }
}

/// What a lock has to answer.
pub struct Wanted<'a> {
    /// The channels in priority order.
    pub channels: &'a [WantedChannel],
    /// What the environment must hold.
    pub specs: &'a [WantedSpec],
    /// What a Miniconda base must hold, when there is one.
    pub miniconda: Option<&'a [WantedSpec]>,
    /// The pip packages.
    pub pip: &'a PipSection,
    /// What the solver would be told.
    pub conditions: &'a Conditions,
    /// What the image runs on.
    pub machine: Machine,
}

/// Every reason why the packages of the lock do not answer any more; empty when they do.
pub fn unmet(lock: &Lock, wanted: &Wanted<'_>) -> Vec<Unmet> {
    let mut all = unsatisfied(&lock.env, wanted.channels, wanted.specs);
    match (wanted.miniconda, &lock.miniconda) {
        (None, None) => {}
        (Some(specs), Some(locked)) => all.extend(unsatisfied(locked, wanted.channels, specs)),
        (Some(_), None) => all.push(Unmet::anywhere("it has no Miniconda base".into())),
        (None, Some(_)) => all.push(Unmet::anywhere(
            "it has a Miniconda base, and nothing asks for one any more".into(),
        )),
    }
    all.extend(conditions(&lock.conditions, wanted.conditions));
    all.extend(pip(lock, wanted));
    all
}

/// The packages that a new solve should keep: all that the lock has from a channel that is still
/// searched, but those named in `update`.
pub fn keep(env: &LockedEnv, channels: &[WantedChannel], update: &[String]) -> Vec<RepoDataRecord> {
    let searched = |record: &RepoDataRecord| {
        channels
            .iter()
            .any(|channel| super::channels::holds(&channel.url, &record.url))
    };
    env.packages()
        .iter()
        .filter(|record| searched(record))
        .filter(|record| {
            let name = record.package_record.name.as_normalized();
            update.iter().all(|other| other != name)
        })
        .cloned()
        .collect()
}

fn conditions(locked: &Conditions, wanted: &Conditions) -> Vec<Unmet> {
    let mut all = Vec::new();
    let names: BTreeSet<&str> = [locked, wanted]
        .into_iter()
        .flat_map(|side| &side.virtual_packages)
        .filter_map(|package| package.split('=').next())
        .collect();
    for name in names {
        let (old, new) = (whole(locked, name), whole(wanted, name));
        if old != new {
            all.push(Unmet::anywhere(format!(
                "it was solved {}, and the image is {} now",
                with(name, old),
                with(name, new)
            )));
        }
    }
    if locked.channel_priority != wanted.channel_priority {
        all.push(Unmet::anywhere("the channel priority changed".into()));
    }
    if locked.exclude_newer != wanted.exclude_newer {
        let say = |time: Option<jiff::Timestamp>| match time {
            Some(time) => format!("packages up to {time}"),
            None => "packages of any date".into(),
        };
        all.push(Unmet::anywhere(format!(
            "it was solved with {}, and {} are asked for now",
            say(locked.exclude_newer),
            say(wanted.exclude_newer)
        )));
    }
    all
}

fn whole<'a>(conditions: &'a Conditions, name: &str) -> Option<&'a str> {
    let packages = conditions.virtual_packages.iter();
    packages
        .filter_map(|package| package.split_once('='))
        .find(|(other, _)| *other == name)
        .map(|(_, rest)| rest)
}

fn with(name: &str, version: Option<&str>) -> String {
    match version {
        Some(version) => format!("for {name}={}", version.trim_end_matches("=0")),
        None => format!("for machines without {name}"),
    }
}

/// Why the lock does not answer for the base image; `None` when it does. `found` is the digest of
/// a base that was looked at.
pub fn unmet_base(
    locked: Option<&LockedBase>,
    reference: Option<&str>,
    found: Option<&Digest>,
) -> Option<Unmet> {
    let what = match (locked, reference) {
        (None, None) => return None,
        (None, Some(_)) => "it does not lock the base image".into(),
        (Some(locked), None) => format!("it locks the base image {}", locked.reference),
        (Some(locked), Some(wanted)) if locked.reference != wanted => format!(
            "it locks the base image {} and not {wanted}",
            locked.reference
        ),
        (Some(locked), Some(_)) => match found {
            Some(found) if *found != locked.digest => {
                format!("the base image changed from {} to {found}", locked.digest)
            }
            _ => return None,
        },
    };
    Some(Unmet::anywhere(what))
}

/// The conditions of a `pip:` section; `None` when it asks for nothing.
pub fn pip_conditions(pip: &PipSection) -> Option<PipConditions> {
    let names = pip.requirements.iter().map(name_of).collect();
    (!pip.requirements.is_empty()).then(|| PipConditions::new(names, &pip.sources))
}

/// The name with its extras.
fn name_of(requirement: &PipRequirement) -> String {
    let parsed = &requirement.parsed;
    let mut extras: Vec<&str> = parsed.extras.iter().map(ExtraName::as_ref).collect();
    extras.sort_unstable();
    match extras.is_empty() {
        true => parsed.name.to_string(),
        false => format!("{}[{}]", parsed.name, extras.join(",")),
    }
}

fn pip(lock: &Lock, wanted: &Wanted<'_>) -> Vec<Unmet> {
    let nothing = PipConditions::default();
    let locked = lock.conditions.pip.as_ref().unwrap_or(&nothing);
    let asked = pip_conditions(wanted.pip).unwrap_or_default();
    let mut all = Vec::new();
    let markers = markers(lock.env.packages(), wanted.machine);
    let applies = |requirement: &PipRequirement| {
        let evaluate = |markers| requirement.parsed.evaluate_markers(markers, &[]);
        markers.as_ref().is_none_or(evaluate)
    };
    let asks = wanted.pip.requirements.iter().map(|line| (line, true));
    let limits = wanted.pip.constraints.iter().map(|line| (line, false));
    for (requirement, asks) in asks.chain(limits) {
        let known = !asks || locked.names.contains(&name_of(requirement));
        let allowed = !applies(requirement) || allows(requirement, lock.env.wheels());
        if !known || !allowed {
            let place = Place {
                line: requirement.line,
                column: requirement.column,
            };
            let what = format!("no locked wheel meets '{}'", requirement.text);
            all.push(match requirement.included {
                true => Unmet::anywhere(format!("{what} ({})", requirement.place())),
                false => Unmet::at(place, what),
            });
        }
    }
    let gone = locked
        .names
        .iter()
        .filter(|name| !asked.names.contains(name));
    all.extend(gone.map(|name| {
        Unmet::anywhere(format!(
            "{name} is locked for pip, but nothing asks for it any more"
        ))
    }));
    let sources = |of: &PipConditions| (of.indexes.clone(), of.find_links.clone(), of.prereleases);
    if !locked.names.is_empty() && !asked.names.is_empty() && sources(locked) != sources(&asked) {
        all.push(Unmet::anywhere(
            "the pip indexes or their options changed".into(),
        ));
    }
    all
}

/// Whether the wheel of that name, when there is one, is of a version that is asked for. A name
/// without a wheel is a package that conda brings, or one that a marker leaves out.
fn allows(requirement: &PipRequirement, wheels: &[LockedWheel]) -> bool {
    let Some(wheel) = wheels.iter().find(|wheel| wheel.name == requirement.name()) else {
        return true;
    };
    let hashes = &requirement.hashes;
    if !hashes.is_empty() && !hashes.contains(&wheel.sha256) {
        return false;
    }
    match &requirement.parsed.version_or_url {
        None => true,
        Some(VersionOrUrl::VersionSpecifier(specifiers)) => wheel
            .version
            .parse()
            .is_ok_and(|version| specifiers.contains(&version)),
        Some(VersionOrUrl::Url(url)) => {
            let mut url = url.clone();
            url.set_fragment(None);
            clean(&url) == clean(&wheel.url)
        }
    }
}

#[cfg(test)]
#[path = "renew_tests.rs"]
mod tests;
