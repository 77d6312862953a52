//! What a set of packages means together: clobbered paths, activation, link scripts.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use rattler_conda_types::{RepoDataRecord, package::PathType};
use serde::{Deserialize, Serialize};

use super::{
    archive::PackageInfo,
    prefix::{Exclusions, Prefix, place, target_paths},
};
use crate::error::{Error, Result};

/// What linking these packages into one prefix brings, found without reading their content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// Targets that a package loses to a later one, by package name.
    pub exclusions: Exclusions,
    /// Paths that more than one package ships.
    pub clobbers: Vec<Clobber>,
    /// Whether the prefix has `etc/conda/activate.d/*.sh`.
    pub activation: bool,
    /// Link scripts that conda would run on the user's machine.
    pub link_scripts: Vec<LinkScript>,
}

/// A path that more than one package ships.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clobber {
    /// The path in the prefix.
    pub path: PathBuf,
    /// The package whose file is there: the last one in topological order.
    pub winner: String,
    /// The package whose file is left out.
    pub loser: String,
}

/// A script that conda runs when it links a package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkScript {
    /// The package.
    pub package: String,
    /// The script's path in the prefix.
    pub path: PathBuf,
}

/// Surveys packages given in topological order, dependencies first.
///
/// # Errors
/// When a path leaves the prefix, or one package's file is another's folder.
pub fn survey(packages: &[(&RepoDataRecord, &PackageInfo)], prefix: &Prefix) -> Result<Survey> {
    let mut survey = Survey::default();
    let mut owners: HashMap<PathBuf, usize> = HashMap::new();
    for (index, (record, info)) in packages.iter().enumerate() {
        let name = record.package_record.name.as_normalized();
        let targets = target_paths(record, info, prefix)?;
        for (position, target) in targets.into_iter().enumerate() {
            survey.note(name, &target);
            let directory = info
                .paths
                .get(position)
                .is_some_and(|entry| entry.path_type == PathType::Directory);
            if directory {
                continue;
            }
            // A package's own command replaces its own file; the linker sees to that.
            let before = owners.insert(target.clone(), index);
            if let Some(loser) = before.filter(|loser| *loser != index) {
                let loser = packages[loser].0.package_record.name.as_normalized();
                survey.clobber(target, name, loser);
            }
        }
    }
    survey.clobbers.sort_by(|a, b| a.path.cmp(&b.path));
    refuse_files_as_folders(packages, &owners)?;
    Ok(survey)
}

impl Survey {
    fn note(&mut self, package: &str, target: &Path) {
        let folder = target.parent().unwrap_or(Path::new(""));
        let file = target.file_name().and_then(|f| f.to_str()).unwrap_or("");
        if folder == Path::new("etc/conda/activate.d") && file.ends_with(".sh") {
            self.activation = true;
        }
        let scripts = ["pre-link", "post-link"].map(|kind| format!(".{package}-{kind}.sh"));
        if folder == Path::new("bin") && scripts.iter().any(|script| script == file) {
            self.link_scripts.push(LinkScript {
                package: package.to_owned(),
                path: target.to_path_buf(),
            });
        }
    }

    fn clobber(&mut self, path: PathBuf, winner: &str, loser: &str) {
        self.exclusions
            .entry(loser.to_owned())
            .or_default()
            .insert(path.clone());
        self.clobbers.push(Clobber {
            path,
            winner: winner.to_owned(),
            loser: loser.to_owned(),
        });
    }
}

/// A path below another package's file or symlink cannot be a layer entry: extracting it would
/// replace the one by a folder, depending on the layer order.
fn refuse_files_as_folders(
    packages: &[(&RepoDataRecord, &PackageInfo)],
    owners: &HashMap<PathBuf, usize>,
) -> Result<()> {
    let mut found: Option<(&Path, &Path)> = None;
    for path in owners.keys() {
        for ancestor in path.ancestors().skip(1) {
            if owners.contains_key(ancestor)
                && found.is_none_or(|(known, _)| path.as_path() < known)
            {
                found = Some((path, ancestor));
            }
        }
    }
    let Some((path, ancestor)) = found else {
        return Ok(());
    };
    Err(Error::input("two packages do not fit into one environment")
        .at(place(packages[owners[path]].0))
        .why(format!(
            "it ships {}, but {} is a file or a link of {}",
            path.display(),
            ancestor.display(),
            place(packages[owners[ancestor]].0)
        ))
        .hint("leave one of the two packages out"))
}

/// The exclusions of one package.
pub fn excluded_of<'a>(exclusions: &'a Exclusions, name: &str) -> &'a BTreeSet<PathBuf> {
    static NONE: BTreeSet<PathBuf> = BTreeSet::new();
    exclusions.get(name).unwrap_or(&NONE)
}

/// Clobbers grouped for one warning a pair of packages: (winner, loser) -> paths.
pub fn by_pair(clobbers: &[Clobber]) -> BTreeMap<(&str, &str), Vec<&Path>> {
    let mut pairs: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for clobber in clobbers {
        pairs
            .entry((clobber.winner.as_str(), clobber.loser.as_str()))
            .or_default()
            .push(clobber.path.as_path());
    }
    pairs
}
