//! Layers go to the daemon while others are still being made.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Daemon, ImageStore, transfer::Transfer};
use crate::{
    error::Result,
    report::Reporter,
    sink::Blob,
    store::{BuiltLayer, Store},
};

/// A daemon that an image will be given to, and what it was sent of it by now.
///
/// Only layers that were just made are sent early: which of the others the daemon has can be asked
/// once the image is known. Dropping it, or [`Early::stop`], ends what was begun, and leaves
/// nothing in the daemon.
pub struct Early {
    /// The daemon.
    pub daemon: Daemon,
    /// Where the layers are.
    pub store: Store,
    /// Progress.
    pub reporter: Reporter,
    transfer: Mutex<Option<Transfer>>,
}

impl Early {
    /// Nothing is sent yet.
    pub fn new(daemon: Daemon, store: &Store, reporter: &Reporter) -> Self {
        Self {
            daemon,
            store: store.clone(),
            reporter: reporter.clone(),
            transfer: Mutex::default(),
        }
    }

    /// Sends a layer, without waiting for it. What cannot be sent now is sent with the image.
    pub fn take(&self, layer: &BuiltLayer) {
        // What prevents it is met again, and told, when the image is loaded.
        let _ = self.try_take(layer);
    }

    fn try_take(&self, layer: &BuiltLayer) -> Result<()> {
        let blob = match self.daemon.facts.store {
            ImageStore::Classic => Blob::plain(layer, &self.store)?,
            ImageStore::Containerd => Some(Blob::stored(layer)),
        };
        let Some(blob) = blob else {
            return Ok(());
        };
        let mut transfer = self.lock();
        let begun = match transfer.take() {
            Some(begun) => begun,
            None => Transfer::start(&self.daemon.docker, None, &self.store, &self.reporter)?,
        };
        begun.layer(blob);
        *transfer = Some(begun);
        Ok(())
    }

    /// What was begun, to be ended by another.
    pub(super) fn begun(&self) -> Option<Transfer> {
        self.lock().take()
    }

    /// Ends what was begun; waits for the daemon to let go of it.
    pub fn stop(&self) {
        drop(self.begun());
    }

    fn lock(&self) -> MutexGuard<'_, Option<Transfer>> {
        self.transfer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
