//! `imgbuild lock`, and the lock that `imgbuild build` starts from.

use std::{path::Path, process::ExitCode};

use tokio::runtime::Handle;

use super::{
    args::{LockArgs, LockingArgs},
    gate, lock_file,
    online::Online,
    open_store, print, runtime,
    target::Base,
};
use crate::{
    base::{BaseSource, Ground},
    cache_from::CacheFrom,
    digest::Digest,
    error::{Error, Result},
    fetch,
    lock::{
        self, Conditions, CudaTarget, Index, IndexRequest, Lock, LockedBase, LockedEnv,
        LockedWheel, SolveRequest, Unmet, VirtualPackages, Wanted, WantedSpec, pip::PipRequest,
    },
    report::Reporter,
    spec::{ImageSpec, Spec, source::nearest},
    store::Store,
};

pub(super) fn run(args: LockArgs, reporter: &Reporter) -> Result<ExitCode> {
    let spec = ImageSpec::resolve(&args.env, args.overrides())?;
    super::warn_all(&spec.warnings, reporter);
    let runtime = runtime()?;
    let online = Online::open(&spec, args.locking.offline, reporter)?;
    let update = Update {
        packages: args.update.iter().map(|name| name.to_lowercase()).collect(),
        base: args.update_base,
        all: args.update_all,
    };
    let locker = Locker {
        spec: &spec,
        store: &open_store(reporter)?,
        online: &online,
        runtime: runtime.handle(),
        reporter,
        locking: &args.locking,
        cache_from: &CacheFrom::default(),
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
    pub online: &'a Online,
    pub runtime: &'a Handle,
    pub reporter: &'a Reporter,
    pub locking: &'a LockingArgs,
    /// Earlier images, which may tell of the base.
    pub cache_from: &'a CacheFrom,
}

/// Why a lock does not answer any more.
struct Stale {
    packages: Vec<Unmet>,
    base: Option<Unmet>,
}

impl Locker<'_> {
    /// The lock that was given; else the one beside the environment file if it still answers it,
    /// else a new one. And the base image that it names.
    pub(super) fn current(&self, env: &Path) -> Result<(Lock, Ground)> {
        if let Some(input) = &self.spec.lock {
            let lock = self.given(input, env)?;
            self.gate(&lock)?;
            let ground = self.ground(self.load_base(Some(&lock))?)?;
            self.runs_on(&lock, &ground.tree)?;
            return Ok((lock, ground));
        }
        let path = lock_file::path_for(env);
        let Some(old) = lock_file::read(&path)? else {
            self.refuse_if_locked(&path)?;
            let ground = self.ground(self.load_base(None)?)?;
            self.reporter.step(format!("No {} yet", path.display()));
            return Ok((
                self.write(&path, None, Base::loaded(&ground.image))?,
                ground,
            ));
        };
        let ground = self.ground(self.load_base(Some(&old))?)?;
        let base = &ground.image;
        let stale = self.stale(&old, base.digest.as_ref())?;
        let reasons: Vec<&Unmet> = stale.packages.iter().chain(&stale.base).collect();
        let Some(first) = reasons.first() else {
            self.gate(&old)?;
            self.runs_on(&old, &ground.tree)?;
            return Ok((old, ground));
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
            self.runs_on(&new, &ground.tree)?;
            self.save(&path, Some(&old), &new)?
        } else {
            self.write(&path, Some(&old), Base::loaded(base))?
        };
        Ok((lock, ground))
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
        let mut image = None;
        let digest = match (&self.spec.base, pinned) {
            (BaseSource::Registry(_), Some(pinned)) => {
                self.say_if_moved(Some(pinned));
                Some(pinned.digest)
            }
            (BaseSource::Registry(reference), None) => {
                Some(self.runtime.block_on(self.loader().resolve(reference))?)
            }
            _ => image.insert(self.load_base(kept)?).digest,
        };
        let base = Base {
            digest: digest.as_ref(),
            image: image.as_ref(),
        };
        let new = self.solve_all(kept, base, &update.packages)?;
        self.save(path, old.as_ref(), &new).map(drop)
    }

    /// What the lock needs of a machine, said and held against the rules.
    fn gate(&self, lock: &Lock) -> Result<()> {
        gate::check(self.spec, lock, self.reporter)
    }

    fn write(&self, path: &Path, old: Option<&Lock>, base: Base<'_>) -> Result<Lock> {
        let new = self.solve_all(old, base, &[])?;
        self.save(path, old, &new)
    }

    /// Solves all environments, with the packages of `old` where they still fit.
    fn solve_all(&self, old: Option<&Lock>, base: Base<'_>, update: &[String]) -> Result<Lock> {
        let cuda = self.cuda(old)?;
        if let Some(derived) = &cuda.derived {
            self.reporter.step(derived);
        }
        let index = self.index(&self.spec.env.specs)?;
        let miniconda = match &self.spec.miniconda {
            Some(miniconda) => Some((&miniconda.specs, self.index(&miniconda.specs)?)),
            None => None,
        };
        let mut target = self.target(&cuda, old);
        // The base is only read when something depends on it.
        let below = miniconda.as_ref().map(|(_, index)| index);
        let asks = [Some(&index), below]
            .into_iter()
            .flatten()
            .any(|index| index.mentions("__glibc"));
        if asks || !self.spec.env.pip.is_empty() {
            target.glibc = Some(self.glibc(base, target.glibc)?);
        }
        let conditions = self.conditions(&target, old)?;
        if self.locking.exclude_newer.is_none()
            && let Some(time) = conditions.exclude_newer
        {
            self.reporter.step(format!(
                "Packages after {time} do not count, as the lock says; --update-all ends that"
            ));
        }
        let solving = Solving {
            locker: self,
            cuda: &cuda,
            target: &target,
            conditions: &conditions,
            update,
        };
        let env = solving.run(&self.spec.env.specs, &index, old.map(|lock| &lock.env))?;
        let keep = old.map(|lock| lock.env.wheels()).unwrap_or_default();
        let below = old.and_then(|lock| lock.miniconda.as_ref());
        Ok(Lock {
            env: self.with_wheels(env, keep, update, &target, conditions.exclude_newer)?,
            miniconda: match &miniconda {
                // Its Python is not torch's: nothing of it is held to the pins.
                Some((specs, index)) => Some(
                    Solving {
                        cuda: &CudaTarget::default(),
                        ..solving
                    }
                    .run(specs, index, below)?,
                ),
                None => None,
            },
            base: self.locked_base(base.digest.copied()),
            conditions,
        })
    }

    /// What the channels have for these specs.
    fn index(&self, specs: &[Spec]) -> Result<Index> {
        let specs = self.online.channels.specs(specs);
        let specs: Vec<_> = specs.into_iter().map(|wanted| wanted.spec).collect();
        let request = IndexRequest {
            channels: &self.online.channels,
            specs: &specs,
            platform: lock_file::PLATFORM,
            offline: self.locking.offline,
        };
        let fetching = Index::fetch(request, &self.online.client, self.store);
        self.runtime.block_on(fetching)
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
            client: &self.online.client,
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
        let specs = self.online.channels.specs(&self.spec.env.specs);
        let miniconda = self.spec.miniconda.as_ref();
        let miniconda: Option<Vec<WantedSpec>> =
            miniconda.map(|miniconda| self.online.channels.specs(&miniconda.specs));
        let wanted = Wanted {
            channels: &self.online.channels.wanted,
            specs: &specs,
            miniconda: miniconda.as_deref(),
            pip: &self.spec.env.pip,
            conditions: &self.conditions(
                &self.target(&self.cuda(Some(lock))?, Some(lock)),
                Some(lock),
            )?,
        };
        let reference = LockedBase::reference_of(&self.spec.base);
        Ok(Stale {
            packages: lock::unmet(lock, &wanted),
            base: lock::unmet_base(lock.base.as_ref(), reference.as_deref(), base),
        })
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
            channel_priority: self.online.priority,
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

/// One environment to be solved, under the conditions of all.
#[derive(Clone, Copy)]
struct Solving<'a> {
    locker: &'a Locker<'a>,
    cuda: &'a CudaTarget,
    target: &'a VirtualPackages,
    conditions: &'a Conditions,
    update: &'a [String],
}

impl Solving<'_> {
    fn run(&self, specs: &[Spec], index: &Index, old: Option<&LockedEnv>) -> Result<LockedEnv> {
        let channels = &self.locker.online.channels;
        let keep = old.map(|env| lock::keep(env, &channels.wanted, self.update));
        let specs = channels.specs(specs);
        let specs: Vec<_> = specs.into_iter().map(|wanted| wanted.spec).collect();
        let request = SolveRequest {
            channels,
            specs: &specs,
            platform: lock_file::PLATFORM,
            virtual_packages: self.target,
            cuda: self.cuda,
            priority: self.conditions.channel_priority,
            exclude_newer: self.conditions.exclude_newer,
            keep: keep.as_deref().unwrap_or_default(),
        };
        lock::solve(&request, index).or_else(|refused| {
            // What is kept may leave only builds that are not wanted any more.
            let anew = SolveRequest {
                keep: &[],
                ..request
            };
            match request.keep.is_empty() {
                true => Err(refused),
                false => lock::solve(&anew, index),
            }
        })
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
