//! Compiled Python files for packages that ship none: `noarch: python` packages and wheels.
//!
//! Without them every fresh container compiles what it imports, and throws it away. They are made
//! once a package, with the environment's own Python, which compiles and runs nothing of the
//! package; as unchecked hash-based `.pyc` (PEP 552), which no change of times makes stale; and in
//! one form ([`marshal`]), so that the same sources give the same bytes on any machine.

mod folder;
pub mod marshal;
mod pool;
mod python;
mod set;
mod sink;
mod worker;

use std::{
    collections::BTreeSet,
    num::NonZeroUsize,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use rattler::install::PythonInfo;
use rattler_conda_types::{PackageRecord, RepoDataRecord};
use reqwest_middleware::ClientWithMiddleware;
use serde::Serialize;
use tokio::runtime::Handle;

use self::{
    marshal::CodeLayout,
    pool::Pool,
    python::Wanted,
    set::{Keys, PycSet},
    sink::{CompilingSink, Settings},
};
use crate::{
    digest::Digest,
    error::{Error, Exit, Result},
    lock::LockedEnv,
    machine::Machine,
    package::{EntrySink, Prefix},
    report::Reporter,
    store::Store,
};

/// Changes whenever the same source would give another `.pyc`.
const FORMAT: &str = "imgbuild-pyc-1";
/// How errors that compiling brings are got around.
const WAY_OUT: &str = "build with --no-compile: the image has other digests then";
/// The stack of a thread that reads marshalled code, in bytes.
const STACK: usize = 16 << 20;
/// How many files a warning names.
const NAMED: usize = 3;

/// What compiling needs of a build.
pub struct Workshop<'a> {
    /// The cache.
    pub store: &'a Store,
    /// Where warnings go.
    pub reporter: &'a Reporter,
    /// The channels' HTTP client: the Python may have to be downloaded.
    pub client: &'a ClientWithMiddleware,
    /// Where downloads run.
    pub runtime: &'a Handle,
    /// How many Pythons compile at once.
    pub threads: NonZeroUsize,
}

/// A package whose sources are compiled.
pub struct Compiled<'a> {
    /// Its name, as warnings show it.
    pub name: &'a str,
    /// The sha256 of its archive.
    pub sha256: Digest,
    /// Targets that it loses to others.
    pub excluded: &'a BTreeSet<PathBuf>,
}

/// Compiles for one environment. Python is started when the first source has to be compiled.
pub struct Compiler<'a> {
    /// The environment whose Python compiles.
    runs: Runs<'a>,
    prefix: Prefix,
    python: PythonInfo,
    version: String,
    layout: CodeLayout,
    pool: Mutex<Option<Arc<Pool>>>,
    /// The packages of whose files was told that they do not compile: a layer may be made twice.
    told: Mutex<BTreeSet<Digest>>,
}

/// Whose Python compiles for an environment.
#[derive(Clone, Copy)]
enum Runs<'a> {
    /// The environment's own.
    Own(&'a LockedEnv),
    /// That of an environment for this machine, of the very same version.
    StandIn(&'a LockedEnv),
    /// None: the environment is for another kind of machine, and for this one the lock has a Python
    /// of that other version, or none.
    Nothing(Option<&'a RepoDataRecord>),
}

impl<'a> Compiler<'a> {
    /// A compiler for the environment's Python; none where there is none, and none where its
    /// bytecode is not known ([`unknown`]). Where the environment is for another kind of machine
    /// than this, one of `natives`, environments for this one, may lend its Python.
    pub fn new(locked: &'a LockedEnv, prefix: &Prefix, natives: &'a [LockedEnv]) -> Option<Self> {
        let record = &locked.package("python")?.package_record;
        let same = |native: &&LockedEnv| {
            let python = native
                .package("python")
                .map(|python| &python.package_record);
            python.is_some_and(|other| other.version == record.version && layout(other).is_some())
        };
        let here = Machine::here().map(Machine::subdir);
        let runs = match natives.iter().find(same) {
            _ if here == Some(prefix.platform) => Runs::Own(locked),
            Some(native) => Runs::StandIn(native),
            None => Runs::Nothing(natives.iter().find_map(|native| native.package("python"))),
        };
        Some(Self {
            runs,
            prefix: prefix.clone(),
            python: prefix.python.clone()?,
            version: record.version.to_string(),
            layout: layout(record)?,
            pool: Mutex::new(None),
            told: Mutex::default(),
        })
    }

    /// Those of the environment's packages that make up the Python which compiles: compiling brings
    /// what is not in the store.
    pub fn packages(&self) -> Vec<&'a RepoDataRecord> {
        match self.runs {
            Runs::Own(locked) => python::closure(locked),
            Runs::StandIn(_) | Runs::Nothing(_) => Vec::new(),
        }
    }

    /// The packages that compiling files of these, by the sha256 of their archives, would bring
    /// where they are not in the store: none where what it compiled, or its Python, is kept.
    ///
    /// # Errors
    /// When one of the Python's packages has no sha256.
    pub fn brings(&self, archives: &[Digest], store: &Store) -> Result<Vec<&'a RepoDataRecord>> {
        let packages = self.packages();
        let mut kept = true;
        for archive in archives {
            kept &= store.pyc_path(&self.set_key(archive)?).exists();
        }
        let python = store.python_path(&python::key(&packages)?);
        Ok(match kept || python.exists() {
            true => Vec::new(),
            false => packages,
        })
    }

    /// What compiled bytes depend on beside the package and the prefix: part of the key of every
    /// layer that holds them.
    pub fn key(&self) -> Digest {
        Digest::of(format!("{FORMAT} {}", self.version).as_bytes())
    }

    /// Links a package through `link` into `sink`, and compiled files with it: the linker gets
    /// their paths from [`EntrySink::complete`].
    ///
    /// # Errors
    /// Those of `link`; when there is no Python that compiles; when the cache cannot be used.
    pub fn compile(
        &self,
        package: &Compiled<'_>,
        workshop: &Workshop<'_>,
        sink: &mut dyn EntrySink,
        link: impl FnOnce(&mut dyn EntrySink) -> Result<()>,
    ) -> Result<()> {
        let set = PycSet::open(workshop.store, self.set_keys(package)?);
        let settings = Settings {
            prefix: &self.prefix,
            python: &self.python,
            excluded: package.excluded,
            start: &|| self.pool(workshop),
        };
        let mut compiling = CompilingSink::new(sink, settings, set);
        link(&mut compiling)?;
        let mut refused = compiling.finish()?;
        refused.sort();
        if !refused.is_empty() && self.is_first(package)? {
            workshop
                .reporter
                .warn(refused_files(package.name, &refused));
        }
        Ok(())
    }

    fn is_first(&self, package: &Compiled<'_>) -> Result<bool> {
        let mut told = self.told.lock().map_err(broken)?;
        Ok(told.insert(package.sha256))
    }

    fn set_keys(&self, package: &Compiled<'_>) -> Result<Keys> {
        let prefix = &self.prefix.path;
        Ok(Keys {
            own: self.set_key(&package.sha256)?,
            last: key(&(self.key(), "last", package.name, prefix))?,
        })
    }

    fn set_key(&self, archive: &Digest) -> Result<Digest> {
        key(&(self.key(), archive, &self.prefix.path))
    }

    fn pool(&self, workshop: &Workshop<'_>) -> Result<Arc<Pool>> {
        let mut pool = self.pool.lock().map_err(broken)?;
        if let Some(pool) = &*pool {
            return Ok(Arc::clone(pool));
        }
        let wanted = Wanted {
            runs: self.runs,
            prefix: &self.prefix,
            info: &self.python,
            version: self.version.clone(),
        };
        let found = wanted.find(workshop)?;
        let started = Arc::new(Pool::new(found, self.layout, workshop.threads)?);
        Ok(Arc::clone(pool.insert(started)))
    }
}

fn key(of: &impl Serialize) -> Result<Digest> {
    serde_json::to_vec(of)
        .map(|bytes| Digest::of(&bytes))
        .map_err(|e| Error::new(Exit::Internal, "cannot make the key of a package").why(e))
}

fn broken<T>(_: PoisonError<T>) -> Error {
    Error::new(Exit::Internal, "a compiling thread ended early")
}

/// Says that no Python files are compiled, where that is so because the environment's Python is no
/// CPython of a known version.
pub fn unknown(locked: &LockedEnv) -> Option<String> {
    let record = &locked.package("python")?.package_record;
    layout(record).is_none().then(|| {
        format!(
            "no .pyc files are made for Python {} ({}): its bytecode is not known",
            record.version, record.build
        )
    })
}

/// How that Python's code objects are laid out, where it is a CPython of a known version.
fn layout(python: &PackageRecord) -> Option<CodeLayout> {
    let build = python.build.to_string();
    // Free-threaded builds have another ABI (`cp313t`) and no settled bytecode.
    let site = python.python_site_packages_path.as_deref().unwrap_or("");
    let free_threaded = build.ends_with('t') || site.contains("t/site-packages");
    match python.version.version().as_major_minor() {
        Some((3, minor)) if !build.contains("pypy") && !free_threaded => {
            CodeLayout::of_minor(minor)
        }
        _ => None,
    }
}

fn refused_files(package: &str, refused: &[(PathBuf, String)]) -> String {
    let named = refused.iter().take(NAMED);
    let named: Vec<String> = named
        .map(|(path, reason)| format!("{} ({reason})", path.display()))
        .collect();
    let more = match refused.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "{package}: {} of its Python files {} not compile and get no .pyc: {}{more}",
        refused.len(),
        if refused.len() == 1 { "does" } else { "do" },
        named.join(", ")
    )
}
