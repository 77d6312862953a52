//! Why specs cannot be met: the fewest of them that conflict, what the newest packages that fit
//! them lack, and the way out.

use std::collections::HashSet;

use rattler_conda_types::{
    MatchSpec, Matches, PackageName, RepoDataRecord, Version, VersionSpec,
    version_spec::EqualityOperator,
};
use rattler_solve::{ChannelPriority, SolveError};

use super::Attempt;
use crate::{error::Error, lock::cuda::least};

/// The most lines of an explanation that a person reads.
const MAX_LINES: usize = 14;
/// What the solver draws its tree with, and how wide a level is.
const TREE: [char; 5] = ['├', '│', '└', '─', ' '];
const TREE_INDENT: usize = 3;
/// The solver's words before what conflicts.
const INCOMPATIBLE: &str = "The following packages are incompatible";
const CONFLICTS: &str = ", which conflicts with the versions reported above.";
/// The solver's words, and shorter ones.
const REWORDED: [(&str, &str); 7] = [
    (
        ", which cannot be installed because there are no viable options:",
        "",
    ),
    (
        " cannot be installed because there are no viable options:",
        "",
    ),
    (
        ", which can be installed with any of the following options:",
        "",
    ),
    (" can be installed with any of the following options:", ""),
    (
        ", for which no candidates were found.",
        ", which nothing here meets",
    ),
    (
        " is excluded because due to strict",
        ": left out, due to strict",
    ),
    ("No candidates were found for ", "nothing here meets "),
];
/// The most specs that are tried one by one; each costs a solve.
const MAX_TRIED: usize = 24;

/// A channel that gets no new versions (PyTorch's announcement of October 2024: 2.5 is the last
/// release with conda packages), by the last part of its URL.
const FROZEN: &str = "pytorch";
/// The last versions there, major and minor.
const LAST: [(&str, (u32, u32)); 4] = [
    ("pytorch", (2, 5)),
    ("torchvision", (0, 20)),
    ("torchaudio", (2, 5)),
    ("pytorch-cuda", (12, 4)),
];

/// The error for specs that the solver refused for these reasons.
pub(super) fn explain(
    attempt: &Attempt<'_>,
    reasons: &[String],
    constraints: &[MatchSpec],
) -> Error {
    // Specs that conflict by themselves are explained without what was added for CUDA.
    let own = attempt.refusal(attempt.request.specs, &[]);
    let (reasons, constraints) = match own {
        Some(own) => (own, &[][..]),
        None => (reasons.join("\n"), constraints),
    };
    let conflict = smallest(attempt, &reasons, constraints);
    let newest: Vec<MatchSpec> = conflict.iter().map(|s| attempt.newest(s)).collect();
    let told = attempt.refusal(&newest, constraints).unwrap_or(reasons);
    let lines = tidy(&told);
    let names: Vec<String> = conflict.iter().map(ToString::to_string).collect();
    let what = match names.as_slice() {
        [one] => format!("no set of packages meets '{one}'"),
        _ => "no set of packages meets all specs".to_owned(),
    };
    let mut error = Error::input(what);
    if names.len() > 1 {
        error = error.why(format!("these conflict: {}", names.join(", ")));
    }
    error.why(shortened(&lines)).hint(
        hint(attempt, &conflict, &lines, constraints)
            .unwrap_or_else(|| "loosen one of the specs named above".into()),
    )
}

/// A subset of the specs that conflicts, and no longer does when one is taken out.
fn smallest(attempt: &Attempt<'_>, told: &str, constraints: &[MatchSpec]) -> Vec<MatchSpec> {
    let all = attempt.request.specs;
    let words: HashSet<&str> = told.split_whitespace().collect();
    let mut left: Vec<MatchSpec> = all
        .iter()
        .filter(|spec| words.contains(name(spec)))
        .cloned()
        .collect();
    if attempt.refusal(&left, constraints).is_none() {
        left = all.to_vec();
    }
    if left.len() > MAX_TRIED {
        return left;
    }
    let mut at = 0;
    while at < left.len() {
        let mut fewer = left.clone();
        fewer.remove(at);
        match attempt.refusal(&fewer, constraints) {
            Some(_) => left = fewer,
            None => at += 1,
        }
    }
    left
}

impl Attempt<'_> {
    /// The solver's words when it refuses these specs.
    fn refusal(&self, specs: &[MatchSpec], constraints: &[MatchSpec]) -> Option<String> {
        match self.run(specs, constraints) {
            Err(SolveError::Unsolvable(reasons)) => Some(reasons.join("\n")),
            _ => None,
        }
    }

    /// The spec with the newest version that it allows, of the channel that counts: what fails for
    /// that one is what people ask about.
    fn newest(&self, spec: &MatchSpec) -> MatchSpec {
        let newest = self
            .eligible(name(spec))
            .filter(|record| spec.matches(*record))
            .map(|record| record.package_record.version.version())
            .max();
        let pin = |version: &Version| MatchSpec {
            version: Some(VersionSpec::Exact(
                EqualityOperator::Equals,
                version.clone(),
            )),
            ..spec.clone()
        };
        newest.map_or_else(|| spec.clone(), pin)
    }

    /// The records of that name that channel priority leaves.
    fn eligible<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s RepoDataRecord> {
        let mut records = self.named(name).peekable();
        let first = records.peek().and_then(|record| record.channel.clone());
        let strict = self.request.priority == ChannelPriority::Strict;
        records.filter(move |record| !strict || record.channel == first)
    }

    fn named<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s RepoDataRecord> {
        let has_name =
            move |record: &&RepoDataRecord| record.package_record.name.as_normalized() == name;
        self.index.records().filter(has_name)
    }
}

fn name(spec: &MatchSpec) -> &str {
    spec.name.as_exact().map_or("", PackageName::as_normalized)
}

/// The solver's tree as indented lines, each said once.
fn tidy(told: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut said = HashSet::new();
    let mut below = 0;
    for line in told.lines() {
        let text = line.trim_start_matches(TREE).trim_end();
        let depth = line.chars().take_while(|c| TREE.contains(c)).count() / TREE_INDENT;
        if text == INCOMPATIBLE {
            // Its items stand one level deeper than those of the parts before it.
            below = 1;
            continue;
        }
        // The versions that the others leave; that they conflict is what all of it says.
        if text.is_empty() || text.ends_with(CONFLICTS) {
            continue;
        }
        let text = REWORDED
            .iter()
            .fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
        if said.insert(text.clone()) {
            lines.push(format!(
                "{}{text}",
                "  ".repeat(depth.saturating_sub(below))
            ));
        }
    }
    lines
}

fn shortened(lines: &[String]) -> String {
    let mut text = lines
        .iter()
        .take(MAX_LINES)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join("\n");
    let cut = lines.len().saturating_sub(MAX_LINES);
    if cut > 0 {
        text.push_str(&format!("\n... and {cut} lines more"));
    }
    text
}

/// The way out, where something other than the specs themselves is the reason.
fn hint(
    attempt: &Attempt<'_>,
    conflict: &[MatchSpec],
    lines: &[String],
    constraints: &[MatchSpec],
) -> Option<String> {
    let says = |word: &str| lines.iter().any(|line| line.contains(word));
    conflict
        .iter()
        .find_map(|spec| frozen(attempt, spec))
        .or_else(|| says("__cuda").then(|| cuda(attempt)))
        .or_else(|| says("__glibc").then(|| glibc(attempt)))
        .or_else(|| pinned_cuda(attempt, conflict, constraints))
        .or_else(|| conflict.iter().find_map(|spec| hidden(attempt, spec)))
        .or_else(|| lines.iter().find_map(|line| left_out(line)))
}

fn frozen(attempt: &Attempt<'_>, spec: &MatchSpec) -> Option<String> {
    let wanted = name(spec);
    let (_, (major, minor)) = LAST.iter().find(|(package, _)| *package == wanted)?;
    let first = attempt.named(wanted).next()?.channel.clone()?;
    let ends = first.trim_end_matches('/').rsplit('/').next() == Some(FROZEN);
    let lowest = least(spec.version.as_ref()?)?;
    let newer = (lowest.major, lowest.minor.unwrap_or(0)) > (*major, *minor);
    (ends && newer).then(|| {
        format!(
            "the channel `{FROZEN}` is frozen, its last {wanted} is {major}.{minor}: take a newer \
             one from conda-forge (where cuda-version=12.9 does what pytorch-cuda did), with \
             `{FROZEN}` left out of `channels:`"
        )
    })
}

fn cuda(attempt: &Attempt<'_>) -> String {
    match attempt.request.virtual_packages.cuda.as_deref() {
        None | Some("") => "the image is for machines with GPUs: give the CUDA version that their \
             driver offers, such as --cuda 12.9 (or `cuda:` in imgbuild.yaml, or \
             CONDA_OVERRIDE_CUDA)"
            .into(),
        Some(given) => format!(
            "the image is for drivers with CUDA {given}: loosen one of the specs named above, or \
             give a newer one if the machines have it"
        ),
    }
}

fn glibc(attempt: &Attempt<'_>) -> String {
    let given = attempt.request.virtual_packages.glibc.as_deref();
    let has = match given {
        None => format!("it is taken as {}", super::ASSUMED_GLIBC),
        Some("") => "it is switched off".into(),
        Some(version) => format!("the base image has {version}"),
    };
    format!(
        "glibc is the reason, and {has}: take a newer base image (--base), or loosen one of the \
         specs named above"
    )
}

/// Whether it is only the CUDA release that stands in the way.
fn pinned_cuda(
    attempt: &Attempt<'_>,
    conflict: &[MatchSpec],
    constraints: &[MatchSpec],
) -> Option<String> {
    let blocked = !constraints.is_empty() && attempt.refusal(conflict, &[]).is_none();
    let version = attempt.request.cuda.version.as_deref()?;
    blocked.then(|| {
        format!(
            "there are builds, but none for CUDA {version}: ask for another CUDA version, or \
             loosen one of the specs named above"
        )
    })
}

/// A lower channel that has what is asked for.
fn hidden(attempt: &Attempt<'_>, spec: &MatchSpec) -> Option<String> {
    let wanted = name(spec);
    if attempt.request.priority != ChannelPriority::Strict
        || attempt.eligible(wanted).any(|record| spec.matches(record))
    {
        return None;
    }
    let first = attempt.named(wanted).next()?.channel.clone()?;
    let other = attempt.named(wanted).find(|record| spec.matches(*record))?;
    let other = other.channel.as_deref()?;
    Some(format!(
        "{other} has '{spec}', but {first} comes first and has a {wanted} too, so only its own \
         count (strict channel priority): list the channel first, write {}::{wanted}, or use \
         --channel-priority flexible",
        other.trim_end_matches('/')
    ))
}

/// A dependency that a lower channel has, from the solver's own words.
fn left_out(line: &str) -> Option<String> {
    let (package, rest) = line
        .trim()
        .split_once(": left out, due to strict channel priority")?;
    let channel = rest.split('\'').nth(1)?;
    Some(format!(
        "{channel} has {package}, but a channel above it has packages of that name, and only \
         those count (strict channel priority): change the order of channels, or use \
         --channel-priority flexible"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_become_lines_that_are_said_once() {
        let told = "\
The following packages are incompatible
├─ a * can be installed with any of the following options:
│  └─ a 1.0 would require
│     └─ c >=2, for which no candidates were found.
└─ b * cannot be installed because there are no viable options:
   └─ b 1.0 would require
      └─ c >=2, for which no candidates were found.
";
        assert_eq!(
            tidy(told),
            [
                "a *",
                "  a 1.0 would require",
                "    c >=2, which nothing here meets",
                "b *",
                "  b 1.0 would require",
            ]
        );
        let many: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        assert!(shortened(&many).ends_with("13\n... and 6 lines more"));
    }
}
