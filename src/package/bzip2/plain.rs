//! The streams of a file one after another on one thread: what every doubt is decided by.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    sync::Arc,
};

use ::bzip2::bufread::BzDecoder;

use super::parts::level_at;

/// The decoded content of a file from one of its streams on.
pub struct Plain {
    file: Arc<File>,
    /// The byte at which the current stream begins.
    start: u64,
    stream: BzDecoder<BufReader<Arc<File>>>,
}

impl Plain {
    /// Begins with the stream at that byte.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn from(file: &Arc<File>, start: u64) -> io::Result<Self> {
        Ok(Self {
            stream: stream(file, start)?,
            file: file.clone(),
            start,
        })
    }

    /// How far the file is read, in bytes.
    pub fn reached(&self) -> u64 {
        self.start + self.stream.total_in()
    }
}

impl Read for Plain {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.stream.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let next = self.reached();
            if level_at(&self.file, next)?.is_none() {
                return Ok(0);
            }
            self.stream = stream(&self.file, next)?;
            self.start = next;
        }
    }
}

fn stream(file: &Arc<File>, start: u64) -> io::Result<BzDecoder<BufReader<Arc<File>>>> {
    let mut file = file.clone();
    file.seek(SeekFrom::Start(start))?;
    Ok(BzDecoder::new(BufReader::with_capacity(1 << 16, file)))
}
