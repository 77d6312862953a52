//! Layers go to a repository while others are still being made.
//!
//! Blobs that no manifest names are shown to nobody, and a registry removes them in time: nothing
//! is wrong with them when the build fails.

use std::{collections::BTreeSet, pin::pin};

use futures_util::{StreamExt, stream};
use oci_client::{Reference, RegistryOperation};
use tokio::{
    runtime::Handle,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinHandle,
};

use super::{
    push::{CONCURRENT, same_repository},
    remote::{Purpose, Remote},
    upload::{Blob, Upload},
};
use crate::{base::Loader, digest::Digest, error::Result, store::BuiltLayer};

/// A push that begins while layers are still being made. Dropped, it ends.
pub struct Ahead {
    layers: UnboundedSender<BuiltLayer>,
    sending: JoinHandle<Sent>,
}

/// What a repository was sent before the image was known.
#[derive(Debug, Default)]
pub struct Sent {
    to: Option<Reference>,
    blobs: BTreeSet<Digest>,
}

impl Ahead {
    /// Waits for layers for the repository of this reference. Nothing is asked before there is one.
    pub fn start(reference: &str, loader: &Loader, runtime: &Handle) -> Self {
        let (layers, made) = unbounded_channel();
        let (reference, loader) = (reference.to_owned(), loader.clone());
        Self {
            layers,
            sending: runtime.spawn(async move { send(&reference, &loader, made).await }),
        }
    }

    /// Sends a layer, without waiting for it.
    pub fn take(&self, layer: &BuiltLayer) {
        // A sender that is gone met what the push will meet, and tell.
        let _ = self.layers.send(layer.clone());
    }

    /// Waits for what is being sent.
    pub async fn finished(mut self) -> Sent {
        // A sender of its own, so that the channel ends.
        self.layers = unbounded_channel().0;
        (&mut self.sending).await.unwrap_or_default()
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.sending.abort();
    }
}

impl Sent {
    /// The blobs that this repository was sent.
    pub(super) fn to(&self, repository: &Reference) -> BTreeSet<Digest> {
        match &self.to {
            Some(to) if same_repository(to, repository) => self.blobs.clone(),
            _ => BTreeSet::new(),
        }
    }
}

/// Sends the layers until there are no more, or one cannot be sent.
async fn send(reference: &str, loader: &Loader, mut made: UnboundedReceiver<BuiltLayer>) -> Sent {
    let Some(first) = made.recv().await else {
        return Sent::default();
    };
    let purpose = Purpose {
        operation: RegistryOperation::Push,
        sources: &[],
        settings: &loader.registries,
    };
    let Ok(remote) = Remote::connect(reference, purpose, &loader.reporter).await else {
        return Sent::default();
    };
    let mut sent = Sent {
        to: Some(remote.reference().clone()),
        blobs: BTreeSet::new(),
    };
    let others = stream::unfold(made, |mut made| async {
        made.recv().await.map(|layer| (layer, made))
    });
    let sending = stream::iter([first])
        .chain(others)
        .map(|layer| send_layer(&remote, layer, loader))
        .buffer_unordered(CONCURRENT);
    let mut sending = pin!(sending);
    while let Some(Ok(done)) = sending.next().await {
        sent.blobs.extend(done);
    }
    sent
}

/// Sends a layer, unless it is there; returns the digest of what was sent.
async fn send_layer(remote: &Remote, layer: BuiltLayer, loader: &Loader) -> Result<Option<Digest>> {
    let digest = layer.digest;
    if remote.retrying(|| remote.has_blob(&digest)).await? {
        return Ok(None);
    }
    let blob = Blob {
        digest,
        size: layer.size,
        base: false,
    };
    let upload = Upload::new(remote, &blob, &loader.store, &loader.reporter);
    upload.run(None).await?;
    Ok(Some(digest))
}
