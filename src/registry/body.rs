//! What a request carries, and how long it may take.

use std::{
    fs::File,
    io::{Seek, SeekFrom},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt;
use reqwest::Body;
use tokio::{io::AsyncReadExt, time::Instant};
use tokio_util::io::ReaderStream;

use crate::{
    error::{Error, Result},
    report::{Activity, Reporter, Task},
};

/// How much is read at once; the most of a blob that is in memory.
const PIECE: usize = 256 * 1024;
/// How many bytes a second a registry gets through, at the least, once it has them all and before
/// it answers: it checks the digest, and those that keep blobs elsewhere move them there.
const CHECKED_A_SECOND: u64 = 10_000_000;

/// The body of a request.
pub(super) enum Content {
    Empty,
    Bytes(Bytes),
    Part(Part),
}

/// A part of a file, read anew each time it is sent.
#[derive(Clone)]
pub(super) struct Part {
    pub path: PathBuf,
    /// The first byte.
    pub from: u64,
    /// The number of bytes.
    pub length: u64,
    /// What counts the bytes that are sent.
    pub sent: Arc<Meter>,
}

/// Counts the bytes of a file that are sent, some of them more than once.
pub(super) struct Meter {
    reporter: Reporter,
    activity: Activity,
    total: u64,
    counted: Mutex<Counted>,
}

struct Counted {
    task: Task,
    at: u64,
}

impl Meter {
    /// For a file of `total` bytes.
    pub fn new(reporter: &Reporter, activity: Activity, total: u64) -> Self {
        let task = reporter.bytes(activity.clone(), Some(total));
        Self {
            reporter: reporter.clone(),
            activity,
            total,
            counted: Mutex::new(Counted { task, at: 0 }),
        }
    }

    fn add(&self, bytes: u64) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted.at += bytes;
        counted.task.add(bytes);
    }

    /// The next byte is this one. A count never goes back: another one begins.
    pub fn is_at(&self, from: u64) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if from < counted.at {
            counted.task = self.reporter.bytes(self.activity.clone(), Some(self.total));
            counted.at = 0;
        }
        counted.task.add(from.saturating_sub(counted.at));
        counted.at = from;
    }
}

impl Content {
    /// The number of bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Part(part) => part.length,
        }
    }

    /// A body to send once; what is read of it counts as a sign of life.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn body(&self, watch: &Watch) -> Result<Option<Body>> {
        match self {
            Self::Empty => Ok(None),
            Self::Bytes(bytes) => Ok(Some(bytes.clone().into())),
            Self::Part(part) => part.body(watch.clone()).map(Some),
        }
    }
}

impl Part {
    fn body(&self, watch: Watch) -> Result<Body> {
        let mut file = File::open(&self.path).map_err(|e| Error::io("open", &self.path, e))?;
        let moved = file.seek(SeekFrom::Start(self.from));
        moved.map_err(|e| Error::io("read", &self.path, e))?;
        let file = tokio::fs::File::from_std(file).take(self.length);
        let task = self.sent.clone();
        let pieces = ReaderStream::with_capacity(file, PIECE).inspect(move |piece| {
            let bytes = piece.as_ref().map_or(0, |piece| piece.len() as u64);
            task.add(bytes);
            watch.sent(bytes);
        });
        Ok(Body::wrap_stream(pieces))
    }
}

/// How long to wait for the registry, counted from the last byte that it took.
#[derive(Clone)]
pub(super) struct Watch {
    progress: Arc<Mutex<Progress>>,
    silence: Duration,
    /// How long the registry may think over what it was sent, beyond the silence.
    checking: Duration,
}

struct Progress {
    last: Instant,
    left: u64,
}

impl Watch {
    /// For a request that is about to be sent.
    pub fn new(content: &Content, silence: Duration) -> Self {
        let streamed = match content {
            Content::Part(part) => part.length,
            Content::Empty | Content::Bytes(_) => 0,
        };
        Self::of(streamed, silence)
    }

    /// For the next piece of an answer.
    pub fn quiet(silence: Duration) -> Self {
        Self::of(0, silence)
    }

    fn of(streamed: u64, silence: Duration) -> Self {
        let progress = Progress {
            last: Instant::now(),
            left: streamed,
        };
        Self {
            progress: Arc::new(Mutex::new(progress)),
            silence,
            checking: Duration::from_secs(streamed / CHECKED_A_SECOND),
        }
    }

    fn sent(&self, bytes: u64) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.last = Instant::now();
        progress.left = progress.left.saturating_sub(bytes);
    }

    fn end(&self) -> Instant {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        match progress.left {
            0 => progress.last + self.silence + self.checking,
            _ => progress.last + self.silence,
        }
    }

    /// The work's result, or nothing when patience is at its end.
    pub async fn wait<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let exhausted = async {
            while Instant::now() < self.end() {
                tokio::time::sleep_until(self.end()).await;
            }
        };
        tokio::select! {
            done = work => Some(done),
            () = exhausted => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_counted_from_the_last_byte() {
        let silence = Duration::from_secs(60);
        let size = 60 * CHECKED_A_SECOND;
        let watch = Watch::of(size, silence);
        watch.progress.lock().unwrap().last = Instant::now().checked_sub(silence).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let waited = runtime.block_on(watch.wait(std::future::pending::<()>()));
        assert_eq!(waited, None);
        watch.sent(1);
        assert_eq!(runtime.block_on(watch.wait(async { 7 })), Some(7));
        assert!(watch.end() <= Instant::now() + silence);
        watch.sent(size - 1);
        assert!(watch.end() > Instant::now() + silence);
        let nothing = Watch::new(&Content::Bytes(vec![0; 9].into()), silence);
        assert!(nothing.end() <= Instant::now() + silence);
    }
}
