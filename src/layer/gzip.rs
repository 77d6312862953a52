//! Parallel gzip with the same bytes at every thread count.
//!
//! The tar is cut into chunks of a fixed size and each chunk becomes a gzip member of its own
//! (RFC 1952, 2.2: "A gzip file consists of a series of members"). Every engine reads such layers.

use std::{
    collections::VecDeque,
    io::{self, Write},
    num::NonZeroUsize,
    thread::{self, JoinHandle},
};

use crossbeam_channel::{Receiver, Sender, bounded};
use flate2::{Compression, write::GzEncoder};

/// Bytes of tar in one member. One member a file would slow engines that use unpigz.
const CHUNK: usize = 4 << 20;

/// The level of every member. It is part of the layer key through [`super::FORMAT`].
const LEVEL: u32 = 1;

struct Job {
    chunk: Vec<u8>,
    done: Sender<io::Result<Vec<u8>>>,
}

/// Threads that compress chunks for all layers of a build.
pub struct Compressors {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Compressors {
    /// Starts that many threads.
    pub fn new(threads: NonZeroUsize) -> Self {
        let (jobs, queue) = bounded::<Job>(threads.get());
        let threads = (0..threads.get())
            .map(|_| {
                let queue: Receiver<Job> = queue.clone();
                thread::spawn(move || {
                    for job in queue {
                        // A receiver that is gone belongs to a layer that failed already.
                        let _ = job.done.send(compress(&job.chunk));
                    }
                })
            })
            .collect();
        Self {
            jobs: Some(jobs),
            threads,
        }
    }

    /// How many chunks one layer may have under way; bounds the memory of a build.
    fn depth(&self) -> usize {
        self.threads.len() * 2
    }

    fn submit(&self, chunk: Vec<u8>) -> io::Result<Receiver<io::Result<Vec<u8>>>> {
        let (done, result) = bounded(1);
        self.jobs
            .as_ref()
            .and_then(|jobs| jobs.send(Job { chunk, done }).ok())
            .ok_or_else(gone)?;
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

fn gone() -> io::Error {
    io::Error::other("a compression thread is gone")
}

fn compress(chunk: &[u8]) -> io::Result<Vec<u8>> {
    let room = Vec::with_capacity(chunk.len() / 2);
    let mut encoder = GzEncoder::new(room, Compression::new(LEVEL));
    encoder.write_all(chunk)?;
    encoder.finish()
}

/// A writer that compresses through [`Compressors`] and writes members in order.
pub(super) struct ParallelGzip<'a, W: Write> {
    out: W,
    compressors: &'a Compressors,
    chunk: Vec<u8>,
    under_way: VecDeque<Receiver<io::Result<Vec<u8>>>>,
}

impl<'a, W: Write> ParallelGzip<'a, W> {
    pub(super) fn new(out: W, compressors: &'a Compressors) -> Self {
        Self {
            out,
            compressors,
            chunk: Vec::with_capacity(CHUNK),
            under_way: VecDeque::new(),
        }
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        if !self.chunk.is_empty() {
            self.submit()?;
        }
        while !self.under_way.is_empty() {
            self.write_oldest()?;
        }
        self.out.flush()?;
        Ok(self.out)
    }

    fn submit(&mut self) -> io::Result<()> {
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK));
        if self.under_way.len() >= self.compressors.depth() {
            self.write_oldest()?;
        }
        self.under_way.push_back(self.compressors.submit(chunk)?);
        Ok(())
    }

    fn write_oldest(&mut self) -> io::Result<()> {
        let Some(oldest) = self.under_way.pop_front() else {
            return Ok(());
        };
        let member = oldest.recv().map_err(|_| gone())??;
        self.out.write_all(&member)
    }
}

impl<W: Write> Write for ParallelGzip<'_, W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = buf.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&buf[..n]);
        if self.chunk.len() == CHUNK {
            self.submit()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn gzip(bytes: &[u8], threads: usize, piece: usize) -> Vec<u8> {
        let compressors = Compressors::new(NonZeroUsize::new(threads).unwrap());
        let mut gzip = ParallelGzip::new(Vec::new(), &compressors);
        for part in bytes.chunks(piece) {
            gzip.write_all(part).unwrap();
        }
        gzip.finish().unwrap()
    }

    #[test]
    fn bytes_do_not_depend_on_threads_or_on_how_they_are_written() {
        let bytes: Vec<u8> = (0..3 * CHUNK as u32 + 17)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 & 0x1f)
            .collect();
        let one = gzip(&bytes, 1, 8192);
        assert_eq!(one, gzip(&bytes, 7, 1_000_003));
        let mut back = Vec::new();
        flate2::read::MultiGzDecoder::new(&one[..])
            .read_to_end(&mut back)
            .unwrap();
        assert_eq!(back, bytes);
    }
}
