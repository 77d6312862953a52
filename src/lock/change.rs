//! What a new lock changes, in words.

use std::collections::BTreeMap;

use super::{Lock, LockedEnv};

/// What is different in `new`, a line each: the base image, then packages by name.
pub fn changes(old: &Lock, new: &Lock) -> Vec<String> {
    let mut lines = Vec::new();
    if let (Some(old), Some(new)) = (&old.base, &new.base)
        && old.digest != new.digest
    {
        lines.push(format!(
            "Updated base {} {} -> {}",
            new.reference, old.digest, new.digest
        ));
    }
    let nothing = LockedEnv::default();
    lines.extend(packages(&old.env, &new.env, ""));
    lines.extend(packages(
        old.miniconda.as_ref().unwrap_or(&nothing),
        new.miniconda.as_ref().unwrap_or(&nothing),
        " (Miniconda base)",
    ));
    lines
}

fn packages(old: &LockedEnv, new: &LockedEnv, of: &str) -> Vec<String> {
    let (old, new) = (versions(old), versions(new));
    let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let line = |name: &String| {
        let (old, new) = (old.get(name), new.get(name));
        Some(match (old, new) {
            (None, Some(new)) => format!("Added {name} {}{of}", new.short),
            (Some(old), None) => format!("Removed {name} {}{of}", old.short),
            (Some(old), Some(new)) if old.whole == new.whole => return None,
            (Some(old), Some(new)) if old.short != new.short => {
                format!("Updated {name} {} -> {}{of}", old.short, new.short)
            }
            (Some(old), Some(new)) => {
                format!("Updated {name} {} -> {}{of}", old.whole, new.whole)
            }
            (None, None) => return None,
        })
    };
    names.into_iter().filter_map(line).collect()
}

struct Version {
    short: String,
    whole: String,
}

/// Versions by name; a pip package beside a conda package of the same name is one of its own.
fn versions(env: &LockedEnv) -> BTreeMap<String, Version> {
    let conda = env.packages().iter().map(|record| {
        let package = &record.package_record;
        let version = Version {
            short: package.version.to_string(),
            whole: format!("{} {}", package.version, package.build),
        };
        (package.name.as_normalized().to_owned(), version)
    });
    let pip = env.wheels().iter().map(|wheel| {
        let version = Version {
            short: wheel.version.clone(),
            whole: wheel.file_name(),
        };
        (format!("{} (pip)", wheel.name), version)
    });
    conda.chain(pip).collect()
}
