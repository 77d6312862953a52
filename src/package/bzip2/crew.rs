//! Threads that decode the blocks of one file ahead of its reader.

use std::{
    fs::File,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{
    block::{self, Block},
    parts::{Part, Parts},
};

/// The most threads for one file: 350 MB/s, more than one reader makes into a layer.
const CREW: usize = 8;

/// Compressed bytes ahead that are worth a thread: two or three blocks.
const WORTH_A_THREAD: u64 = 1 << 20;

/// How many threads may decode `.tar.bz2` packages at the same time, shared by all that are read.
/// By default none: each package is then decoded by the thread that reads it.
#[derive(Clone, Debug, Default)]
pub struct Decoders {
    free: Arc<AtomicUsize>,
    all: usize,
}

impl Decoders {
    /// That many threads; none is started before there is work for it.
    pub fn new(threads: usize) -> Self {
        Self {
            free: Arc::new(AtomicUsize::new(threads)),
            all: threads,
        }
    }

    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.free.load(Ordering::Relaxed)
    }

    fn hire(&self) -> Option<Hired> {
        let order = Ordering::Relaxed;
        self.free
            .fetch_update(order, order, |free| free.checked_sub(1))
            .ok()?;
        Some(Hired(self.free.clone()))
    }
}

/// One thread's place; free again when this is dropped.
struct Hired(Arc<AtomicUsize>);

impl Drop for Hired {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A part of the file, its content decoded.
pub enum Piece {
    /// A block whose checksum is right.
    Block(Block),
    /// The end of a stream; see [`Part::End`].
    End { crc: u32, next: Option<u64> },
}

type Answer = io::Result<Piece>;

/// The file's parts, and the threads that decode them.
pub struct Crew {
    file: Arc<File>,
    parts: Arc<Mutex<Parts>>,
    decoders: Decoders,
    threads: Vec<JoinHandle<()>>,
    /// The answers in the order of the parts, each one as soon as its part is begun.
    order: Option<Receiver<Receiver<Answer>>>,
    begun: Sender<Receiver<Answer>>,
}

impl Crew {
    pub fn new(file: &Arc<File>, decoders: &Decoders) -> Self {
        // Two answers a thread bound what is decoded and not yet read.
        let (begun, order) = bounded(2 * decoders.all.min(CREW));
        Self {
            file: file.clone(),
            parts: Arc::new(Mutex::new(Parts::of(file.clone()))),
            decoders: decoders.clone(),
            threads: Vec::new(),
            order: Some(order),
            begun,
        }
    }

    /// Takes on as many threads as `ahead` compressed bytes are worth and as are free.
    pub fn grow(&mut self, ahead: u64) {
        let worth = usize::try_from(ahead / WORTH_A_THREAD).unwrap_or(CREW);
        while self.threads.len() < worth.min(CREW) {
            let Some(hired) = self.decoders.hire() else {
                return;
            };
            let (file, parts, begun) = (self.file.clone(), self.parts.clone(), self.begun.clone());
            self.threads.push(thread::spawn(move || {
                let _hired = hired;
                while work(&file, &parts, &begun) {}
            }));
        }
    }

    /// The next part, decoded here where no thread does it.
    ///
    /// # Errors
    /// When the part is no sound block, or the file has no more parts.
    pub fn next(&self) -> Answer {
        let gone = |_| io::Error::other("a thread that decodes bzip2 is gone");
        match &self.order {
            Some(order) if !self.threads.is_empty() => order
                .recv()
                .and_then(|answer| answer.recv())
                .map_err(gone)?,
            _ => {
                let part = self
                    .parts
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take_next();
                decode(&self.file, part)
            }
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        // A thread that waits for room sees that nobody reads any more.
        self.order = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Decodes the next part; whether there may be more.
fn work(file: &File, parts: &Mutex<Parts>, begun: &Sender<Receiver<Answer>>) -> bool {
    let (answer, receiver) = bounded(1);
    let part = {
        let mut parts = parts.lock().unwrap_or_else(PoisonError::into_inner);
        // Waits for room with the lock held, so that the answers stay in order. It comes before
        // the search, so that a reader learns of a thread that ends early instead of waiting.
        if begun.send(receiver).is_err() {
            return false;
        }
        parts.take_next()
    };
    let more = part.is_some();
    // A reader that is gone wants no answer.
    answer.send(decode(file, part)).is_ok() && more
}

fn decode(file: &File, part: Option<io::Result<Part>>) -> Answer {
    match part.ok_or(io::ErrorKind::UnexpectedEof)?? {
        Part::Block(span) => block::decode(file, &span).map(Piece::Block),
        Part::End { crc, next } => Ok(Piece::End { crc, next }),
    }
}
