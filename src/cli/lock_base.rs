//! The base image that a lock names.

use std::time::Duration;

use super::lock::Locker;
use crate::{
    base::{BaseImage, BaseLayer, BaseSource, Ground, Loader, tree::BaseTree},
    digest::Digest,
    docker,
    error::Result,
    lock::{Lock, LockedBase},
};

/// How long a registry may take to say where a tag points.
const ANSWER: Duration = Duration::from_secs(3);

impl Locker<'_> {
    pub(super) fn loader(&self) -> Loader {
        Loader {
            store: self.store.clone(),
            reporter: self.reporter.clone(),
            platform: self.spec.machine.platform(),
            offline: self.locking.offline,
            registries: self.locking.registries.settings(),
        }
    }

    /// What a lock has of the base image that is wanted now.
    pub(super) fn pin<'l>(&self, lock: &'l Lock) -> Option<&'l LockedBase> {
        let wanted = LockedBase::reference_of(&self.spec.base)?;
        lock.base.as_ref().filter(|base| base.reference == wanted)
    }

    pub(super) fn load_base(&self, lock: Option<&Lock>) -> Result<BaseImage> {
        let pin = lock.and_then(|lock| self.pin(lock));
        let daemon = async { Ok(docker::connect().await?.docker) };
        let loader = self.loader();
        let loading = loader.describe(&self.spec.base, pin.map(|pin| &pin.digest), daemon);
        self.runtime.block_on(loading)
    }

    /// What stands where in the base image. Layers of a registry's image are only fetched when
    /// neither this machine nor an earlier image knows it.
    pub(super) fn ground(&self, base: BaseImage) -> Result<Ground> {
        let here = |layer: &BaseLayer| self.store.has_blob(&layer.digest, layer.size);
        let whole = base.layers.iter().all(here);
        if !whole && let Some(known) = self.known_ground(&base) {
            return Ok(known);
        }
        let loader = self.loader();
        let completing = loader.complete(&self.spec.base, base);
        let image = self.runtime.block_on(completing)?;
        let tree = BaseTree::scan(&image.layers, self.store)?;
        Ok(Ground { image, tree })
    }

    /// What stands where in a base image of which only the documents are here, if that is known.
    pub(super) fn known_ground(&self, base: &BaseImage) -> Option<Ground> {
        let read_before = || {
            // Its media types were corrected then.
            let image = self.store.last_base(&self.spec.base_name())?;
            let tree = BaseTree::kept(&image.layers, self.store)?;
            (image.digest == base.digest).then_some(Ground { image, tree })
        };
        read_before().or_else(|| self.cache_from.ground(base, &self.spec.places()))
    }

    pub(super) fn locked_base(&self, digest: Option<Digest>) -> Option<LockedBase> {
        Some(LockedBase {
            reference: LockedBase::reference_of(&self.spec.base)?,
            digest: digest?,
        })
    }

    /// Asks the registry where a tag points by now. The lock holds without the answer, so none is
    /// no error.
    pub(super) fn say_if_moved(&self, locked: Option<&LockedBase>) {
        let (BaseSource::Registry(reference), Some(locked)) = (&self.spec.base, locked) else {
            return;
        };
        if self.locking.offline || locked.reference != *reference {
            return;
        }
        let loader = self.loader();
        let asked = async { tokio::time::timeout(ANSWER, loader.resolve(reference)).await };
        if let Ok(Ok(now)) = self.runtime.block_on(asked)
            && now != locked.digest
        {
            self.reporter.warn(format!(
                "{reference} is {now} by now; the lock keeps {} (imgbuild lock --update-base takes \
                 the new one)",
                locked.digest
            ));
        }
    }
}
