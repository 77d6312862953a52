//! The threads that compress.

use std::{
    io,
    num::NonZeroUsize,
    sync::Arc,
    thread::{self, JoinHandle},
};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::{
    buffers::{Buffer, Pool},
    compression::{Compression, Encoder},
};

/// Bytes of tar in one frame or member. Smaller ones cost ratio, larger ones memory.
pub(super) const CHUNK: usize = 1 << 20;

/// Chunks under way at one time: two a thread and some that are filled, hashed or written, but
/// not more than memory should hold. They and their compressed forms are what the layers of a
/// build take of it, whatever the size of the image.
fn buffers(threads: usize) -> usize {
    (threads * 2 + 16).min(96)
}

/// A chunk's compressed form, to come.
pub(super) type Compressed = Receiver<io::Result<Buffer>>;

struct Job {
    chunk: Arc<Buffer>,
    done: Sender<io::Result<Buffer>>,
}

/// Threads that compress chunks for all layers of a build.
pub struct Compressors {
    compression: Compression,
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
    chunks: Pool,
    outputs: Pool,
}

impl Compressors {
    /// Starts that many threads.
    pub fn new(threads: NonZeroUsize, compression: Compression) -> Self {
        let (jobs, queue) = unbounded::<Job>();
        let buffers = buffers(threads.get());
        // A compressed form lives no longer than its chunk, so nobody ever waits for one of these.
        let outputs = Pool::new(buffers);
        let threads = (0..threads.get())
            .map(|_| {
                let (queue, outputs) = (queue.clone(), outputs.clone());
                thread::spawn(move || work(&queue, &outputs, compression))
            })
            .collect();
        Self {
            compression,
            jobs: Some(jobs),
            threads,
            chunks: Pool::new(buffers),
            outputs,
        }
    }

    /// What they compress with.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// An empty chunk to fill; waits until there is one.
    pub(super) fn chunk(&self) -> io::Result<Buffer> {
        let mut chunk = self.chunks.take()?;
        chunk.reserve_exact(CHUNK);
        Ok(chunk)
    }

    /// An empty buffer for the compressed form of a chunk that the caller holds.
    pub(super) fn output(&self) -> io::Result<Buffer> {
        self.outputs.take()
    }

    /// Has a chunk compressed.
    pub(super) fn compress(&self, chunk: Arc<Buffer>) -> io::Result<Compressed> {
        let (done, result) = bounded(1);
        self.jobs
            .as_ref()
            .and_then(|jobs| jobs.send(Job { chunk, done }).ok())
            .ok_or_else(|| io::Error::other("the compression threads are gone"))?;
        Ok(result)
    }
}

impl Drop for Compressors {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn work(queue: &Receiver<Job>, outputs: &Pool, compression: Compression) {
    let mut encoder = compression.encoder();
    for Job { chunk, done } in queue {
        let result = match &mut encoder {
            Ok(encoder) => encode(encoder, &chunk, outputs),
            Err(e) => Err(io::Error::new(e.kind(), e.to_string())),
        };
        drop(chunk);
        // A receiver that is gone belongs to a layer that failed already.
        let _ = done.send(result);
    }
}

fn encode(encoder: &mut Encoder, chunk: &[u8], outputs: &Pool) -> io::Result<Buffer> {
    let mut output = outputs.take()?;
    encoder.encode(chunk, &mut output)?;
    Ok(output)
}
