//! Layers go to the daemon while others are still being made.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    Daemon,
    known::{Asked, ImageStore, Known},
    transfer::Transfer,
};
use crate::{
    error::Result,
    report::Reporter,
    sink::Blob,
    store::{BuiltLayer, Store},
};

/// A daemon that an image will be given to, and what it was asked and sent by now.
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
    asked: Asked,
    transfer: Mutex<Option<Transfer>>,
}

impl Early {
    /// Asks the daemon, without waiting for it, what it has under the first of these names. Nothing
    /// is sent yet. Must be called within a runtime.
    pub fn new(daemon: Daemon, names: &[String], store: &Store, reporter: &Reporter) -> Self {
        Self {
            asked: Asked::new(&daemon, names.first().cloned()),
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
        let mut transfer = self.lock();
        let begun = match transfer.take() {
            Some(begun) => begun,
            None => Transfer::start(&self.daemon.docker, None, &self.store, &self.reporter)?,
        };
        let (asked, layer, store) = (self.asked.clone(), layer.clone(), self.store.clone());
        begun.layer(move || match asked.wait()?.store {
            ImageStore::Classic => Blob::plain(&layer, &store).ok()?,
            ImageStore::Containerd => Some(Blob::stored(&layer)),
        });
        *transfer = Some(begun);
        Ok(())
    }

    /// What the daemon said.
    pub(super) async fn known(&self) -> Result<Arc<Known>> {
        self.asked.known(&self.daemon).await
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
