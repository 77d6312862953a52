//! Where packages are linked to, and where their paths land there.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

use rattler::install::PythonInfo;
use rattler_conda_types::{RepoDataRecord, Subdir};

use super::archive::PackageInfo;
use crate::{
    error::{Error, Result, chain},
    lock::LockedEnv,
    machine::Machine,
};

/// The prefix that packages are linked into.
#[derive(Clone, Debug)]
pub struct Prefix {
    /// The absolute path as programs in the container see it, such as `/opt/conda`.
    pub path: String,
    /// The same place from the image's root, through the base's symlinks: `opt/conda`.
    pub root: String,
    /// The environment's Python, if it has one.
    pub python: Option<PythonInfo>,
    /// The platform of the environment.
    pub platform: Subdir,
}

impl Prefix {
    /// A prefix at `path` for these packages of a machine's environment; `root` is where a layer has it.
    ///
    /// # Errors
    /// When the environment's Python has no usable version.
    pub fn new(path: &str, root: &str, locked: &LockedEnv, machine: Machine) -> Result<Self> {
        let platform = machine.subdir();
        let python = locked
            .package("python")
            .map(|record| {
                PythonInfo::from_python_record(&record.package_record, platform)
                    .map_err(|e| Error::input("the Python package is not usable").why(chain(&e)))
            })
            .transpose()?;
        Ok(Self {
            path: path.to_owned(),
            root: root.to_owned(),
            python,
            platform,
        })
    }

    /// The path of something in the prefix, as a layer names it.
    pub fn entry_path(&self, relative: &Path) -> Vec<u8> {
        let mut path = self.root.as_bytes().to_vec();
        path.push(b'/');
        path.extend_from_slice(relative.as_os_str().as_bytes());
        path
    }
}

/// Where a package's paths land in the prefix; generated entry points included.
///
/// # Errors
/// When a path leaves the prefix, or a `noarch: python` package has no Python to go with.
pub fn target_paths(
    record: &RepoDataRecord,
    info: &PackageInfo,
    prefix: &Prefix,
) -> Result<Vec<PathBuf>> {
    let python = python_for(record, info, prefix)?;
    let mut targets = Vec::with_capacity(info.paths.len() + info.entry_points.len());
    for entry in &info.paths {
        targets.push(target_path(record, &entry.relative_path, python)?);
    }
    if let Some(python) = python {
        for entry_point in &info.entry_points {
            targets.push(python.bin_dir.join(&entry_point.command));
        }
    }
    Ok(targets)
}

/// The Python that a package's paths depend on: the environment's, for `noarch: python` alone.
pub(super) fn python_for<'a>(
    record: &RepoDataRecord,
    info: &PackageInfo,
    prefix: &'a Prefix,
) -> Result<Option<&'a PythonInfo>> {
    if !info.index.noarch.is_python() {
        return Ok(None);
    }
    prefix.python.as_ref().map(Some).ok_or_else(|| {
        Error::input("a noarch Python package needs a Python in the environment")
            .at(place(record))
            .hint("add python to the dependencies")
    })
}

/// The path in the prefix, checked: names come from the package and are not trusted
/// (CVE-2026-47425).
pub(super) fn target_path(
    record: &RepoDataRecord,
    source: &Path,
    python: Option<&PythonInfo>,
) -> Result<PathBuf> {
    let target = match python {
        Some(python) => python.get_python_noarch_target_path(source).into_owned(),
        None => source.to_path_buf(),
    };
    let plain = |component| matches!(component, Component::Normal(_));
    let inside = target.components().all(plain) && target.components().next().is_some();
    if inside && !target.as_os_str().as_bytes().contains(&0) {
        // Collecting drops a trailing slash, which tars give to folders.
        return Ok(target.components().collect());
    }
    Err(damaged(
        record,
        &format!("the path {} leaves the prefix", source.display()),
    ))
}

/// Where the compiled form of a Python source in site-packages goes (PEP 3147), for sources that
/// installers compile: conda those of `noarch: python` packages, pip those of wheels.
pub fn pyc_target(source: &Path, python: &PythonInfo) -> Option<PathBuf> {
    let inside = source.starts_with(&python.site_packages_path);
    let folder = source.parent()?;
    if !inside || folder.ends_with("__pycache__") || source.extension()? != "py" {
        return None;
    }
    let mut name = source.file_stem()?.to_owned();
    let (major, minor) = python.short_version;
    name.push(format!(".cpython-{major}{minor}.pyc"));
    Some(folder.join("__pycache__").join(name))
}

/// How messages name a package.
pub fn place(record: &RepoDataRecord) -> String {
    let package = &record.package_record;
    format!(
        "package {}-{}-{}",
        package.name.as_normalized(),
        package.version,
        package.build
    )
}

/// A package whose archive contradicts itself.
pub(super) fn damaged(record: &RepoDataRecord, why: &str) -> Error {
    Error::environment("a package archive cannot be linked")
        .at(place(record))
        .why(why)
        .hint("its hash is right, so the package itself is faulty: use another build of it")
}

/// The set of excluded targets of each package, by package name.
pub type Exclusions = BTreeMap<String, BTreeSet<PathBuf>>;
