//! The lock file: `rattler_lock`'s format, which pixi and other tools read.
//!
//! What that format has no place for stands in comments at the head (see [`super::header`]).
//! Files of this machine inside the lock's folder are written relative to it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use rattler_conda_types::{RepoDataRecord, Subdir};
use rattler_lock::{
    CondaPackageData, Environment, FindLinksUrlOrPath, LockFile, LockFileBuilder, LockedPackage,
    PackageHashes, PlatformData, PlatformName, PypiDistributionData, PypiIndexes, PypiPackageData,
    PypiPrereleaseMode, SolveOptions, UrlOrPath, Verbatim,
};
use url::Url;

use super::{Conditions, Lock, LockedEnv, LockedWheel, PipConditions, foreign, header};
use crate::{
    digest::Digest,
    error::{Error, Exit, Result, chain},
    machine::Machine,
    spec::source::Source,
};

const ENV: &str = "default";
const MINICONDA: &str = "miniconda";

/// The locks that one file holds, by what they are for.
pub type Locks = BTreeMap<Machine, Lock>;

/// The locks as text; the same locks give the same bytes in every folder `dir` (absolute) that their
/// local files lie in.
///
/// # Errors
/// When locks do not go into one file ([`agree`]).
pub fn render(locks: &Locks, dir: &Path) -> Result<String> {
    let mut all = locks.values();
    let first = all.next();
    if let Some(other) = all.find(|other| first.is_some_and(|first| !agree(first, other))) {
        let channels = other.env.channels.join(", ");
        return Err(Error::input("one lock cannot hold these platforms")
            .why("a lock has one list of channels and indexes for all of its platforms")
            .why(format!("the channels of one of them are {channels}"))
            .hint("leave selectors such as '# [linux64]' out of channels and indexes"));
    }
    let platforms = locks.iter().map(|(machine, lock)| PlatformData {
        name: PlatformName::from(&machine.subdir()),
        subdir: machine.subdir(),
        virtual_packages: lock.conditions.virtual_packages.clone(),
    });
    let mut builder = LockFile::builder()
        .with_platforms(platforms.collect())
        .map_err(|e| failed(&e))?;
    for (machine, lock) in locks {
        let environments = [(ENV, Some(&lock.env)), (MINICONDA, lock.miniconda.as_ref())];
        for (name, env) in environments {
            let Some(env) = env else { continue };
            let channels = env.channels.iter().map(|url| relative(url, dir));
            builder.set_channels(name, channels);
            builder.set_options(name, options(&lock.conditions));
            add(&mut builder, (name, env), machine.subdir(), dir)?;
        }
        if let Some(pip) = &lock.conditions.pip {
            builder.set_pypi_indexes(ENV, indexes(pip)?);
        }
    }
    let text = builder
        .finish()
        .render_to_string()
        .map_err(|e| failed(&e))?;
    Ok(header::render(locks) + &text)
}

/// Whether two locks go into one file: the format has channels, their priority and pip's indexes
/// once for all platforms.
pub fn agree(one: &Lock, other: &Lock) -> bool {
    let channels = |lock: &Lock| {
        let below = lock.miniconda.as_ref().map(|env| env.channels.clone());
        (lock.env.channels.clone(), below)
    };
    let sources = |lock: &Lock| {
        let pip = lock.conditions.pip.as_ref();
        pip.map(|pip| (pip.indexes.clone(), pip.find_links.clone(), pip.prereleases))
    };
    let pip = match (sources(one), sources(other)) {
        (Some(one), Some(other)) => one == other,
        // A platform without pip packages says nothing, but whether pre-releases count.
        (Some((_, _, prereleases)), None) | (None, Some((_, _, prereleases))) => !prereleases,
        (None, None) => true,
    };
    pip && channels(one) == channels(other)
        && one.conditions.channel_priority == other.conditions.channel_priority
}

fn failed(error: &dyn std::error::Error) -> Error {
    Error::new(Exit::Internal, "cannot write the lock").why(chain(error))
}

fn options(conditions: &Conditions) -> SolveOptions {
    let prereleases = conditions.pip.as_ref().is_some_and(|pip| pip.prereleases);
    SolveOptions {
        channel_priority: conditions.channel_priority,
        pypi_prerelease_mode: match prereleases {
            true => PypiPrereleaseMode::Allow,
            false => PypiPrereleaseMode::default(),
        },
        ..SolveOptions::default()
    }
}

fn indexes(pip: &PipConditions) -> Result<PypiIndexes> {
    let url = |text: &String| Url::parse(text).map_err(|e| failed(&e));
    let place = |text: &String| match Url::parse(text) {
        Ok(url) => FindLinksUrlOrPath::Url(url),
        Err(_) => FindLinksUrlOrPath::Path(text.into()),
    };
    Ok(PypiIndexes {
        indexes: pip.indexes.iter().map(url).collect::<Result<_>>()?,
        find_links: pip.find_links.iter().map(place).collect(),
    })
}

fn add(
    builder: &mut LockFileBuilder,
    (name, env): (&str, &LockedEnv),
    platform: Subdir,
    dir: &Path,
) -> Result<()> {
    let conda = env.packages().iter().map(|record| {
        let mut package = CondaPackageData::from(record.clone());
        if let CondaPackageData::Binary(binary) = &mut package {
            binary.location = location(&record.url, dir);
            if inside(&record.url, dir).is_some() {
                // Its URL holds the folder; it is found again among the environment's channels.
                binary.channel = None;
            }
        }
        Ok(LockedPackage::Conda(package))
    });
    let pip = env.wheels().iter().map(|wheel| pypi(wheel, dir));
    for package in conda.chain(pip) {
        builder
            .add_package(name, &platform.to_string(), package?)
            .map_err(|e| failed(&e))?;
    }
    Ok(())
}

fn pypi(wheel: &LockedWheel, dir: &Path) -> Result<LockedPackage> {
    let sha256 = (*wheel.sha256.bytes()).into();
    let data = PypiDistributionData {
        name: wheel.name.parse().map_err(|e| failed(&e))?,
        version: wheel.version.parse().map_err(|e| failed(&e))?,
        location: Verbatim::new(location(&wheel.url, dir)),
        index_url: None,
        hash: Some(PackageHashes::Sha256(sha256)),
        requires_dist: Vec::new(),
        requires_python: None,
    };
    Ok(LockedPackage::Pypi(PypiPackageData::from(data)))
}

fn location(url: &Url, dir: &Path) -> UrlOrPath {
    match inside(url, dir) {
        Some(path) => UrlOrPath::Path(path.into()),
        None => UrlOrPath::from(url.clone()),
    }
}

/// A channel's URL, or its path from `dir` when it is inside.
fn relative(url: &str, dir: &Path) -> String {
    let path = Url::parse(url).ok().and_then(|url| inside(&url, dir));
    path.unwrap_or_else(|| url.to_owned())
}

/// The path from `dir` of a file inside it.
fn inside(url: &Url, dir: &Path) -> Option<String> {
    let path = (url.scheme() == "file")
        .then(|| url.to_file_path().ok())
        .flatten()?;
    let rest = path.strip_prefix(dir).ok()?.to_str()?;
    Some(format!("./{rest}"))
}

/// Reads the lock of one platform that [`render`] wrote, or one of pixi's with the same environment
/// names.
///
/// # Errors
/// When the text is not such a lock, or lacks the platform or a sha256.
pub fn parse(text: &str, file: &str, dir: &Path, platform: Subdir) -> Result<Lock> {
    let lock = read(text, file, dir)?;
    let reading = Reading {
        file,
        dir,
        platform,
    };
    one(&lock, text, &reading)
}

/// Reads the locks of all platforms that images are built for.
///
/// # Errors
/// As [`parse`]; when there is none of these.
pub fn parse_all(text: &str, file: &str, dir: &Path) -> Result<Locks> {
    let lock = read(text, file, dir)?;
    let has = |machine: &Machine| {
        lock.environment(ENV).is_some_and(|env| {
            let mut platforms = env.platforms();
            platforms.any(|platform| platform.subdir() == machine.subdir())
        })
    };
    let mut machines: Vec<Machine> = Machine::ALL.into_iter().filter(has).collect();
    if machines.is_empty() {
        machines.push(Machine::default()); // to say that it is missing
    }
    let read = machines.into_iter().map(|machine| {
        let reading = Reading {
            file,
            dir,
            platform: machine.subdir(),
        };
        Ok((machine, one(&lock, text, &reading)?))
    });
    read.collect()
}

fn unreadable(file: &str, why: String) -> Error {
    Error::input(format!("{file} is not a lock that imgbuild can read"))
        .why(why)
        .hint("run `imgbuild lock` to write it anew")
}

fn read(text: &str, file: &str, dir: &Path) -> Result<LockFile> {
    let text = foreign::harmless(Source { file, text })?;
    LockFile::from_str_with_base_directory(&text, Some(dir))
        .map_err(|e| unreadable(file, chain(&e)))
}

/// The lock of the reading's platform.
fn one(lock: &LockFile, text: &str, reading: &Reading<'_>) -> Result<Lock> {
    let file = reading.file;
    let (base, conditions) =
        header::parse(text, reading.platform).map_err(|why| unreadable(file, why))?;
    let env = lock.environment(ENV).ok_or_else(|| {
        Error::input(format!("{file} has no environment named '{ENV}'"))
            .hint("run `imgbuild lock` to write it anew")
    })?;
    Ok(Lock {
        conditions: reading.conditions(conditions, env),
        env: reading.environment(env)?,
        miniconda: lock
            .environment(MINICONDA)
            .map(|env| reading.environment(env))
            .transpose()?,
        base,
    })
}

/// Where a lock that is being read lies.
struct Reading<'a> {
    file: &'a str,
    dir: &'a Path,
    platform: Subdir,
}

impl Reading<'_> {
    fn conditions(&self, head: Conditions, env: Environment<'_>) -> Conditions {
        let options = env.solve_options();
        let platform = env.platforms().find(|p| p.subdir() == self.platform);
        let indexes = env.pypi_indexes();
        Conditions {
            virtual_packages: platform
                .map(|platform| platform.virtual_packages().to_vec())
                .unwrap_or_default(),
            channel_priority: options.channel_priority,
            exclude_newer: head.exclude_newer,
            pip: head.pip.map(|pip| PipConditions {
                names: pip.names,
                prereleases: options.pypi_prerelease_mode == PypiPrereleaseMode::Allow,
                indexes: indexes
                    .map(|i| i.indexes.iter().map(Url::to_string).collect())
                    .unwrap_or_default(),
                find_links: indexes
                    .map(|i| i.find_links.iter().map(text_of).collect())
                    .unwrap_or_default(),
            }),
        }
    }

    fn environment(&self, env: Environment<'_>) -> Result<LockedEnv> {
        let packages = env
            .platforms()
            .find(|candidate| candidate.subdir() == self.platform)
            .and_then(|found| env.packages(found))
            .ok_or_else(|| {
                Error::input(format!(
                    "{} has no packages for {}",
                    self.file, self.platform
                ))
                .hint("run `imgbuild lock` to write it anew")
            })?;
        let channels: Vec<String> = env
            .channels()
            .iter()
            .map(|channel| self.absolute_channel(&channel.url))
            .collect();
        let (mut records, mut wheels) = (Vec::new(), Vec::new());
        for package in packages {
            match package {
                LockedPackage::Conda(package) => records.push(self.record(package, &channels)?),
                LockedPackage::Pypi(package) => wheels.push(self.wheel(package)?),
            }
        }
        Ok(LockedEnv::new(channels, records).with_wheels(wheels))
    }

    fn record(&self, package: &CondaPackageData, channels: &[String]) -> Result<RepoDataRecord> {
        let wrong = |why: String| {
            Error::input(format!("{} has a package that cannot be used", self.file))
                .at(package.location())
                .why(why)
                .hint("run `imgbuild lock` to write it anew")
        };
        let CondaPackageData::Binary(binary) = package else {
            return Err(wrong("it is a source package".into()));
        };
        let mut binary = binary.clone();
        binary.location = self.absolute(&binary.location);
        let mut record = RepoDataRecord::try_from(*binary).map_err(|e| wrong(chain(&e)))?;
        let holds = |channel: &&String| super::channels::holds(channel, &record.url);
        if let Some(channel) = channels.iter().find(holds) {
            record.channel = Some(channel.clone());
        }
        if record.package_record.sha256.is_none() {
            return Err(self.no_sha256(&record.url));
        }
        Ok(record)
    }

    fn wheel(&self, package: &PypiPackageData) -> Result<LockedWheel> {
        let wrong = |why: &str| {
            Error::input(format!(
                "{} has a pip package that cannot be used",
                self.file
            ))
            .at(package.location())
            .why(why)
            .hint("imgbuild installs wheels only; run `imgbuild lock` to write the lock anew")
        };
        let wheel = package
            .as_wheel()
            .ok_or_else(|| wrong("it is a source folder"))?;
        let url = self
            .absolute(wheel.location.inner())
            .try_into_url()
            .map_err(|_| wrong("its place makes no URL"))?;
        let hash = wheel.hash.as_ref().and_then(PackageHashes::sha256);
        Ok(LockedWheel {
            name: wheel.name.to_string(),
            version: wheel.version.to_string(),
            sha256: Digest::from_bytes((*hash.ok_or_else(|| self.no_sha256(&url))?).into()),
            url,
            size: None,
        })
    }

    fn no_sha256(&self, url: &Url) -> Error {
        Error::input(format!("{} has a package without a sha256", self.file))
            .at(url)
            .why("imgbuild verifies every package before it uses a byte of it")
            .hint("run `imgbuild lock` to write it anew")
    }

    fn absolute(&self, location: &UrlOrPath) -> UrlOrPath {
        match location {
            UrlOrPath::Path(path) if !path.is_absolute() => {
                let path = self.dir.join(clean(path.as_str()));
                UrlOrPath::Path(path.to_string_lossy().into_owned().into())
            }
            other => other.clone(),
        }
    }

    fn absolute_channel(&self, text: &str) -> String {
        if !text.starts_with('.') {
            return text.to_owned();
        }
        let path = self.dir.join(clean(text));
        Url::from_directory_path(path).map_or_else(|()| text.to_owned(), Into::into)
    }
}

/// The path without its `.` parts.
fn clean(path: &str) -> PathBuf {
    let parts = Path::new(path).components();
    parts
        .filter(|part| *part != std::path::Component::CurDir)
        .collect()
}

fn text_of(place: &FindLinksUrlOrPath) -> String {
    match place {
        FindLinksUrlOrPath::Url(url) => url.to_string(),
        FindLinksUrlOrPath::Path(path) => path.to_string_lossy().into_owned(),
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
