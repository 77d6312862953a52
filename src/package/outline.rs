//! What a package brings, in a short form that tells what packages mean together when others of
//! them changed.
//!
//! Nearly all files lie in folders that one package has to itself. It *claims* such a folder, with
//! all that is below, as a whole; and it claims a file that it alone has in a folder of several.
//! Only paths that several packages have are kept one by one. A package that comes anew shares no
//! path with another whose claims it does not touch; one that it touches is to be opened.
//!
//! Names are claimed by a hash of 24 bits, which is a quarter of their length. Two names of one
//! hash may let a package be opened in vain, but nothing that is touched goes unseen.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, hash_map::Entry},
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD as BASE64};
use serde::{Deserialize, Serialize};

use super::survey::{Contents, Survey, Target, is_noted, named};
use crate::digest::Digest;

/// A package among the others of its prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outline {
    built_at: u64,
    claims: Claims,
    /// What others have too, and what a survey tells of by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    targets: Vec<Target>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    compiled: Vec<PathBuf>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    projects: BTreeSet<String>,
}

/// Paths that are one package's alone, by the folder that they stand in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Claims(BTreeMap<PathBuf, Names>);

/// Names in a folder; as text, the hashes in base64.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Names(BTreeSet<Name>);

/// The first bytes of a name's sha256.
type Name = [u8; 3];

impl Claims {
    fn add(&mut self, folder: &Path, name: Name) {
        match self.0.get_mut(folder) {
            Some(names) => names.0.insert(name),
            None => {
                let names = Names(BTreeSet::from([name]));
                self.0.insert(folder.to_owned(), names).is_none()
            }
        };
    }
}

impl From<Names> for String {
    fn from(names: Names) -> Self {
        let bytes: Vec<u8> = names.0.into_iter().flatten().collect();
        BASE64.encode(bytes)
    }
}

impl TryFrom<String> for Names {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = BASE64.decode(text).map_err(|_| "names are not base64")?;
        match bytes.as_chunks() {
            (names, []) => Ok(Self(names.iter().copied().collect())),
            _ => Err("names are not whole"),
        }
    }
}

/// The folder and the name of a path; none of the prefix itself.
fn split(path: &Path) -> Option<(&Path, &OsStr)> {
    path.parent().zip(path.file_name())
}

fn hashed(name: &OsStr) -> Name {
    let [a, b, c, ..] = *Digest::of(name.as_bytes()).bytes();
    [a, b, c]
}

/// Outlines packages, all of the prefix, in their order.
pub fn outlines<C: Borrow<Contents>>(packages: &[C]) -> Vec<Outline> {
    let packages: Vec<&Contents> = packages.iter().map(Borrow::borrow).collect();
    let folders = Folders::of(&packages);
    let shared = folders.shared(&packages);
    let packages = packages.into_iter().enumerate();
    packages
        .map(|(index, package)| Outline {
            built_at: package.built_at,
            claims: folders.claims(index, package, &shared),
            targets: kept(package, &shared).cloned().collect(),
            compiled: {
                let compiled = package.compiled.iter();
                let compiled = compiled.filter(|path| shared.contains(path.as_path()));
                compiled.cloned().collect()
            },
            projects: package.projects.keys().cloned().collect(),
        })
        .collect()
}

impl Outline {
    /// What the package brings, as far as that is told here. The survey is the one that it was
    /// outlined with; none where that tells nothing of the package.
    pub fn contents(&self, id: String, survey: &Survey) -> Option<Contents> {
        let site = |project: &String| (project.clone(), PathBuf::new());
        Some(Contents {
            size: *survey.sizes.get(&id)?,
            md5: survey.md5s.get(&id).cloned(),
            for_python: survey.for_python.contains(&id),
            place: named(&id),
            id,
            targets: self.targets.clone(),
            compiled: self.compiled.clone(),
            // Where such a project is replaced, the package is touched.
            projects: self.projects.iter().map(site).collect(),
            built_at: self.built_at,
            claims: Some(self.claims.clone()),
        })
    }
}

/// Which packages, by position, are told by outlines that do not suffice beside the opened ones.
pub fn touched(packages: &[Contents]) -> Vec<usize> {
    let places = Places::of(packages);
    let mut found = BTreeSet::new();
    let mut seen: HashSet<&Path> = HashSet::new();
    let opened = packages.iter().filter(|package| package.claims.is_none());
    for file in opened.flat_map(files) {
        // What is there a folder of others.
        let below = places.0.get(file).map(|place| &place.below);
        found.extend(below.into_iter().flatten().copied());
        let new = file.ancestors().take_while(|path| seen.insert(path));
        for (folder, name) in new.filter_map(split) {
            if let Some(place) = places.0.get(folder) {
                let name = hashed(name);
                let claimed = place
                    .claims
                    .iter()
                    .filter(|(_, names)| names.0.contains(&name));
                found.extend(claimed.map(|(package, _)| *package));
            }
        }
    }
    let ids: HashSet<&str> = packages.iter().map(|package| package.id.as_str()).collect();
    let replaced = packages.iter().enumerate().filter(|(_, package)| {
        let mut projects = package.projects.keys();
        package.claims.is_some() && projects.any(|project| ids.contains(project.as_str()))
    });
    found.extend(replaced.map(|(position, _)| position));
    found.into_iter().collect()
}

/// The folders of what packages claim.
struct Places<'a>(HashMap<&'a Path, Claimed<'a>>);

/// What is claimed in a folder, with the packages' positions.
#[derive(Default)]
struct Claimed<'a> {
    claims: Vec<(usize, &'a Names)>,
    /// Who claims something there or further below.
    below: BTreeSet<usize>,
}

impl<'a> Places<'a> {
    fn of(packages: &'a [Contents]) -> Self {
        let mut places: HashMap<&Path, Claimed<'_>> = HashMap::new();
        for (position, package) in packages.iter().enumerate() {
            let claims = package.claims.iter().flat_map(|claims| &claims.0);
            for (folder, names) in claims {
                let place = places.entry(folder).or_default();
                place.claims.push((position, names));
                for folder in folder.ancestors() {
                    places.entry(folder).or_default().below.insert(position);
                }
            }
        }
        Self(places)
    }
}

/// The files of a package, compiled ones included.
fn files(package: &Contents) -> impl Iterator<Item = &Path> {
    let targets = package.targets.iter().filter(|target| !target.folder);
    let targets = targets.map(|target| target.path.as_path());
    targets.chain(package.compiled.iter().map(PathBuf::as_path))
}

/// What a package cannot sum up.
fn kept<'a>(package: &'a Contents, shared: &HashSet<&Path>) -> impl Iterator<Item = &'a Target> {
    let targets = package.targets.iter();
    targets.filter(|target| {
        let shared = !target.folder && shared.contains(target.path.as_path());
        shared || is_noted(&package.id, &target.path)
    })
}

/// All folders with files below, and the position of the package that all these are of; none if
/// they are of several.
struct Folders<'a>(HashMap<&'a Path, Option<usize>>);

impl<'a> Folders<'a> {
    fn of(packages: &[&'a Contents]) -> Self {
        let mut folders = Self(HashMap::new());
        for (position, package) in packages.iter().enumerate() {
            for folder in files(package).filter_map(Path::parent) {
                folders.add(folder, position);
            }
            let claims = package.claims.iter().flat_map(|claims| &claims.0);
            for (folder, _) in claims {
                folders.add(folder, position);
            }
        }
        folders
    }

    fn add(&mut self, folder: &'a Path, package: usize) {
        for folder in folder.ancestors() {
            match self.0.entry(folder) {
                Entry::Vacant(entry) => {
                    entry.insert(Some(package));
                }
                // All that are further up know it, too.
                Entry::Occupied(entry) if entry.get().is_none_or(|owner| owner == package) => break,
                Entry::Occupied(mut entry) => {
                    entry.insert(None);
                }
            }
        }
    }

    /// The topmost folder from this one upwards that is the package's alone. The prefix itself
    /// is nobody's.
    fn own(&self, folder: &'a Path, package: usize) -> Option<&'a Path> {
        let own = |folder: &&Path| {
            folder.parent().is_some() && self.0.get(*folder) == Some(&Some(package))
        };
        folder.ancestors().take_while(own).last()
    }

    /// Files that several packages have.
    fn shared(&self, packages: &[&'a Contents]) -> HashSet<&'a Path> {
        let mut first: HashMap<&Path, usize> = HashMap::new();
        let mut shared = HashSet::new();
        for (position, package) in packages.iter().enumerate() {
            let common = |file: &&Path| {
                let folder = file.parent().and_then(|folder| self.0.get(folder));
                folder.is_some_and(Option::is_none)
            };
            for file in files(package).filter(common) {
                if *first.entry(file).or_insert(position) != position {
                    shared.insert(file);
                }
            }
        }
        shared
    }

    fn claims(&self, index: usize, package: &'a Contents, shared: &HashSet<&Path>) -> Claims {
        let mut claims = Claims::default();
        let mut summed_up: HashSet<&Path> = HashSet::new();
        let mut claim = |folder: &'a Path, name: &dyn Fn() -> Option<Name>| {
            if summed_up.contains(folder) {
                return;
            }
            let own = self.own(folder, index);
            summed_up.extend(own.map(|_| folder));
            if let Some((folder, name)) = own.and_then(split) {
                claims.add(folder, hashed(name));
            } else if let Some(name) = name() {
                claims.add(folder, name);
            }
        };
        for (file, (folder, name)) in files(package).filter_map(|file| Some((file, split(file)?))) {
            claim(folder, &|| (!shared.contains(file)).then(|| hashed(name)));
        }
        let told = package.claims.iter().flat_map(|claims| &claims.0);
        for (folder, names) in told {
            for name in &names.0 {
                claim(folder, &|| Some(*name));
            }
        }
        claims
    }
}

#[cfg(test)]
#[path = "outline_tests.rs"]
mod tests;
