//! A lock given in place of an environment file: used as it is, or made imgbuild's own.

use std::path::Path;

use super::lock::Locker;
use crate::{
    error::{Error, Result},
    lock::{self, Lock, complete, foreign},
    machine::Machine,
    spec::LockInput,
};

impl Locker<'_> {
    /// The lock that was given, with what it leaves out taken from the archives.
    pub(super) fn given(&self, input: &LockInput, file: &Path) -> Result<Lock> {
        self.given_for(self.spec.machine, input, file)
    }

    /// The same for a platform that is not built for.
    pub(super) fn given_for(
        &self,
        machine: Machine,
        input: &LockInput,
        file: &Path,
    ) -> Result<Lock> {
        let lock = self.read_given(machine, input, file)?;
        let completing = complete::complete(&lock, &self.online.client, self.store, self.reporter);
        let completed = self.runtime.block_on(completing);
        completed.map_err(|e| self.locking.explain(e))
    }

    /// The lock that was given, as far as it is known without a network.
    pub(super) fn given_so_far(&self, input: &LockInput, file: &Path) -> Result<Lock> {
        complete::from_store(
            &self.read_given(self.spec.machine, input, file)?,
            self.store,
        )
    }

    fn read_given(&self, machine: Machine, input: &LockInput, file: &Path) -> Result<Lock> {
        let name = file.display().to_string();
        let bytes = input.text.as_bytes();
        let platform = machine.subdir();
        let given = foreign::parse(bytes, &name, &folder(file)?, &input.choice, platform)?;
        super::warn_all(&given.warnings, self.reporter);
        if self.spec.miniconda.is_some() && given.lock.miniconda.is_none() {
            return Err(Error::input(format!("{name} has no Miniconda base"))
                .at(&name)
                .why("'miniconda' is on, and a lock is used as it is")
                .hint("turn miniconda off, or build from an environment file"));
        }
        Ok(given.lock)
    }

    /// Another tool's lock, to make imgbuild's own of it.
    pub(super) fn converted(&self, input: &LockInput, file: &Path) -> Result<Lock> {
        if lock::is_own(&input.text) {
            return Err(
                Error::input(format!("{} is imgbuild's own lock", file.display()))
                    .why("there is nothing to lock")
                    .hint("build from it, or lock the environment file again"),
            );
        }
        self.given(input, file)
    }
}

/// The absolute folder that a file lies in.
fn folder(file: &Path) -> Result<std::path::PathBuf> {
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = dir.unwrap_or(Path::new("."));
    dir.canonicalize().map_err(|e| Error::io("open", dir, e))
}
