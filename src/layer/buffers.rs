//! Buffers that go round instead of being allocated anew for every chunk.

use std::{
    io,
    ops::{Deref, DerefMut},
};

use crossbeam_channel::{Receiver, Sender, bounded};

/// A fixed number of buffers: who needs one waits until one is free.
#[derive(Clone)]
pub(super) struct Pool {
    back: Sender<Vec<u8>>,
    free: Receiver<Vec<u8>>,
}

/// A buffer; goes back to its pool when it is dropped.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    back: Sender<Vec<u8>>,
}

impl Pool {
    /// A pool of that many buffers, which get their memory when they are first used.
    pub(super) fn new(buffers: usize) -> Self {
        let (back, free) = bounded(buffers);
        for _ in 0..buffers {
            // There is room for all of them.
            let _ = back.try_send(Vec::new());
        }
        Self { back, free }
    }

    /// An empty buffer.
    pub(super) fn take(&self) -> io::Result<Buffer> {
        let back = self.back.clone();
        let bytes = self.free.recv().map_err(io::Error::other)?;
        Ok(Buffer { bytes, back })
    }
}

impl Deref for Buffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        let _ = self.back.try_send(bytes);
    }
}
