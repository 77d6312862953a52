//! `imgbuild lock`, and the lock that `imgbuild build` starts from.

use std::{path::Path, process::ExitCode};

use reqwest_middleware::ClientWithMiddleware;
use tokio::runtime::Handle;

use super::{
    args::{LockArgs, LockingArgs},
    gate, lock_file, print, runtime,
};
use crate::{
    base::{BaseImage, BaseSource},
    digest::Digest,
    error::{Error, Result},
    fetch,
    lock::{
        self, Channels, Conditions, Lock, LockedBase, LockedEnv, LockedWheel, SolveRequest, Unmet,
        VirtualPackages, Wanted, WantedSpec, pip::PipRequest,
    },
    report::Reporter,
    spec::{ImageSpec, Spec, source::nearest},
    store::Store,
};

pub(super) fn run(args: LockArgs, reporter: &Reporter) -> Result<ExitCode> {
    let spec = ImageSpec::resolve(&args.env, args.overrides())?;
    super::warn_all(&spec.warnings, reporter);
    let runtime = runtime()?;
    let channels = channels(&spec)?;
    let update = Update {
        packages: args.update.iter().map(|name| name.to_lowercase()).collect(),
        base: args.update_base,
        all: args.update_all,
    };
    let locker = Locker {
        spec: &spec,
        store: &Store::open(Store::default_root()?)?,
        client: &client(&channels, &args.locking)?,
        runtime: runtime.handle(),
        reporter,
        channels: &channels,
        locking: &args.locking,
    };
    let path = lock_file::path_for(&args.env);
    super::stoppable(
        &runtime,
        reporter,
        || {},
        || match (&spec.lock, args.locking.locked) {
            (Some(input), _) => locker.convert(input, &args.env, &path),
            (None, true) => locker.check(&path),
            (None, false) => locker.renew(&path, &update),
        },
    )?;
    print(path.display());
    Ok(ExitCode::SUCCESS)
}

/// The channels that an environment file names, with the variables of this process.
pub(super) fn channels(spec: &ImageSpec) -> Result<Channels> {
    let miniconda = spec.miniconda.as_ref().map(|m| m.specs.as_slice());
    let specs: Vec<&[Spec]> = [Some(spec.env.specs.as_slice()), miniconda]
        .into_iter()
        .flatten()
        .collect();
    Channels::resolve(&spec.env, &specs, |name| std::env::var(name).ok())
}

/// The client for channels and packages.
pub(super) fn client(channels: &Channels, locking: &LockingArgs) -> Result<ClientWithMiddleware> {
    lock::http_client(&lock::ClientOptions {
        offline: locking.offline,
        logins: channels.logins.clone(),
    })
}

/// What `imgbuild lock` is to move.
#[derive(Default)]
struct Update {
    packages: Vec<String>,
    base: bool,
    all: bool,
}

/// What locking needs.
pub(super) struct Locker<'a> {
    pub spec: &'a ImageSpec,
    pub store: &'a Store,
    pub client: &'a ClientWithMiddleware,
    pub runtime: &'a Handle,
    pub reporter: &'a Reporter,
    pub channels: &'a Channels,
    pub locking: &'a LockingArgs,
}

/// Why a lock does not answer any more.
struct Stale {
    packages: Vec<Unmet>,
    base: Option<Unmet>,
}

impl Locker<'_> {
    /// The lock that was given; else the one beside the environment file if it still answers it,
    /// else a new one. And the base image that it names.
    pub(super) fn current(&self, env: &Path) -> Result<(Lock, BaseImage)> {
        if let Some(input) = &self.spec.lock {
            let lock = self.given(input, env)?;
            self.gate(&lock)?;
            let base = self.load_base(Some(&lock))?;
            return Ok((lock, base));
        }
        let path = lock_file::path_for(env);
        let Some(old) = lock_file::read(&path)? else {
            self.refuse_if_locked(&path)?;
            let base = self.load_base(None)?;
            self.reporter.step(format!("No {} yet", path.display()));
            return Ok((self.write(&path, None, base.digest, &[])?, base));
        };
        let base = self.load_base(Some(&old))?;
        let stale = self.stale(&old, base.digest.as_ref())?;
        let reasons: Vec<&Unmet> = stale.packages.iter().chain(&stale.base).collect();
        let Some(first) = reasons.first() else {
            self.gate(&old)?;
            return Ok((old, base));
        };
        if self.locking.locked {
            return Err(self.disagrees(&path, &reasons));
        }
        let more = match reasons.len() {
            1 => String::new(),
            n => format!("; and {} more reasons", n - 1),
        };
        self.reporter.step(format!(
            "Renewing {}: {}{more}",
            path.display(),
            first.in_file(&self.spec.env.file)
        ));
        let lock = if stale.packages.is_empty() {
            let new = Lock {
                base: self.locked_base(base.digest),
                ..old.clone()
            };
            self.save(&path, Some(&old), &new)?
        } else {
            self.write(&path, Some(&old), base.digest, &[])?
        };
        Ok((lock, base))
    }

    /// The lock to plan from: the one beside the file while its packages answer, whatever its base
    /// image is by now.
    pub(super) fn planned(&self, env: &Path) -> Result<Lock> {
        if let Some(input) = &self.spec.lock {
            let lock = self.given_so_far(input, env)?;
            return self.gate(&lock).map(|()| lock);
        }
        if let Some(lock) = lock_file::read(&lock_file::path_for(env))? {
            let base = lock.base.as_ref().map(|base| base.digest);
            if self.stale(&lock, base.as_ref())?.packages.is_empty() {
                return self.gate(&lock).map(|()| lock);
            }
        }
        self.current(env).map(|(lock, _)| lock)
    }

    /// `imgbuild lock --locked`: fails when the lock does not answer, and writes nothing.
    fn check(&self, path: &Path) -> Result<()> {
        let Some(lock) = lock_file::read(path)? else {
            return self.refuse_if_locked(path);
        };
        let found = match &self.spec.base {
            BaseSource::Registry(_) => {
                self.say_if_moved(lock.base.as_ref());
                None
            }
            _ => self.load_base(Some(&lock))?.digest,
        };
        let stale = self.stale(&lock, found.as_ref())?;
        let reasons: Vec<&Unmet> = stale.packages.iter().chain(&stale.base).collect();
        match reasons.is_empty() {
            true => self.gate(&lock),
            false => Err(self.disagrees(path, &reasons)),
        }
    }

    /// `imgbuild lock`: solves, and keeps what the lock has unless it is to move.
    fn renew(&self, path: &Path, update: &Update) -> Result<()> {
        let old = match lock_file::read(path) {
            Ok(old) => old,
            Err(e) if e.exit() == crate::error::Exit::Input => {
                self.reporter
                    .step(format!("Writing {} anew: {e}", path.display()));
                None
            }
            Err(e) => return Err(e),
        };
        let kept = old.as_ref().filter(|_| !update.all);
        update_is_locked(&update.packages, kept)?;
        let pinned = kept
            .and_then(|lock| self.pin(lock))
            .filter(|_| !update.base);
        let digest = match (&self.spec.base, pinned) {
            (BaseSource::Registry(_), Some(pinned)) => {
                self.say_if_moved(Some(pinned));
                Some(pinned.digest)
            }
            (BaseSource::Registry(reference), None) => {
                Some(self.runtime.block_on(self.loader().resolve(reference))?)
            }
            _ => self.load_base(kept)?.digest,
        };
        let new = self.solve_all(kept, digest, &update.packages)?;
        self.save(path, old.as_ref(), &new).map(drop)
    }

    /// What the lock needs of a machine, said and held against the rules.
    fn gate(&self, lock: &Lock) -> Result<()> {
        gate::check(self.spec, lock, self.reporter)
    }

    fn write(
        &self,
        path: &Path,
        old: Option<&Lock>,
        base: Option<Digest>,
        update: &[String],
    ) -> Result<Lock> {
        let new = self.solve_all(old, base, update)?;
        self.save(path, old, &new)
    }

    /// Solves all environments, with the packages of `old` where they still fit.
    fn solve_all(
        &self,
        old: Option<&Lock>,
        base: Option<Digest>,
        update: &[String],
    ) -> Result<Lock> {
        let target = self.target(old);
        let conditions = self.conditions(&target, old)?;
        if self.locking.exclude_newer.is_none()
            && let Some(time) = conditions.exclude_newer
        {
            self.reporter.step(format!(
                "Packages after {time} do not count, as the lock says; --update-all ends that"
            ));
        }
        let solve = |specs: &[Spec], old: Option<&LockedEnv>| {
            let keep = old.map(|env| lock::keep(env, &self.channels.wanted, update));
            let specs = self.channels.specs(specs);
            let specs: Vec<_> = specs.into_iter().map(|wanted| wanted.spec).collect();
            let request = SolveRequest {
                channels: &self.channels.list,
                specs: &specs,
                platform: lock_file::PLATFORM,
                virtual_packages: &target,
                exclude_newer: conditions.exclude_newer,
                keep: keep.as_deref().unwrap_or_default(),
                channel_priority: conditions.channel_priority,
                offline: self.locking.offline,
            };
            let solving = lock::solve(request, self.client.clone(), self.store);
            let solved = self.runtime.block_on(solving);
            solved.map_err(|e| self.locking.explain(e))
        };
        let below = old.and_then(|lock| lock.miniconda.as_ref());
        Ok(Lock {
            env: self.with_wheels(
                solve(&self.spec.env.specs, old.map(|lock| &lock.env))?,
                old.map(|lock| lock.env.wheels()).unwrap_or_default(),
                update,
                &target,
                conditions.exclude_newer,
            )?,
            miniconda: match &self.spec.miniconda {
                Some(miniconda) => Some(solve(&miniconda.specs, below)?),
                None => None,
            },
            base: self.locked_base(base),
            conditions,
        })
    }

    /// The pip packages over the conda ones.
    fn with_wheels(
        &self,
        env: LockedEnv,
        keep: &[LockedWheel],
        update: &[String],
        target: &VirtualPackages,
        exclude_newer: Option<jiff::Timestamp>,
    ) -> Result<LockedEnv> {
        if self.spec.env.pip.is_empty() {
            return Ok(env);
        }
        let wheels = lock::pip::resolve(PipRequest {
            section: &self.spec.env.pip,
            packages: env.packages(),
            glibc: target.glibc(),
            exclude_newer,
            offline: self.locking.offline,
            keep,
            update,
            store: self.store,
            client: self.client,
            runtime: self.runtime,
            reporter: self.reporter,
        });
        Ok(env.with_wheels(wheels?))
    }

    pub(super) fn save(&self, path: &Path, old: Option<&Lock>, new: &Lock) -> Result<Lock> {
        let mut count = 0;
        for env in new.environments() {
            count += env.packages().len() + env.wheels().len();
            // A lock without it would be refused when it is read.
            env.packages()
                .iter()
                .try_for_each(|record| fetch::sha256_of(record).map(drop))?;
        }
        // A lock that is refused is not written: the one that was there stays.
        self.gate(new)?;
        let written = lock_file::save(path, new)?;
        for line in old
            .map(|old| lock::changes(old, &written))
            .unwrap_or_default()
        {
            self.reporter.step(line);
        }
        self.reporter
            .step(format!("Locked {count} packages in {}", path.display()));
        Ok(written)
    }

    fn stale(&self, lock: &Lock, base: Option<&Digest>) -> Result<Stale> {
        let specs = self.channels.specs(&self.spec.env.specs);
        let miniconda = self.spec.miniconda.as_ref();
        let miniconda: Option<Vec<WantedSpec>> =
            miniconda.map(|miniconda| self.channels.specs(&miniconda.specs));
        let wanted = Wanted {
            channels: &self.channels.wanted,
            specs: &specs,
            miniconda: miniconda.as_deref(),
            pip: &self.spec.env.pip,
            conditions: &self.conditions(&self.target(Some(lock)), Some(lock))?,
        };
        let reference = LockedBase::reference_of(&self.spec.base);
        Ok(Stale {
            packages: lock::unmet(lock, &wanted),
            base: lock::unmet_base(lock.base.as_ref(), reference.as_deref(), base),
        })
    }

    /// What the image's machines offer; what nobody says now stays as the lock has it.
    fn target(&self, old: Option<&Lock>) -> VirtualPackages {
        let locked = |name| {
            let version = old.and_then(|lock| lock.conditions.version_of(name));
            version.map(str::to_owned)
        };
        VirtualPackages {
            cuda: self.spec.cuda.clone().or_else(|| locked("__cuda")),
            glibc: std::env::var("CONDA_OVERRIDE_GLIBC")
                .ok()
                .or_else(|| locked("__glibc")),
        }
    }

    fn conditions(&self, target: &VirtualPackages, old: Option<&Lock>) -> Result<Conditions> {
        let mut virtual_packages: Vec<String> = target
            .list(lock_file::PLATFORM)?
            .iter()
            .map(ToString::to_string)
            .collect();
        virtual_packages.sort();
        let locked = old.and_then(|lock| lock.conditions.exclude_newer);
        Ok(Conditions {
            virtual_packages,
            channel_priority: Default::default(),
            exclude_newer: self.locking.exclude_newer.or(locked),
            pip: lock::pip_conditions(&self.spec.env.pip),
        })
    }

    fn refuse_if_locked(&self, path: &Path) -> Result<()> {
        if !self.locking.locked {
            return Ok(());
        }
        Err(Error::input(format!("there is no {}", path.display()))
            .why("--locked: a lock is used and none is written")
            .hint(format!(
                "write it with: imgbuild lock {}",
                self.spec.env.file
            )))
    }

    fn disagrees(&self, path: &Path, reasons: &[&Unmet]) -> Error {
        let file = &self.spec.env.file;
        let what = format!("{} does not answer {file} any more", path.display());
        let error = reasons
            .iter()
            .fold(Error::input(what), |error, reason| {
                error.why(reason.in_file(file))
            })
            .hint(format!(
                "renew it with: imgbuild lock {file}; or leave out --locked"
            ));
        match reasons.iter().find_map(|reason| reason.place) {
            Some(place) => error.at(format!("{file}:{}:{}", place.line, place.column)),
            None => error.at(path.display()),
        }
    }
}

/// Refuses to move a package that is not there.
fn update_is_locked(names: &[String], old: Option<&Lock>) -> Result<()> {
    let known: Vec<&str> = old
        .iter()
        .flat_map(|lock| lock.environments())
        .flat_map(|env| {
            let conda = env.packages().iter();
            let conda = conda.map(|record| record.package_record.name.as_normalized());
            conda.chain(env.wheels().iter().map(|wheel| wheel.name.as_str()))
        })
        .collect();
    let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) else {
        return Ok(());
    };
    let error = Error::input(format!("--update {name}: no such package is locked"));
    Err(match nearest(name, known.iter().copied()) {
        Some(near) => error.hint(format!("did you mean {near}?")),
        None => error.hint("name a package of the lock, or use --update-all"),
    })
}
