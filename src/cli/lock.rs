//! `imgbuild lock`, and the lock that `imgbuild build` starts from.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use rattler_conda_types::{MatchSpec, Subdir};
use reqwest_middleware::ClientWithMiddleware;
use tokio::runtime::Handle;

use super::{args::LockArgs, print, runtime};
use crate::{
    error::{Error, Result},
    fetch,
    lock::{self, Lock, LockedEnv, SolveRequest, VirtualPackages},
    report::Reporter,
    spec::{ImageSpec, Spec},
    store::Store,
};

/// The platform of every image, until there is a choice.
const PLATFORM: Subdir = Subdir::Linux64;

pub(super) fn run(args: LockArgs, reporter: &Reporter) -> Result<ExitCode> {
    let spec = ImageSpec::resolve(&args.env, args.overrides())?;
    super::warn_all(&spec.warnings, reporter);
    let runtime = runtime()?;
    let locker = Locker {
        spec: &spec,
        store: &Store::open(Store::default_root()?)?,
        client: &lock::http_client()?,
        runtime: runtime.handle(),
        reporter,
    };
    let path = lock_path(&args.env);
    super::stoppable(&runtime, reporter, || {}, || locker.write(&path))?;
    print(path.display());
    Ok(ExitCode::SUCCESS)
}

/// `env.yml` -> `env.lock.yml`, beside it.
fn lock_path(env: &Path) -> PathBuf {
    env.with_extension("lock.yml")
}

/// What locking needs.
pub(super) struct Locker<'a> {
    pub spec: &'a ImageSpec,
    pub store: &'a Store,
    pub client: &'a ClientWithMiddleware,
    pub runtime: &'a Handle,
    pub reporter: &'a Reporter,
}

impl Locker<'_> {
    /// The lock beside the environment file if it still answers it, else a new one.
    pub(super) fn current(&self, env: &Path) -> Result<Lock> {
        let path = lock_path(env);
        let Some(lock) = read(&path)? else {
            self.reporter.step(format!("No {} yet", path.display()));
            return self.write(&path);
        };
        match self.stale(&lock)? {
            None => Ok(lock),
            Some(reason) => {
                self.reporter
                    .step(format!("Renewing {}: {reason}", path.display()));
                self.write(&path)
            }
        }
    }

    fn stale(&self, lock: &Lock) -> Result<Option<String>> {
        let channels = self.channels()?;
        let urls: Vec<String> = channels.iter().map(|c| c.base_url.to_string()).collect();
        let reason = lock::unsatisfied(&lock.env, &urls, &match_specs(&self.spec.env.specs));
        if reason.is_some() {
            return Ok(reason);
        }
        Ok(match (&self.spec.miniconda, &lock.miniconda) {
            (None, _) => None,
            (Some(_), None) => Some("it has no Miniconda base".into()),
            (Some(wanted), Some(locked)) => {
                lock::unsatisfied(locked, &urls, &match_specs(&wanted.specs))
            }
        })
    }

    /// Solves and writes the lock; what is returned is what the file says, so that a build gives
    /// the same digest with and without it.
    fn write(&self, path: &Path) -> Result<Lock> {
        let solved = Lock {
            env: self.solve(&self.spec.env.specs)?,
            miniconda: match &self.spec.miniconda {
                Some(miniconda) => Some(self.solve(&miniconda.specs)?),
                None => None,
            },
        };
        let environments = [Some(&solved.env), solved.miniconda.as_ref()];
        for record in environments.iter().flatten().flat_map(|env| env.packages()) {
            // A lock without it would be refused when it is read.
            fetch::sha256_of(record)?;
        }
        let text = lock::render(&solved, PLATFORM)?;
        write_whole(path, text.as_bytes()).map_err(|e| Error::io("write", path, e))?;
        self.reporter.step(format!(
            "Locked {} packages in {}",
            solved.env.packages().len() + solved.miniconda.map_or(0, |m| m.packages().len()),
            path.display()
        ));
        parse(&text, path)
    }

    fn solve(&self, specs: &[Spec]) -> Result<LockedEnv> {
        let request = SolveRequest {
            channels: &self.channels()?,
            specs: &match_specs(specs),
            platform: PLATFORM,
            virtual_packages: &VirtualPackages {
                cuda: self.spec.cuda.clone(),
                glibc: std::env::var("CONDA_OVERRIDE_GLIBC").ok(),
            },
            exclude_newer: None,
            keep: &[],
        };
        let solving = lock::solve(request, self.client.clone(), self.store);
        self.runtime.block_on(solving)
    }

    fn channels(&self) -> Result<Vec<rattler_conda_types::Channel>> {
        let names: Vec<String> = self
            .spec
            .env
            .channels
            .iter()
            .map(|channel| channel.text.clone())
            .collect();
        lock::resolve_channels(&names, Path::new("/"))
    }
}

/// Writes beside the file and renames: a build that is killed must not leave half a lock.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let mut file = tempfile::Builder::new()
        .prefix(".env.lock.")
        .permissions(fs::Permissions::from_mode(0o666)) // less the umask
        .tempfile_in(dir.unwrap_or(Path::new(".")))?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

fn match_specs(specs: &[Spec]) -> Vec<MatchSpec> {
    specs.iter().map(|spec| spec.match_spec.clone()).collect()
}

fn read(path: &Path) -> Result<Option<Lock>> {
    match fs::read_to_string(path) {
        Ok(text) => parse(&text, path).map(Some),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", path, e)),
    }
}

fn parse(text: &str, path: &Path) -> Result<Lock> {
    let dir = path
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let dir = dir.canonicalize().map_err(|e| Error::io("open", dir, e))?;
    lock::parse(text, &path.display().to_string(), &dir, PLATFORM)
}
