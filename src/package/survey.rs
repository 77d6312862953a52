//! What the packages of a prefix mean together: clobbered paths, activation, link scripts.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::{Path, PathBuf},
};

use pep508_rs::PackageName;
use rattler_conda_types::{RepoDataRecord, package::PathType};
use serde::{Deserialize, Serialize};

use super::{
    archive::PackageInfo,
    outline::{Claims, Outline},
    prefix::{Exclusions, Prefix, place, pyc_target, target_paths},
};
use crate::{
    digest::Digest,
    error::{Error, Result},
};

/// What one package brings into a prefix.
#[derive(Clone, Debug)]
pub struct Contents {
    /// The package's name among all of the prefix: [`wheel_id`] for a wheel.
    pub id: String,
    /// How messages name it.
    pub place: String,
    /// What it puts where.
    pub targets: Vec<Target>,
    /// Where the compiled forms of its Python sources go that it may not ship ([`compiled`]).
    pub compiled: Vec<PathBuf>,
    /// The projects that a conda package has installed where pip looks for them, as ids of their
    /// wheels, and that `site-packages`.
    pub projects: BTreeMap<String, PathBuf>,
    /// What stands for most of its paths, where the package was not opened.
    pub claims: Option<Claims>,
    /// The size of its archive in bytes.
    pub size: u64,
    /// The md5 of its archive, where it had to be computed.
    pub md5: Option<String>,
    /// When it was built, in seconds since the epoch; 0 when it does not say.
    pub built_at: u64,
    /// Whether what it installs depends on the environment's Python.
    pub for_python: bool,
}

/// One path of a package in the prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The path.
    pub path: PathBuf,
    /// Whether it is a folder, which packages may share.
    pub folder: bool,
    /// The sha256 of the file in the prefix, where the package tells.
    pub sha256: Option<Digest>,
}

/// What linking these packages into one prefix brings, found without reading their content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// Targets that a package loses to a later one, by id.
    pub exclusions: Exclusions,
    /// Paths that packages ship with different content; wheels over conda packages left out.
    pub clobbers: Vec<Clobber>,
    /// Paths of conda packages that a wheel ships with other content.
    pub overwrites: Vec<Clobber>,
    /// Whether the prefix has `etc/conda/activate.d/*.sh`.
    pub activation: bool,
    /// Link scripts that conda would run on the user's machine.
    pub link_scripts: Vec<LinkScript>,
    /// The ids of the packages that depend on the environment's Python.
    pub for_python: BTreeSet<String>,
    /// The sizes of the archives in bytes, by id.
    pub sizes: BTreeMap<String, u64>,
    /// The md5s, as hexadecimal digits and by id, of conda packages whose lock does not say it:
    /// records have one, and must not differ from lock to lock.
    pub md5s: BTreeMap<String, String>,
    /// When the newest package was built, in seconds since the epoch.
    pub built_at: u64,
    /// Each package among the others, by what it is known by: for surveys of other sets.
    pub outlines: BTreeMap<Digest, Outline>,
}

/// A path that more than one package ships.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clobber {
    /// The path in the prefix.
    pub path: PathBuf,
    /// The package whose file is there: the last one in topological order, wheels after all
    /// others.
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

const WHEEL: &str = "pip:";

/// A wheel's id; no conda package can have it, for their names have no colon (CEP 26).
pub fn wheel_id(name: &str) -> String {
    format!("{WHEEL}{name}")
}

/// How messages name the package of an id.
pub fn named(id: &str) -> String {
    match id.strip_prefix(WHEEL) {
        Some(name) => format!("{name} (pip)"),
        None => id.to_owned(),
    }
}

/// What a conda package brings; `size` is its archive's, in bytes.
///
/// # Errors
/// When a path leaves the prefix, or a `noarch: python` package has no Python to go with.
pub fn contents(
    record: &RepoDataRecord,
    info: &PackageInfo,
    size: u64,
    prefix: &Prefix,
) -> Result<Contents> {
    let paths = target_paths(record, info, prefix)?;
    let targets = paths.into_iter().enumerate().map(|(position, path)| {
        // Generated commands come after the package's own paths.
        let listed = info.paths.get(position);
        let plain = listed.filter(|entry| entry.prefix_placeholder.is_none());
        Target {
            path,
            folder: listed.is_some_and(|entry| entry.path_type == PathType::Directory),
            sha256: plain
                .filter(|entry| entry.path_type == PathType::HardLink)
                .and_then(|entry| entry.sha256)
                .map(|hash| Digest::from_bytes(hash.into())),
        }
    });
    let targets: Vec<Target> = targets.collect();
    let for_python = info.index.noarch.is_python();
    Ok(Contents {
        id: record.package_record.name.as_normalized().to_owned(),
        place: place(record),
        compiled: match for_python {
            true => compiled(&targets, prefix),
            false => Vec::new(),
        },
        projects: projects(&targets),
        claims: None,
        targets,
        size,
        md5: None,
        built_at: info.built_at(),
        for_python,
    })
}

/// Where the compiled forms of these sources go, whether they are made or not.
pub fn compiled(targets: &[Target], prefix: &Prefix) -> Vec<PathBuf> {
    let python = prefix.python.iter();
    python
        .flat_map(|python| targets.iter().map(move |target| (target, python)))
        .filter_map(|(target, python)| pyc_target(&target.path, python))
        .collect()
}

/// The projects that lie in `site-packages`.
pub(super) fn projects(targets: &[Target]) -> BTreeMap<String, PathBuf> {
    let found = targets.iter().filter_map(|target| {
        let (project, site) = installed_project(&target.path)?;
        Some((wheel_id(&project), site.to_owned()))
    });
    found.collect()
}

/// Surveys packages given in the order in which they would be installed: conda packages in
/// topological order, dependencies first, then wheels by name. Those that were not opened must be
/// untouched by the others ([`touched`](super::touched)).
///
/// # Errors
/// When one package's file is another's folder.
pub fn survey<C: Borrow<Contents>>(packages: &[C]) -> Result<Survey> {
    let packages: Vec<&Contents> = packages.iter().map(Borrow::borrow).collect();
    let mut survey = Survey::default();
    let mut owners: HashMap<&Path, (&Contents, Option<Digest>)> = HashMap::new();
    let mut compiled: HashSet<&Path> = HashSet::new();
    for package in &packages {
        survey.sizes.insert(package.id.clone(), package.size);
        let md5 = package.md5.iter().cloned();
        let md5 = md5.map(|md5| (package.id.clone(), md5));
        survey.md5s.extend(md5);
        survey.built_at = survey.built_at.max(package.built_at);
        if package.for_python {
            survey.for_python.insert(package.id.clone());
        }
        for target in &package.targets {
            survey.note(&package.id, &target.path);
            if target.folder {
                continue;
            }
            let before = owners.insert(&target.path, (package, target.sha256));
            // A package's own command replaces its own file; the linker sees to that.
            if let Some((loser, sha256)) = before.filter(|(loser, _)| loser.id != package.id) {
                let same = sha256.is_some() && sha256 == target.sha256;
                let quiet = same || compiled.contains(target.path.as_path());
                survey.lose(&target.path, &package.id, &loser.id, quiet);
            }
        }
        for path in &package.compiled {
            // A compiled file goes with its source, of which the user hears.
            if let Some((loser, _)) = owners.insert(path, (package, None))
                && loser.id != package.id
            {
                survey.lose(path, &package.id, &loser.id, true);
            }
            compiled.insert(path);
        }
    }
    survey.replace(&packages);
    survey.clobbers.sort_by(|a, b| a.path.cmp(&b.path));
    survey.overwrites.sort_by(|a, b| a.path.cmp(&b.path));
    refuse_files_as_folders(&owners)?;
    Ok(survey)
}

impl Survey {
    /// The md5 of a conda package's archive: the lock's, else the one that was measured.
    pub fn md5_of(&self, record: &RepoDataRecord, id: &str) -> Option<String> {
        let locked = record.package_record.md5.map(hex::encode);
        locked.or_else(|| self.md5s.get(id).cloned())
    }

    fn note(&mut self, package: &str, target: &Path) {
        self.activation |= is_activation(target);
        if is_link_script(package, target) {
            self.link_scripts.push(LinkScript {
                package: package.to_owned(),
                path: target.to_path_buf(),
            });
        }
    }

    /// A wheel of a project that a conda package has installed goes in its place, as it does when
    /// pip finds one installed: what else of it is in `site-packages` goes too, since modules of
    /// two versions beside each other break.
    fn replace(&mut self, packages: &[&Contents]) {
        let installed = packages.iter().flat_map(|package| {
            let projects = package.projects.iter();
            projects.map(move |(project, site)| (project.as_str(), (*package, site)))
        });
        let known: HashMap<&str, (&Contents, &PathBuf)> = installed.collect();
        for wheel in packages {
            let Some((package, site)) = known.get(wheel.id.as_str()) else {
                continue;
            };
            let files = package.targets.iter().filter(|target| !target.folder);
            for target in files.filter(|target| target.path.starts_with(site)) {
                self.lose(&target.path, &wheel.id, &package.id, false);
            }
        }
    }

    /// Every file has one owner; of content that is the same nobody need hear.
    fn lose(&mut self, path: &Path, winner: &str, loser: &str, quiet: bool) {
        let lost = self.exclusions.entry(loser.to_owned()).or_default();
        if !lost.insert(path.to_owned()) || quiet {
            return;
        }
        let over_conda = winner.starts_with(WHEEL) && !loser.starts_with(WHEEL);
        let list = match over_conda {
            true => &mut self.overwrites,
            false => &mut self.clobbers,
        };
        list.push(Clobber {
            path: path.to_owned(),
            winner: winner.to_owned(),
            loser: loser.to_owned(),
        });
    }
}

/// Whether a survey tells of the path.
pub(super) fn is_noted(package: &str, target: &Path) -> bool {
    is_activation(target) || is_link_script(package, target)
}

fn is_activation(target: &Path) -> bool {
    let folder = target.parent();
    folder == Some(Path::new("etc/conda/activate.d"))
        && target.extension().is_some_and(|kind| kind == "sh")
}

fn is_link_script(package: &str, target: &Path) -> bool {
    let name = target.strip_prefix("bin").ok().and_then(Path::to_str);
    let script = name.and_then(|name| name.strip_prefix('.')?.strip_prefix(package));
    matches!(script, Some("-pre-link.sh" | "-post-link.sh"))
}

/// The project, normalised, whose metadata lies at `site-packages/NAME-VERSION.dist-info` or
/// `.egg-info`, and that `site-packages` (PyPA specification "Recording installed projects").
fn installed_project(path: &Path) -> Option<(String, &Path)> {
    let (folder, stem) = path.ancestors().find_map(|folder| {
        let name = folder.file_name()?.to_str()?;
        let stem = name
            .strip_suffix(".dist-info")
            .or(name.strip_suffix(".egg-info"))?;
        Some((folder, stem))
    })?;
    let site = folder.parent()?;
    let project = stem.split('-').next()?.parse::<PackageName>().ok()?;
    // Deeper ones are vendored.
    (site.file_name()? == "site-packages").then(|| (project.to_string(), site))
}

/// A path below another package's file or symlink cannot be a layer entry: extracting it would
/// replace the one by a folder, depending on the layer order.
fn refuse_files_as_folders(owners: &HashMap<&Path, (&Contents, Option<Digest>)>) -> Result<()> {
    let below = |path: &&Path| path.ancestors().skip(1).any(|a| owners.contains_key(a));
    let Some(path) = owners.keys().copied().filter(below).min() else {
        return Ok(());
    };
    let owned = |path: &Path| owners.get(path).map(|(owner, _)| owner.place.as_str());
    let above = path
        .ancestors()
        .skip(1)
        .find_map(|ancestor| Some((ancestor, owned(ancestor)?)));
    let (Some(owner), Some((ancestor, other))) = (owned(path), above) else {
        return Ok(());
    };
    Err(Error::input("two packages do not fit into one environment")
        .at(owner)
        .why(format!(
            "it ships {}, but {} is a file or a link of {other}",
            path.display(),
            ancestor.display(),
        ))
        .hint("leave one of the two packages out"))
}

/// The exclusions of one package.
pub fn excluded_of<'a>(exclusions: &'a Exclusions, id: &str) -> &'a BTreeSet<PathBuf> {
    static NONE: BTreeSet<PathBuf> = BTreeSet::new();
    exclusions.get(id).unwrap_or(&NONE)
}

/// Clobbers grouped for one message a pair of packages: (winner, loser) -> paths.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn package(id: &str, targets: &[(&str, &str)]) -> Contents {
        let target = |(path, content): &(&str, &str)| Target {
            path: path.into(),
            folder: content.is_empty(),
            sha256: (*content != "?").then(|| Digest::of(content.as_bytes())),
        };
        let targets: Vec<Target> = targets.iter().map(target).collect();
        Contents {
            id: id.into(),
            place: format!("package {id}"),
            compiled: Vec::new(),
            projects: match id.starts_with(WHEEL) {
                true => BTreeMap::new(),
                false => projects(&targets),
            },
            targets,
            claims: None,
            size: 10,
            md5: None,
            built_at: id.len() as u64,
            for_python: id.starts_with(WHEEL),
        }
    }

    fn clobber(path: &str, winner: &str, loser: &str) -> Clobber {
        Clobber {
            path: path.into(),
            winner: winner.into(),
            loser: loser.into(),
        }
    }

    #[test]
    fn every_path_has_one_owner_and_differences_are_told() {
        let found = survey(&[
            package("a", &[("same", "1"), ("other", "1"), ("dir", "")]),
            package("numpy", &[("same", "1"), ("other", "2"), ("init", "1")]),
            package("pip:x", &[("init", "2"), ("ns", "1"), ("dir", "")]),
            package("pip:y", &[("ns", "1"), ("same", "1"), ("bin/y", "?")]),
            package("pip:z", &[("ns", "2"), ("bin/y", "?")]),
        ])
        .unwrap();
        let excluded = |id: &str| -> Vec<String> {
            let paths = excluded_of(&found.exclusions, id).iter();
            paths.map(|path| path.display().to_string()).collect()
        };
        assert_eq!(excluded("a"), ["other", "same"]);
        assert_eq!(excluded("numpy"), ["init", "same"]);
        assert_eq!(excluded("pip:x"), ["ns"]);
        assert_eq!(excluded("pip:y"), ["bin/y", "ns"]);
        assert_eq!(excluded("pip:z"), [""; 0]);
        assert_eq!(
            found.clobbers,
            [
                clobber("bin/y", "pip:z", "pip:y"),
                clobber("ns", "pip:z", "pip:y"),
                clobber("other", "numpy", "a"),
            ]
        );
        assert_eq!(found.overwrites, [clobber("init", "pip:x", "numpy")]);
        assert_eq!((found.built_at, found.sizes.len()), (5, 5));
        assert!(found.for_python.contains("pip:x") && !found.for_python.contains("a"));
    }

    #[test]
    fn a_wheel_goes_in_the_place_of_the_same_project() {
        const SITE: &str = "lib/python3.11/site-packages";
        let [init, old, info, new_info, vendored] = [
            "np/__init__.py",
            "np/old.py",
            "Num_Py-1.0.dist-info/RECORD",
            "num_py-2.0.dist-info/RECORD",
            "np/_vendor/six-1.0.dist-info/RECORD",
        ]
        .map(|path| format!("{SITE}/{path}"));
        let conda = [
            (init.as_str(), "1"),
            (&old, "1"),
            (&info, "1"),
            (&vendored, "1"),
            ("lib/libnp.so", "1"),
        ];
        let found = survey(&[
            package("numpy", &conda),
            package("pip:num-py", &[(&init, "1"), (&new_info, "2")]),
            package("pip:six", &[("six.py", "1")]),
        ])
        .unwrap();
        let lost = excluded_of(&found.exclusions, "numpy").iter();
        let kept = ["lib/libnp.so"].map(PathBuf::from);
        let all: BTreeSet<PathBuf> = conda.iter().map(|(path, _)| path.into()).collect();
        assert_eq!(lost.cloned().chain(kept).collect::<BTreeSet<_>>(), all);
        let told: Vec<&Path> = found.overwrites.iter().map(|o| o.path.as_path()).collect();
        assert_eq!(told, [&info, &vendored, &old].map(Path::new));
    }

    #[test]
    fn a_wheels_file_is_no_conda_packages_folder() {
        let link = package("a-link", &[("lib/x", "?")]);
        let error = survey(&[link, package("pip:x", &[("lib/x/y", "1")])]).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("package pip:x") && text.contains("package a-link"),
            "{text}"
        );
    }
}
