//! Locks of other tools, and imgbuild's own given directly, read as they are: nothing is solved
//! and no network is needed.
//!
//! conda-lock files and `@EXPLICIT` lists do not say all that a build needs;
//! [`complete`](super::complete) adds it from the archives.

mod conda_lock;
mod explicit;
mod origin;
mod pixi;
mod wheel;

pub(super) use pixi::harmless;

use std::{collections::HashMap, path::Path};

use rattler_conda_types::{RepoDataRecord, Subdir};

use super::{Lock, LockedEnv, LockedWheel, graph};
use crate::{
    error::{Error, Result},
    spec::{InputKind, LOCK_LIMITS, LockChoice, detect},
};
use origin::Refusal;

/// A lock as it was read.
#[derive(Clone, Debug)]
pub struct Given {
    /// The packages.
    pub lock: Lock,
    /// What was read but has no effect, in words.
    pub warnings: Vec<String>,
}

/// Reads a lock of any known format.
///
/// `file` is the name that errors show; `dir` is the folder that it lies in, against which
/// relative paths in it are resolved.
///
/// # Errors
/// When the bytes are no such lock, it has nothing for the choice and the platform, or it names
/// a package that cannot be used: one without a hash, twice, for another platform, from source,
/// or whose name, version or build is not its file's. The package and the line are named.
pub fn parse(
    bytes: &[u8],
    file: &str,
    dir: &Path,
    choice: &LockChoice,
    platform: Subdir,
) -> Result<Given> {
    if bytes.len() > LOCK_LIMITS.bytes {
        return Err(Error::input(format!("{file} is too large")));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|e| Error::input(format!("{file} is not UTF-8 text")).why(e))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let reading = Reading {
        file,
        text,
        dir,
        choice,
        platform,
    };
    match detect(text) {
        InputKind::CondaLock => conda_lock::parse(&reading),
        InputKind::PixiLock => pixi::parse(&reading),
        InputKind::Explicit => explicit::parse(&reading),
        InputKind::EnvYaml => Err(Error::input(format!("{file} is not a lock"))
            .at(file)
            .hint("give a conda-lock.yml, a pixi.lock, an @EXPLICIT list, or imgbuild's own")),
    }
}

/// What a reader of one format needs.
struct Reading<'a> {
    file: &'a str,
    text: &'a str,
    dir: &'a Path,
    choice: &'a LockChoice,
    platform: Subdir,
}

impl Reading<'_> {
    /// The file itself is not what it should be.
    fn broken(&self, why: impl std::fmt::Display) -> Error {
        Error::input(format!("{} cannot be read as a lock", self.file))
            .at(self.file)
            .why(origin::hide_secrets(&why.to_string()))
            .hint("write it anew with the tool that made it")
    }

    /// A package cannot be used. The line is not quoted: its URL may hold a password.
    fn refused(&self, package: &str, line: usize, refusal: Refusal) -> Error {
        let package = crate::spec::source::quoted(package);
        Error::input(format!("package {package} of the lock cannot be used"))
            .at(self.at(line))
            .why(refusal.why)
            .hint(refusal.hint)
    }

    fn at(&self, line: usize) -> String {
        match line {
            0 => self.file.to_owned(),
            _ => format!("{}:{line}", self.file),
        }
    }
}

/// The packages of one environment while they are collected.
#[derive(Default)]
struct Collected {
    channels: Vec<String>,
    records: Vec<RepoDataRecord>,
    wheels: Vec<LockedWheel>,
    /// Names that were seen, `pip:` before those of wheels, with their lines.
    lines: HashMap<String, usize>,
    /// Whether credentials were left out of a URL.
    secrets: bool,
}

impl Collected {
    fn add(&mut self, reading: &Reading<'_>, line: usize, record: RepoDataRecord) -> Result<()> {
        let package = &record.package_record;
        let name = package.name.as_normalized();
        if package.sha256.is_none() && package.md5.is_none() {
            let refusal = Refusal {
                why: "it has neither a sha256 nor an md5, by which every package is verified"
                    .into(),
                hint: "write the lock with hashes (conda list --explicit --sha256)".into(),
            };
            return Err(reading.refused(name, line, refusal));
        }
        self.once(reading, name.to_owned(), line)?;
        self.records.push(record);
        Ok(())
    }

    fn add_wheel(&mut self, reading: &Reading<'_>, line: usize, wheel: LockedWheel) -> Result<()> {
        self.once(reading, format!("pip:{}", wheel.name), line)?;
        self.wheels.push(wheel);
        Ok(())
    }

    fn once(&mut self, reading: &Reading<'_>, name: String, line: usize) -> Result<()> {
        let Some(first) = self.lines.insert(name.clone(), line) else {
            return match self.lines.len() > 2 * graph::MAX_PACKAGES {
                true => Err(reading.broken("it has more packages than an environment can")),
                false => Ok(()),
            };
        };
        let refusal = Refusal {
            why: match (first, line) {
                (0, 0) => "it is in the environment twice".into(),
                _ => format!("it is in the environment twice: lines {first} and {line}"),
            },
            hint: "an environment has one build of a package: take one of the two out".into(),
        };
        Err(reading.refused(&name, line, refusal))
    }

    /// The lock of a file that holds one environment.
    fn given(self, reading: &Reading<'_>) -> Result<Given> {
        let warnings = self.warnings(reading);
        Ok(Given {
            lock: Lock {
                env: self.finish(reading)?,
                ..Lock::default()
            },
            warnings,
        })
    }

    fn finish(self, reading: &Reading<'_>) -> Result<LockedEnv> {
        if self.records.is_empty() && self.wheels.is_empty() {
            return Err(Error::input(format!("{} has no packages", reading.file)));
        }
        if let Some(why) = graph::unreasonable(&self.records) {
            return Err(
                Error::input(format!("{} is no lock of a real environment", reading.file))
                    .at(reading.file)
                    .why(why),
            );
        }
        Ok(LockedEnv::new(self.channels, self.records).with_wheels(self.wheels))
    }

    fn warnings(&self, reading: &Reading<'_>) -> Vec<String> {
        let said = format!(
            "{}: credentials in its URLs are not used: put them into .netrc or rattler's auth file",
            reading.file
        );
        self.secrets.then_some(said).into_iter().collect()
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
