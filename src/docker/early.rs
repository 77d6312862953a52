//! Layers go to the daemon while others are still being made.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinHandle,
};

use super::{
    Daemon,
    climb::{Climb, Goal},
    known::Asked,
    teardown,
};
use crate::{
    error::{Error, Exit, Result},
    image::Layer,
    report::Reporter,
    store::Store,
};

/// How long what was begun may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(300);

/// A daemon that an image will be given to, and what it was sent by now.
///
/// Dropping it, or [`Early::stop`], ends what was begun, and leaves nothing in the daemon.
pub struct Early {
    daemon: Daemon,
    store: Store,
    reporter: Reporter,
    asked: Asked,
    begun: Mutex<Option<Begun>>,
}

/// Layers that are on their way. Dropped, they end.
struct Begun {
    layers: Option<UnboundedSender<Layer>>,
    climbing: Option<JoinHandle<Result<Climb>>>,
}

impl Early {
    /// Asks the daemon, without waiting for it, what it has under the first of these names. Nothing
    /// is sent yet. Must be called within a runtime.
    pub fn new(daemon: Daemon, names: &[String], store: &Store, reporter: &Reporter) -> Self {
        let early = Self {
            asked: Asked::new(&daemon, names.first().cloned()),
            daemon,
            store: store.clone(),
            reporter: reporter.clone(),
            begun: Mutex::default(),
        };
        let (layers, next) = unbounded_channel();
        let climbing = tokio::spawn(climb(early.goal(), next));
        *early.lock() = Some(Begun {
            layers: Some(layers),
            climbing: Some(climbing),
        });
        early
    }

    /// Sends the image's next layer from the lowest up, without waiting for it. What cannot be sent
    /// now is sent, or told, when the image is loaded.
    pub fn take(&self, layer: &Layer) {
        if let Some(layers) = self.lock().as_ref().and_then(|begun| begun.layers.as_ref()) {
            let _ = layers.send(layer.clone());
        }
    }

    /// Ends what was begun; waits for the daemon to let go of it.
    pub fn stop(&self) {
        let begun = self.lock().take();
        drop(begun);
    }

    /// What was begun, to be ended by another; something new where it was stopped.
    pub(super) async fn begun(&self) -> Result<Climb> {
        let begun = self.lock().take();
        match begun {
            Some(begun) => begun.finished().await,
            None => self.goal().await.map(Climb::new),
        }
    }

    /// Where the layers go, once the daemon has said what it is.
    pub(super) fn goal(&self) -> impl Future<Output = Result<Goal>> + Send + 'static {
        let asked = self.asked.clone();
        let (daemon, store, reporter) = (
            self.daemon.clone(),
            self.store.clone(),
            self.reporter.clone(),
        );
        async move {
            Ok(Goal {
                known: asked.known(&daemon).await?,
                daemon,
                store,
                reporter,
            })
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Begun>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends layers until there are no more.
async fn climb(
    goal: impl Future<Output = Result<Goal>>,
    mut layers: UnboundedReceiver<Layer>,
) -> Result<Climb> {
    let mut climb = Climb::new(goal.await?);
    while let Some(layer) = layers.recv().await {
        climb.add(&layer).await;
    }
    Ok(climb)
}

impl Begun {
    async fn finished(mut self) -> Result<Climb> {
        let lost = |e| Error::new(Exit::Internal, "a thread was lost").why(e);
        self.layers = None;
        let Some(climbing) = &mut self.climbing else {
            return Err(Error::new(Exit::Internal, "a transfer was ended twice"));
        };
        let climb = climbing.await.map_err(lost)?;
        self.climbing = None;
        climb
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let Some(climbing) = self.climbing.take() else {
            return;
        };
        climbing.abort();
        let ended = async move {
            // Cut off, or just then at its end: what it holds is dropped here or there.
            let _ = climbing.await;
        };
        teardown::finish(ended, STOP_LIMIT);
    }
}
