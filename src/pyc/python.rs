//! Which Python compiles: the environment's own, unpacked into the store, or one of the very same
//! version on `PATH`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use rattler::install::PythonInfo;
use rattler_conda_types::RepoDataRecord;

use super::{
    Runs, WAY_OUT, Workshop,
    folder::FolderSink,
    worker::{About, Interpreter, Worker, on_path},
};
use crate::{
    digest::Digest,
    error::{Error, Exit, Result, chain},
    fetch,
    lock::LockedEnv,
    machine::Machine,
    package::{Package, Prefix, place},
    store::note_use,
};

/// Changes whenever the same packages would be unpacked in another way.
const FORMAT: &str = "imgbuild-python-1";
/// What entries begin with while a Python is unpacked.
const ROOT: &str = "python";

/// The Python of an environment.
pub(super) struct Wanted<'a> {
    /// The environment that has it, or one that lends it.
    pub runs: Runs<'a>,
    /// Where its packages are linked to.
    pub prefix: &'a Prefix,
    /// Paths and version.
    pub info: &'a PythonInfo,
    /// The exact version.
    pub version: String,
}

/// A Python that was found, and the process that told what it is.
pub(super) struct Running {
    /// The Python.
    pub interpreter: Interpreter,
    /// Its first process.
    pub worker: Worker,
}

impl Wanted<'_> {
    /// Finds and starts a Python that gives the bytes which the environment's own would give: its
    /// compiler is fixed by the version, so any of that version will do.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn find(&self, workshop: &Workshop<'_>) -> Result<Running> {
        let mut why = Vec::new();
        match self.runs {
            Runs::Own(locked) | Runs::StandIn(locked) => match self.unpacked(locked, workshop)? {
                Ok(running) => return Ok(running),
                Err(reason) => why.push(format!("the environment's own does not run: {reason}")),
            },
            Runs::Nothing(other) => {
                let other = other.map(|record| record.package_record.version.to_string());
                why.extend(foreign(&self.version, Machine::here(), other.as_deref()));
            }
        }
        let (major, minor) = self.info.short_version;
        for name in [&format!("python{major}.{minor}"), "python3", "python"] {
            for program in on_path(name) {
                let interpreter = Interpreter {
                    program,
                    folder: "/".into(),
                    inherits: true,
                };
                if let Ok(running) = self.start(interpreter) {
                    return Ok(running);
                }
            }
        }
        let mut error = Error::environment(format!(
            "there is no Python {} to compile .pyc files with",
            self.version
        ));
        why.push("there is none of that version on PATH either".to_owned());
        for reason in why {
            error = error.why(reason);
        }
        Err(error.hint(format!(
            "put a Python {} on PATH, or {WAY_OUT}",
            self.version
        )))
    }

    /// That of an environment, unpacked; the inner error is why it does not run.
    fn unpacked(
        &self,
        locked: &LockedEnv,
        workshop: &Workshop<'_>,
    ) -> Result<std::result::Result<Running, String>> {
        let packages = closure(locked);
        let key = key(&packages)?;
        let folder = workshop.store.python_path(&key);
        let interpreter = Interpreter {
            program: folder.join(&self.info.path),
            folder: folder.clone(),
            inherits: false,
        };
        let known = note_use(&folder);
        if !known {
            self.unpack(&packages, &key, workshop)?;
        }
        match self.start(interpreter.clone()) {
            // A power cut may have left files without their content.
            Err(_) if known => {
                workshop.store.drop_python(&key)?;
                self.unpack(&packages, &key, workshop)?;
                Ok(self.start(interpreter))
            }
            started => Ok(started),
        }
    }

    fn unpack(
        &self,
        packages: &[&RepoDataRecord],
        key: &Digest,
        workshop: &Workshop<'_>,
    ) -> Result<()> {
        workshop.runtime.block_on(fetch::fetch_packages(
            packages,
            workshop.client,
            workshop.store,
            workshop.reporter,
        ))?;
        let made = workshop.store.temp_dir()?;
        // CPython finds its library by where its program is; the prefix in files is not read.
        let prefix = Prefix {
            root: ROOT.to_owned(),
            ..self.prefix.clone()
        };
        let wanted = |path: &Path| is_needed(path, self.info);
        let mut sink = FolderSink::new(made.path(), ROOT, &wanted);
        for record in packages {
            let archive = fetch::archive(record, workshop.store)?;
            let info = archive.info().map_err(|e| {
                Error::environment("a package archive cannot be read")
                    .at(place(record))
                    .why(chain(&e))
            })?;
            let package = Package {
                record,
                archive: &archive,
                info: &info,
            };
            crate::package::link(&package, &prefix, &BTreeSet::new(), &mut sink)?;
        }
        workshop.store.keep_python(key, made)
    }

    fn start(&self, interpreter: Interpreter) -> std::result::Result<Running, String> {
        let (worker, about) = Worker::start(&interpreter)?;
        if self.accepts(&about) {
            return Ok(Running {
                interpreter,
                worker,
            });
        }
        Err(format!(
            "it is {} {}, not CPython {}",
            about.implementation, about.version, self.version
        ))
    }

    fn accepts(&self, about: &About) -> bool {
        let (major, minor) = self.info.short_version;
        about.implementation == "cpython"
            && about.version == self.version
            && about.cache_tag == format!("cpython-{major}{minor}")
            && !about.abi_flags.contains('t')
    }
}

/// Why the lock has no Python of a version that runs here, where it has `other`, and what could be
/// done.
fn foreign(version: &str, here: Option<Machine>, other: Option<&str>) -> Vec<String> {
    let own = "the environment's own is for another kind of machine".to_owned();
    let here = here.map(|here| match other {
        None => format!("the lock has no Python for {here}: lock for both (--platform)"),
        Some(other) => format!(
            "the lock's Python for {here} is {other}: ask for one version, python={version}"
        ),
    });
    [own].into_iter().chain(here).collect()
}

/// What an interpreter needs to compile: itself, the libraries beside it, the standard library.
fn is_needed(path: &Path, python: &PythonInfo) -> bool {
    if path == python.path {
        return true;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if path.parent() == Some(Path::new("lib")) {
        return name.contains(".so");
    }
    let library = python.site_packages_path.parent();
    let Some(inside) = library.and_then(|library| path.strip_prefix(library).ok()) else {
        return false;
    };
    !["site-packages", "test", "idlelib", "ensurepip", "lib2to3"]
        .iter()
        .any(|folder| inside.starts_with(folder))
}

/// Python and what it depends on, in the lock's order; what is `noarch: python` runs on it and is
/// no part of it.
pub(super) fn closure(locked: &LockedEnv) -> Vec<&RepoDataRecord> {
    let by_name: BTreeMap<&str, &RepoDataRecord> = locked
        .packages()
        .iter()
        .filter(|record| !record.package_record.noarch.is_python())
        .map(|record| (record.package_record.name.as_normalized(), record))
        .collect();
    let mut found = BTreeSet::new();
    let mut open = vec!["python"];
    while let Some(name) = open.pop() {
        let Some(record) = by_name.get(name) else {
            continue;
        };
        if found.insert(name) {
            let depends = record.package_record.depends.iter();
            open.extend(depends.filter_map(|spec| spec.split_whitespace().next()));
        }
    }
    let packages = locked.packages().iter();
    packages
        .filter(|record| found.contains(record.package_record.name.as_normalized()))
        .collect()
}

pub(super) fn key(packages: &[&RepoDataRecord]) -> Result<Digest> {
    let hashes = packages
        .iter()
        .map(|record| Ok(fetch::sha256_of(record)?.hex()))
        .collect::<Result<Vec<String>>>()?;
    serde_json::to_vec(&(FORMAT, hashes))
        .map(|bytes| Digest::of(&bytes))
        .map_err(|e| Error::new(Exit::Internal, "cannot make the key of a Python").why(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_has_a_way_out() {
        let said = |other| foreign("3.11.2", Some(Machine::Amd64), other).join("; ");
        assert!(said(None).ends_with("no Python for linux/amd64: lock for both (--platform)"));
        assert!(said(Some("3.11.1")).ends_with("is 3.11.1: ask for one version, python=3.11.2"));
        assert_eq!(foreign("3.11.2", None, None).len(), 1);
    }
}
