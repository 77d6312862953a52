//! The end of a channel as a `Write`, which can be stopped between two files of a tar.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use crate::report::Task;

/// The size of a message in bytes; a few of them are the only memory a transfer takes.
const CHUNK: usize = 256 << 10;
/// How many messages wait.
const DEPTH: usize = 8;
const BLOCK: usize = 512;

pub(super) type Chunks = mpsc::Receiver<io::Result<Bytes>>;

/// What a pipe shares with those who watch it.
#[derive(Debug, Default)]
pub(super) struct Control {
    /// Set to stop it.
    pub stop: AtomicBool,
    /// How many bytes went through.
    pub sent: AtomicU64,
}

/// A writer of a tar whose bytes come out of a channel.
pub(super) struct Pipe {
    chunks: mpsc::Sender<io::Result<Bytes>>,
    buffer: BytesMut,
    position: Position,
    control: Arc<Control>,
    shown: Arc<Task>,
    closed: bool,
}

impl Pipe {
    /// A pipe, and where its bytes come out. Once it is told to stop, nothing is taken beyond
    /// the end of the file that is being written.
    pub(super) fn new(control: Arc<Control>, shown: Arc<Task>) -> (Self, Chunks) {
        let (chunks, out) = mpsc::channel(DEPTH);
        let pipe = Self {
            chunks,
            buffer: BytesMut::with_capacity(CHUNK),
            position: Position::default(),
            control,
            shown,
            closed: false,
        };
        (pipe, out)
    }

    /// Whether the other end went away.
    pub(super) fn closed(&self) -> bool {
        self.closed
    }

    /// Ends the stream. Between two files, as a tar ends; inside of one, as a broken connection.
    pub(super) fn end(mut self) {
        let end = if self.position.between_files() {
            self.buffer.extend_from_slice(&[0; 2 * BLOCK]);
            self.send()
        } else {
            self.chunks
                .blocking_send(Err(io::ErrorKind::UnexpectedEof.into()))
                .map_err(|_| gone())
        };
        // Nobody is left to be told.
        drop(end);
    }

    fn send(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = self.buffer.split().freeze();
        let size = chunk.len() as u64;
        self.shown.add(size);
        self.control.sent.fetch_add(size, Ordering::Relaxed);
        self.chunks.blocking_send(Ok(chunk)).map_err(|_| {
            self.closed = true;
            gone()
        })
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the daemon stopped reading")
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.position.between_files() && self.control.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("stopped"));
        }
        let taken = bytes.len().min(CHUNK - self.buffer.len());
        self.position.advance(&bytes[..taken]);
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == CHUNK {
            self.send()?;
            self.buffer.reserve(CHUNK);
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

/// Where in a tar a writer is: headers tell how many bytes follow.
#[derive(Default)]
struct Position {
    header: Vec<u8>,
    remaining: u64,
}

impl Position {
    fn between_files(&self) -> bool {
        self.header.is_empty() && self.remaining == 0
    }

    fn advance(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.remaining > 0 {
                let skipped = bytes
                    .len()
                    .min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
                self.remaining -= skipped as u64;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = bytes.len().min(BLOCK - self.header.len());
            self.header.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.header.len() == BLOCK {
                let header = tar::Header::from_byte_slice(&self.header);
                let size = header.entry_size().unwrap_or(0);
                self.remaining = size.next_multiple_of(BLOCK as u64);
                self.header.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Activity, Reporter, Step};

    fn archive() -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, size) in [("a", 700_u64), ("b", 0), ("c", 512)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(size);
            tar.append_data(&mut header, name, io::repeat(b'x').take(size))
                .unwrap();
        }
        tar.into_inner().unwrap()
    }

    use std::io::Read;

    #[test]
    fn files_end_where_the_headers_say() {
        let archive = archive();
        for step in [1, 7, 512, 513, 4096] {
            let mut position = Position::default();
            let mut ends = Vec::new();
            for (index, bytes) in archive.chunks(step).enumerate() {
                position.advance(bytes);
                if position.between_files() {
                    ends.push((index * step + bytes.len()) / BLOCK);
                }
            }
            let all = [3, 4, 6, 7, 8];
            assert!(ends.iter().all(|end| all.contains(end)), "{step}: {ends:?}");
            assert!(step > 1 || ends == all, "{ends:?}");
        }
    }

    #[test]
    fn a_stopped_pipe_ends_after_the_file() {
        let control = Arc::new(Control::default());
        let task = Arc::new(Reporter::stderr(true).bytes(Activity::new(Step::Load, ""), None));
        let (mut pipe, mut out) = Pipe::new(control.clone(), task);
        let archive = archive();
        pipe.write_all(&archive[..600]).unwrap();
        control.stop.store(true, Ordering::Relaxed);
        pipe.write_all(&archive[600..3 * BLOCK]).unwrap();
        assert!(pipe.write_all(&archive[3 * BLOCK..]).is_err());
        assert!(!pipe.closed());
        pipe.end();
        let mut got = Vec::new();
        while let Ok(chunk) = out.try_recv() {
            got.extend_from_slice(&chunk.unwrap());
        }
        assert_eq!(got.len(), 5 * BLOCK);
        assert_eq!(control.sent.load(Ordering::Relaxed), got.len() as u64);
        assert_eq!(tar::Archive::new(&got[..]).entries().unwrap().count(), 1);
    }

    #[test]
    fn a_reader_that_goes_away_is_noticed() {
        let task = Arc::new(Reporter::stderr(true).bytes(Activity::new(Step::Load, ""), None));
        let (mut pipe, out) = Pipe::new(Arc::default(), task);
        drop(out);
        pipe.write_all(b"x").unwrap();
        assert!(pipe.flush().is_err());
        assert!(pipe.closed());
    }
}
