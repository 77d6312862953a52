//! One lock file for all platforms of a command.

use std::path::{Path, PathBuf};

use super::{
    lock::{LockTools, Locker, Look, Update},
    lock_file,
    online::Online,
};
use crate::{
    base::Ground,
    error::{Error, Exit, Result},
    fetch,
    lock::{self, Lock, LockedEnv, Locks, Unmet},
    machine::Machine,
    spec::{ImageSpec, source::nearest},
};

/// The platforms of a command and the file that their locks share.
pub(super) struct Lockers<'a> {
    each: Vec<Locker<'a>>,
    path: PathBuf,
    tools: LockTools<'a>,
}

/// The lock of a build, and the base image that it names.
pub(super) type Settled = (Lock, Ground);

impl<'a> Lockers<'a> {
    /// One for each spec, each with the channels that it has them from.
    pub(super) fn new(
        specs: &'a [ImageSpec],
        online: &'a [Online],
        tools: LockTools<'a>,
        path: &Path,
    ) -> Self {
        let each = specs.iter().zip(online).map(|(spec, online)| Locker {
            spec,
            online,
            store: tools.store,
            runtime: tools.runtime,
            reporter: tools.reporter,
            locking: tools.locking,
            cache_from: tools.cache_from,
        });
        Self {
            each: each.collect(),
            path: path.to_owned(),
            tools,
        }
    }

    /// The lockers, in the platforms' order.
    pub(super) fn each(&self) -> &[Locker<'a>] {
        &self.each
    }

    /// Whether a lock was given in place of an environment file.
    pub(super) fn is_given(&self) -> bool {
        self.each.iter().any(|locker| locker.spec.lock.is_some())
    }

    /// The locks that were given; else those beside the environment file where they still answer it,
    /// else new ones. And the base images that they name.
    pub(super) fn current(&self, env: &Path) -> Result<Vec<Settled>> {
        if self.is_given() {
            return self.given(env);
        }
        let old = lock_file::read(&self.path)?;
        if old.is_none() {
            self.refuse_if_locked()?;
        }
        let of = |locker: &Locker<'_>| old.as_ref().and_then(|old| old.get(&locker.spec.machine));
        let looks = self.each.iter().map(|locker| locker.look(of(locker)));
        let looks: Vec<Look> = looks.collect::<Result<_>>()?;
        let reasons: Vec<&Unmet> = looks.iter().flat_map(|look| look.stale.reasons()).collect();
        self.say(old.as_ref(), &reasons)?;
        if let Some(first) = self.each.first().filter(|_| self.tools.locking.locked) {
            first.say_if_moved(of(first).and_then(|lock| lock.base.as_ref()));
        }
        let settled = self.each.iter().zip(&looks);
        let settled = settled.map(|(locker, look)| {
            let machine = locker.spec.machine;
            let lock = locker.settle(of(locker), look);
            Ok((machine, lock.map_err(|e| self.explain(machine, e))?))
        });
        let mut locks = settled.collect::<Result<Locks>>()?;
        if !reasons.is_empty() {
            locks = self.save(old.as_ref(), self.with_others(old.as_ref(), locks))?;
        } else {
            self.gate(&locks)?;
        }
        let looks = self.each.iter().zip(looks);
        looks
            .map(|(locker, look)| {
                let lock = locks.remove(&locker.spec.machine).ok_or_else(lost)?;
                locker.runs_on(&lock, &look.ground.tree)?;
                Ok((lock, look.ground))
            })
            .collect()
    }

    fn given(&self, env: &Path) -> Result<Vec<Settled>> {
        let settled = self.each.iter().map(|locker| {
            let input = locker.spec.lock.as_ref().ok_or_else(lost)?;
            let lock = locker.given(input, env)?;
            locker.gate(&lock, self.are_several())?;
            let ground = locker.ground(locker.load_base(Some(&lock))?)?;
            locker.runs_on(&lock, &ground.tree)?;
            Ok((lock, ground))
        });
        settled.collect()
    }

    /// Says why the lock is renewed, or ends with it under `--locked`.
    fn say(&self, old: Option<&Locks>, reasons: &[&Unmet]) -> Result<()> {
        let path = self.path.display();
        let Some(first) = reasons.first() else {
            return Ok(());
        };
        if old.is_none() {
            self.tools.reporter.step(format!("No {path} yet"));
            return Ok(());
        }
        if self.tools.locking.locked {
            return Err(self.disagrees(reasons));
        }
        let more = match reasons.len() {
            1 => String::new(),
            n => format!("; and {} more reasons", n - 1),
        };
        self.tools.reporter.step(format!(
            "Renewing {path}: {}{more}",
            first.in_file(self.env_file())
        ));
        Ok(())
    }

    /// The locks to plan from: those beside the file while their packages answer, whatever their
    /// base images are by now.
    pub(super) fn planned(&self, env: &Path) -> Result<Vec<Lock>> {
        let mut locks = Locks::new();
        let old = lock_file::read(&self.path);
        for locker in &self.each {
            let machine = locker.spec.machine;
            let lock = match &locker.spec.lock {
                Some(input) => Some(locker.given_so_far(input, env)?),
                None => old
                    .as_ref()
                    .ok()
                    .and_then(Option::as_ref)
                    .and_then(|old| old.get(&machine))
                    .cloned(),
            };
            let Some(lock) = lock else { break };
            let base = lock.base.as_ref().map(|base| base.digest);
            if locker.spec.lock.is_none()
                && !locker.stale(&lock, base.as_ref())?.packages.is_empty()
            {
                break;
            }
            locks.insert(machine, lock);
        }
        if locks.len() < self.each.len() {
            old?;
            let settled = self.current(env)?.into_iter();
            return Ok(settled.map(|(lock, _)| lock).collect());
        }
        self.gate(&locks)?;
        Ok(locks.into_values().collect())
    }

    /// `imgbuild lock --locked`: fails when the lock does not answer, and writes nothing.
    pub(super) fn check(&self, file: Option<Locks>) -> Result<()> {
        let Some(locks) = file else {
            return self.refuse_if_locked();
        };
        let of = |locker: &Locker<'_>| locker.reasons(locks.get(&locker.spec.machine));
        let stale = self.each.iter().map(of).collect::<Result<Vec<_>>>()?;
        let reasons: Vec<&Unmet> = stale.iter().flat_map(|stale| stale.reasons()).collect();
        match reasons.is_empty() {
            true => self.gate(&locks),
            false => Err(self.disagrees(&reasons)),
        }
    }

    /// `imgbuild lock`: solves, and keeps what the lock has unless it is to move. The file has the
    /// platforms of the command afterwards, and no others.
    pub(super) fn renew(&self, file: Result<Option<Locks>>, update: &Update) -> Result<()> {
        let old = match file {
            Ok(old) => old,
            Err(e) if e.exit() == Exit::Input => {
                let path = self.path.display();
                self.tools
                    .reporter
                    .step(format!("Writing {path} anew: {e}"));
                None
            }
            Err(e) => return Err(e),
        };
        let kept = old.as_ref().filter(|_| !update.all);
        update_is_locked(&update.packages, kept)?;
        let renewed = self.each.iter().map(|locker| {
            let machine = locker.spec.machine;
            let old = old.as_ref().and_then(|old| old.get(&machine));
            let lock = locker.renewed(old, update);
            Ok((machine, lock.map_err(|e| self.explain(machine, e))?))
        });
        let new = renewed.collect::<Result<Locks>>()?;
        self.save(old.as_ref(), new).map(drop)
    }

    /// What the lock has for a platform that is not built for; a lock that does not tell has nothing.
    pub(super) fn of_file(&self, machine: Machine, env: &Path) -> Option<Lock> {
        let locker = self.each.first()?;
        if let Some(input) = &locker.spec.lock {
            return locker.given_for(machine, input, env).ok();
        }
        lock_file::read(&self.path).ok()??.remove(&machine)
    }

    /// Makes imgbuild's own lock of another tool's.
    pub(super) fn convert(&self, file: &Path) -> Result<()> {
        let converted = self.each.iter().map(|locker| {
            let input = locker.spec.lock.as_ref().ok_or_else(lost)?;
            Ok((locker.spec.machine, locker.converted(input, file)?))
        });
        let new = converted.collect::<Result<Locks>>()?;
        self.save(None, new).map(drop)
    }

    /// A build leaves platforms that it does not build for as they are locked, where they fit.
    fn with_others(&self, old: Option<&Locks>, mut new: Locks) -> Locks {
        let Some(first) = new.values().next().cloned() else {
            return new;
        };
        for (machine, lock) in old.into_iter().flatten() {
            if !new.contains_key(machine) && lock::agree(&first, lock) {
                new.insert(*machine, lock.clone());
            }
        }
        new
    }

    fn save(&self, old: Option<&Locks>, new: Locks) -> Result<Locks> {
        let environments = || new.values().flat_map(Lock::environments);
        // A lock without it would be refused when it is read.
        environments()
            .flat_map(LockedEnv::packages)
            .try_for_each(|record| fetch::sha256_of(record).map(drop))?;
        let count: usize = environments()
            .map(|env| env.packages().len() + env.wheels().len())
            .sum();
        // A lock that is refused is not written: the one that was there stays.
        self.gate(&new)?;
        let written = lock_file::save(&self.path, &new)?;
        self.say_changes(old, &written);
        let path = self.path.display();
        let platforms = match self.of_many(&written) {
            true => format!(" for {}", list(written.keys())),
            false => String::new(),
        };
        self.tools
            .reporter
            .step(format!("Locked {count} packages{platforms} in {path}"));
        Ok(written)
    }

    fn say_changes(&self, old: Option<&Locks>, new: &Locks) {
        for (machine, old) in old.into_iter().flatten() {
            let lines = match new.get(machine) {
                Some(new) => lock::changes(old, new),
                None => {
                    vec!["Not locked any more (imgbuild lock --platform locks for more)".into()]
                }
            };
            let of = match self.of_many(new) || !new.contains_key(machine) {
                true => format!("{machine}: "),
                false => String::new(),
            };
            for line in lines {
                self.tools.reporter.step(format!("{of}{line}"));
            }
        }
    }

    /// What the locks of the command's platforms need of a machine, said and held against the rules.
    fn gate(&self, locks: &Locks) -> Result<()> {
        for locker in &self.each {
            if let Some(lock) = locks.get(&locker.spec.machine) {
                locker.gate(lock, self.are_several())?;
            }
        }
        Ok(())
    }

    /// Says which platform an error is of, where there are several.
    pub(super) fn explain(&self, machine: Machine, error: Error) -> Error {
        match self.are_several() {
            false => error,
            true => error.why(format!("this is for {machine}")),
        }
    }

    fn are_several(&self) -> bool {
        self.each.len() > 1
    }

    fn of_many(&self, locks: &Locks) -> bool {
        locks.len() > 1 || locks.keys().any(|machine| *machine != Machine::default())
    }

    fn env_file(&self) -> &str {
        self.each.first().map_or("", |locker| &locker.spec.env.file)
    }

    /// The command that locks for the platforms of this one.
    fn lock_command(&self) -> String {
        let machines: Vec<Machine> = self.each.iter().map(|locker| locker.spec.machine).collect();
        let platforms = match machines[..] {
            [Machine::Amd64] => String::new(),
            _ => format!(" --platform {}", list(&machines).replace(' ', "")),
        };
        format!("imgbuild lock {}{platforms}", self.env_file())
    }

    fn refuse_if_locked(&self) -> Result<()> {
        if !self.tools.locking.locked {
            return Ok(());
        }
        Err(Error::input(format!("there is no {}", self.path.display()))
            .why("--locked: a lock is used and none is written")
            .hint(format!("write it with: {}", self.lock_command())))
    }

    fn disagrees(&self, reasons: &[&Unmet]) -> Error {
        let file = self.env_file();
        let what = format!("{} does not answer {file} any more", self.path.display());
        let error = reasons
            .iter()
            .fold(Error::input(what), |error, reason| {
                error.why(reason.in_file(file))
            })
            .hint(format!(
                "renew it with: {}; or leave out --locked",
                self.lock_command()
            ));
        match reasons.iter().find_map(|reason| reason.place) {
            Some(place) => error.at(format!("{file}:{}:{}", place.line, place.column)),
            None => error.at(self.path.display()),
        }
    }
}

fn list<'a>(machines: impl IntoIterator<Item = &'a Machine>) -> String {
    let machines = machines.into_iter().map(Machine::to_string);
    machines.collect::<Vec<_>>().join(", ")
}

fn lost() -> Error {
    Error::new(Exit::Internal, "the lock of a platform was lost")
}

/// Refuses to move a package that is not there.
fn update_is_locked(names: &[String], old: Option<&Locks>) -> Result<()> {
    let known: Vec<&str> = old
        .into_iter()
        .flat_map(Locks::values)
        .flat_map(Lock::environments)
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
