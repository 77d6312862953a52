//! `imgbuild lock`, and the lock that `imgbuild build` starts from.

use std::process::ExitCode;

use tokio::runtime::Handle;

use super::{
    args::{LockArgs, LockingArgs},
    gate, lock_file,
    locks::Lockers,
    online::Online,
    open_store, print, runtime,
    target::Base,
    warnings,
};
use crate::{
    base::{BaseSource, Ground},
    cache_from::CacheFrom,
    digest::Digest,
    error::Result,
    lock::{
        self, Conditions, CudaTarget, Index, IndexRequest, Lock, LockedBase, LockedEnv,
        LockedWheel, SolveRequest, Unmet, VirtualPackages, Wanted, WantedSpec, pip::PipRequest,
    },
    report::Reporter,
    spec::{ImageSpec, Spec},
    store::Store,
};

pub(super) fn run(args: LockArgs, reporter: &Reporter) -> Result<ExitCode> {
    let path = lock_file::path_for(&args.env);
    let file = lock_file::read(&path);
    let known = file.as_ref().ok().and_then(Option::as_ref);
    let locked = known.map(|locks| locks.keys().copied().collect());
    let specs = ImageSpec::resolve(&args.env, args.overrides(locked.unwrap_or_default()))?;
    super::warn_all(&warnings(&specs), reporter);
    let runtime = runtime()?;
    let online = Online::open_all(&specs, args.locking.offline, reporter)?;
    let update = Update {
        packages: args.update.iter().map(|name| name.to_lowercase()).collect(),
        base: args.update_base,
        all: args.update_all,
    };
    let store = open_store(reporter)?;
    let tools = LockTools {
        store: &store,
        runtime: runtime.handle(),
        reporter,
        locking: &args.locking,
        cache_from: &CacheFrom::default(),
    };
    let lockers = Lockers::new(&specs, &online, tools, &path);
    super::stoppable(
        &runtime,
        reporter,
        || {},
        || match (lockers.is_given(), args.locking.locked) {
            (true, _) => lockers.convert(&args.env),
            (false, true) => lockers.check(file?),
            (false, false) => lockers.renew(file, &update),
        },
    )?;
    print(path.display());
    Ok(ExitCode::SUCCESS)
}

/// What `imgbuild lock` is to move.
#[derive(Default)]
pub(super) struct Update {
    pub packages: Vec<String>,
    pub base: bool,
    pub all: bool,
}

/// What locking needs, whatever the platform.
#[derive(Clone, Copy)]
pub(super) struct LockTools<'a> {
    pub store: &'a Store,
    pub runtime: &'a Handle,
    pub reporter: &'a Reporter,
    pub locking: &'a LockingArgs,
    /// Earlier images, which may tell of the bases.
    pub cache_from: &'a CacheFrom,
}

/// What locking for one platform needs.
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
#[derive(Default)]
pub(super) struct Stale {
    pub packages: Vec<Unmet>,
    pub base: Option<Unmet>,
}

impl Stale {
    pub(super) fn reasons(&self) -> impl Iterator<Item = &Unmet> {
        self.packages.iter().chain(&self.base)
    }
}

/// A lock held against what is wanted, and the base image of the build.
pub(super) struct Look {
    pub ground: Ground,
    pub stale: Stale,
}

impl Locker<'_> {
    /// The lock of a build: the old one where it still answers, else a new one.
    pub(super) fn settle(&self, old: Option<&Lock>, look: &Look) -> Result<Lock> {
        let found = &look.ground.image;
        match (old, &look.stale) {
            (Some(old), Stale { packages, base }) if packages.is_empty() && base.is_some() => {
                let new = Lock {
                    base: self.locked_base(found.digest),
                    ..old.clone()
                };
                self.runs_on(&new, &look.ground.tree)?;
                Ok(new)
            }
            (Some(old), stale) if stale.packages.is_empty() => Ok(old.clone()),
            _ => self.solve_all(old, Base::loaded(found), &[]),
        }
    }

    /// Loads the base image, and holds the lock against what is wanted now.
    pub(super) fn look(&self, old: Option<&Lock>) -> Result<Look> {
        let ground = self.ground(self.load_base(old)?)?;
        let stale = match old {
            Some(old) => self.stale(old, ground.image.digest.as_ref())?,
            None => self.missing(),
        };
        Ok(Look { ground, stale })
    }

    fn missing(&self) -> Stale {
        let what = format!("it has no packages for {}", self.spec.machine);
        Stale {
            packages: vec![Unmet::anywhere(what)],
            base: None,
        }
    }

    /// Why a lock does not answer, as far as no registry's image has to be pulled for it.
    pub(super) fn reasons(&self, lock: Option<&Lock>) -> Result<Stale> {
        let Some(lock) = lock else {
            return Ok(self.missing());
        };
        let found = match &self.spec.base {
            BaseSource::Registry(_) => {
                self.say_if_moved(lock.base.as_ref());
                None
            }
            _ => self.load_base(Some(lock))?.digest,
        };
        self.stale(lock, found.as_ref())
    }

    /// Solves, and keeps what the lock has unless it is to move.
    pub(super) fn renewed(&self, old: Option<&Lock>, update: &Update) -> Result<Lock> {
        let kept = old.filter(|_| !update.all);
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
        self.solve_all(kept, base, &update.packages)
    }

    /// What the lock needs of a machine, said and held against the rules.
    pub(super) fn gate(&self, lock: &Lock, one_of_several: bool) -> Result<()> {
        gate::check(self.spec, lock, one_of_several, self.reporter)
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
            platform: self.spec.machine.subdir(),
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
            machine: self.spec.machine,
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

    pub(super) fn stale(&self, lock: &Lock, base: Option<&Digest>) -> Result<Stale> {
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
            machine: self.spec.machine,
        };
        let reference = LockedBase::reference_of(&self.spec.base);
        Ok(Stale {
            packages: lock::unmet(lock, &wanted),
            base: lock::unmet_base(lock.base.as_ref(), reference.as_deref(), base),
        })
    }

    fn conditions(&self, target: &VirtualPackages, old: Option<&Lock>) -> Result<Conditions> {
        let mut virtual_packages: Vec<String> = target
            .list(self.spec.machine.subdir())?
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
            platform: self.locker.spec.machine.subdir(),
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
