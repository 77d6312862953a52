//! An image goes to the daemon layer by layer from the lowest up, while those above are still being
//! made.
//!
//! A graph driver's daemon writes a whole archive to its disk before it unpacks any of it. So it is
//! given parts of the image, each an image of the lowest layers that leaves out those of the part
//! before: one is unpacked while the next arrives, and what is unpacked is gone before the disk has
//! written it.

use std::{collections::BTreeSet, mem, sync::Arc};

use super::{
    held::Held,
    known::{ImageStore, Known},
    part::Parts,
    transfer::{Failure, Loaded, Shown, Transfer},
};
use crate::{
    docker::Daemon,
    error::{Error, Exit, Result},
    image::{Image, Layer},
    report::Reporter,
    sink::{Contents, Packed},
    store::Store,
};

/// The least that is sent in a part, in bytes.
const PART: u64 = 64 << 20;

/// Where layers go.
#[derive(Clone)]
pub(super) struct Goal {
    pub daemon: Daemon,
    pub known: Arc<Known>,
    pub store: Store,
    pub reporter: Reporter,
}

impl Goal {
    pub(super) fn is_classic(&self) -> bool {
        self.known.store == ImageStore::Classic
    }

    /// Begins to show that `total` bytes, if that is known, are sent.
    fn show(&self, total: Option<u64>) -> Shown {
        Shown::start(&self.reporter, self.daemon.facts.name(), total)
    }

    /// How many bytes are sent of a layer, as far as that is known.
    fn size_of(&self, layer: &Layer) -> u64 {
        let plain = layer.unpacked.filter(|_| self.is_classic());
        plain.unwrap_or(layer.size)
    }

    /// Graph drivers throw compression away; containerd's store keeps the blobs, and with them the
    /// image's digest.
    async fn pack(&self, layer: &Layer, has: bool) -> Result<Packed> {
        let (layer, store) = (layer.clone(), self.store.clone());
        if !self.is_classic() {
            let mut packed = Packed::stored(&layer);
            if has {
                packed.leave_out();
            }
            return Ok(packed);
        }
        if has {
            return Ok(Packed::absent(&layer, &store));
        }
        tokio::task::spawn_blocking(move || Packed::plain(&layer, &store))
            .await
            .unwrap_or_else(|e| Err(Error::new(Exit::Internal, "a thread was lost").why(e)))
    }
}

/// What is sent, and what was. Dropped, it ends that and leaves nothing in the daemon.
pub(super) struct Climb {
    goal: Goal,
    held: Held,
    /// The layers so far, as they are sent; what the daemon has by now is left out.
    packed: Vec<Packed>,
    layers: Vec<Layer>,
    shown: Option<Shown>,
    /// The part that the daemon unpacks.
    unpacking: Option<Transfer>,
    /// The part that is being sent.
    sending: Option<Transfer>,
    /// The bytes of its layers.
    part: u64,
    parts: Parts,
    /// Bytes of the transfers that ended.
    sent: u64,
    /// Set when a layer is not in the store yet.
    waits: bool,
    takes_parts: bool,
    failed: Option<Failure>,
}

impl Climb {
    /// Sends what the daemon lacks, as far as it tells. Podman refuses an image without its lower
    /// layers; containerd's store unpacks what its disk has anyway.
    pub(super) fn new(goal: Goal) -> Self {
        let held = Held::new(&goal.daemon.docker, &goal.known, &goal.store);
        Self {
            takes_parts: goal.is_classic() && !goal.daemon.facts.podman,
            ..Self::with(goal, held)
        }
    }

    /// Sends every layer, in one part.
    pub(super) fn whole(goal: Goal) -> Self {
        let held = Held::nothing(&goal.daemon.docker, &goal.known, &goal.store);
        Self::with(goal, held)
    }

    fn with(goal: Goal, held: Held) -> Self {
        Self {
            parts: Parts::new(&goal.daemon.docker),
            goal,
            held,
            packed: Vec::new(),
            layers: Vec::new(),
            shown: None,
            unpacking: None,
            sending: None,
            part: 0,
            sent: 0,
            waits: false,
            takes_parts: false,
            failed: None,
        }
    }

    /// Whether these are layers of the image.
    pub(super) fn leads_to(&self, image: &Image) -> bool {
        let mut pairs = self.layers.iter().zip(&image.layers);
        self.layers.len() <= image.layers.len()
            && pairs.all(|(ours, its)| ours.digest == its.digest)
    }

    /// Whether nothing was sent.
    pub(super) fn is_idle(&self) -> bool {
        self.shown.is_none()
    }

    /// Whether the daemon must have what it was not sent, or was sent before.
    pub(super) fn leaves_out(&self) -> bool {
        self.packed.iter().any(|packed| packed.blob().is_none())
    }

    /// Sends the next layer, unless the daemon has it. Where the store does not have it, neither it
    /// nor those above are sent.
    pub(super) async fn add(&mut self, layer: &Layer) {
        self.waits |= !self.goal.store.has_blob(&layer.digest, layer.size);
        if self.waits || self.failed.is_some() {
            return;
        }
        let has = self.held.has(layer).await;
        self.put(layer, has).await;
    }

    /// Sends the layers of the image that are left, which the store has by now.
    pub(super) async fn add_rest(&mut self, image: &Image) {
        self.waits = false;
        let (mut rest, mut total) = (Vec::new(), 0);
        for layer in image.layers.iter().skip(self.layers.len()) {
            let has = self.held.has(layer).await;
            total += if has { 0 } else { self.goal.size_of(layer) };
            rest.push((layer, has));
        }
        if self.is_idle() && total > 0 {
            self.shown = Some(self.goal.show(Some(total)));
        }
        for (layer, has) in rest {
            self.put(layer, has).await;
        }
    }

    /// Makes an image of the layers, under these names; returns what the daemon says to have loaded.
    ///
    /// # Errors
    /// What the daemon says against it, and what went wrong on the way.
    pub(super) async fn finish(
        &mut self,
        image: &Image,
        names: &[String],
    ) -> Result<Loaded, Failure> {
        if let Some(failure) = self.failed.take() {
            return Err(failure);
        }
        self.unpacked().await?;
        self.end(Contents::new(image, &self.packed), names).await?;
        let loaded = self.unpacked().await?;
        let left = self.held.labelled(Parts::LABEL);
        self.parts.remove_all(left).await;
        Ok(loaded)
    }

    /// The size of all layers as they are sent, in bytes.
    pub(super) fn size(&self) -> u64 {
        let mut seen = BTreeSet::new();
        let layers = self.packed.iter().map(Packed::layer);
        let once = layers.filter(|layer| seen.insert(layer.digest));
        once.map(|layer| layer.size).sum()
    }

    /// How many bytes were sent.
    pub(super) fn sent(&self) -> u64 {
        let now = self.sending.iter().chain(&self.unpacking);
        self.sent + now.map(Transfer::sent).sum::<u64>()
    }

    async fn put(&mut self, layer: &Layer, has: bool) {
        if self.failed.is_none()
            && let Err(failure) = self.try_put(layer, has).await
        {
            self.failed = Some(failure);
        }
    }

    async fn try_put(&mut self, layer: &Layer, has: bool) -> Result<(), Failure> {
        let packed = self.goal.pack(layer, has).await.map_err(Failure::Other)?;
        if let Some(blob) = packed.blob() {
            self.transfer().await?.layer(blob);
            self.part += blob.size();
        }
        self.packed.push(packed);
        self.layers.push(layer.clone());
        if self.takes_parts && self.part >= PART {
            self.unpacked().await?;
            let part = self.parts.next(&self.packed);
            self.end(part, &[]).await?;
        }
        Ok(())
    }

    /// What is being sent; something new begins once the part below was sent.
    async fn transfer(&mut self) -> Result<&Transfer, Failure> {
        if let (None, Some(below)) = (&self.sending, &mut self.unpacking) {
            below.written().await;
        }
        let goal = &self.goal;
        if self.sending.is_none() {
            let shown = self.shown.get_or_insert_with(|| goal.show(None));
            let docker = &goal.daemon.docker;
            let transfer = Transfer::start(docker, shown, &goal.store, &goal.reporter);
            self.sending = Some(transfer.map_err(Failure::Other)?);
        }
        let lost = || Failure::Other(Error::new(Exit::Internal, "a transfer was lost"));
        self.sending.as_ref().ok_or_else(lost)
    }

    /// Ends what is being sent; the daemon must have unpacked the part below, for it takes an image
    /// whose lower layers it has.
    async fn end(&mut self, contents: Result<Contents>, names: &[String]) -> Result<(), Failure> {
        let contents = contents.map_err(Failure::Other)?;
        self.transfer().await?.image(contents, names);
        self.unpacking = self.sending.take();
        self.part = 0;
        self.packed.iter_mut().for_each(Packed::leave_out);
        Ok(())
    }

    /// Waits until the daemon has unpacked what it was sent in full.
    async fn unpacked(&mut self) -> Result<Loaded, Failure> {
        let Some(transfer) = &mut self.unpacking else {
            return Ok(Loaded::new());
        };
        let loaded = transfer.answer().await;
        self.sent += mem::take(&mut self.unpacking).map_or(0, |transfer| transfer.sent());
        let loaded = loaded?;
        self.parts.loaded().await;
        Ok(loaded)
    }
}
