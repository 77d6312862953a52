//! A file cut at the marks: what may be its blocks and the ends of its streams, in order.

use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};

use super::{
    block::Span,
    scan::{self, MARK_BITS, MARK_BYTES, Mark, word},
};

/// No block is longer: 900,000 symbols of at most 20 bits, and tables of at most 50 kB.
const LONGEST_BLOCK: u64 = 8 * (2_250_000 + 50_000);

/// The bytes that are read to find a mark: the first time, and at most.
const WINDOWS: (usize, usize) = (4 << 10, 256 << 10);

/// The bytes of a stream's header.
const HEADER: u64 = 4;

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A block.
    Block(Span),
    /// The end of a stream.
    End {
        /// The checksum of the whole stream.
        crc: u32,
        /// The byte at which another stream begins. What is no stream ends the data, as it does
        /// for bzip2's own tool ("trailing garbage after EOF ignored").
        next: Option<u64>,
    },
}

enum At {
    /// The header of a stream, by its byte.
    Header(u64),
    /// A mark, by its bit, in a stream of that level.
    Mark(u64, Mark, u8),
    /// Nothing more, or nothing that can be told apart.
    Over,
}

/// The parts of a file that are still to come.
pub struct Parts {
    file: Arc<File>,
    at: At,
}

impl Parts {
    /// Begins at the start of the file.
    pub fn of(file: Arc<File>) -> Self {
        Self {
            file,
            at: At::Header(0),
        }
    }

    /// The next part; none after the last one, or after an error.
    pub fn take_next(&mut self) -> Option<io::Result<Part>> {
        match std::mem::replace(&mut self.at, At::Over) {
            At::Over => None,
            At::Header(byte) => match self.first_mark(byte) {
                Ok(at) => {
                    self.at = at;
                    self.take_next()
                }
                Err(e) => Some(Err(e)),
            },
            At::Mark(start, Mark::Block, level) => Some(self.block(start, level)),
            At::Mark(start, Mark::End, _) => Some(self.end(start)),
        }
    }

    fn first_mark(&self, byte: u64) -> io::Result<At> {
        let level = level_at(&self.file, byte)?.ok_or_else(lost)?;
        let bit = (byte + HEADER) * 8;
        let mark = Mark::of(bits_at(&self.file, bit, MARK_BITS)?).ok_or_else(lost)?;
        Ok(At::Mark(bit, mark, level))
    }

    fn block(&mut self, start: u64, level: u8) -> io::Result<Part> {
        let (end, mark) = self.mark_after(start + MARK_BITS)?.ok_or_else(lost)?;
        self.at = At::Mark(end, mark, level);
        Ok(Part::Block(Span { start, end, level }))
    }

    fn end(&mut self, start: u64) -> io::Result<Part> {
        let crc = bits_at(&self.file, start + MARK_BITS, 32)?;
        let crc = u32::try_from(crc).map_err(io::Error::other)?;
        let byte = (start + MARK_BITS + 32).div_ceil(8);
        let next = level_at(&self.file, byte)?.map(|_| byte);
        if let Some(byte) = next {
            self.at = At::Header(byte);
        }
        Ok(Part::End { crc, next })
    }

    fn mark_after(&self, from: u64) -> io::Result<Option<(u64, Mark)>> {
        let (mut byte, mut window) = (from / 8, WINDOWS.0);
        while byte * 8 <= from + LONGEST_BLOCK {
            let bytes = bytes_at(&self.file, byte, window)?;
            let start = byte * 8;
            if let Some((bit, mark)) = scan::find(&bytes, from.saturating_sub(start)) {
                return Ok(Some((start + bit, mark)));
            }
            if bytes.len() < window {
                break;
            }
            byte += (window - (MARK_BYTES - 1)) as u64;
            window = (window * 2).min(WINDOWS.1);
        }
        Ok(None)
    }
}

/// The level of the stream whose header is at that byte, as its digit; none where no stream begins.
///
/// # Errors
/// When the file cannot be read.
pub fn level_at(file: &File, byte: u64) -> io::Result<Option<u8>> {
    match *bytes_at(file, byte, HEADER as usize)? {
        [b'B', b'Z', b'h', level @ b'1'..=b'9'] => Ok(Some(level)),
        _ => Ok(None),
    }
}

/// Up to 57 bits of the file.
///
/// # Errors
/// When the file is shorter.
pub fn bits_at(file: &File, bit: u64, count: u64) -> io::Result<u64> {
    let (shift, mut bytes) = (bit % 8, [0; 8]);
    let size = usize::try_from((shift + count).div_ceil(8)).map_err(io::Error::other)?;
    let bytes = bytes.get_mut(..size).ok_or(io::ErrorKind::InvalidInput)?;
    file.read_exact_at(bytes, bit / 8)?;
    let behind = size as u64 * 8 - shift - count;
    Ok(word(bytes) >> behind & ((1 << count) - 1))
}

/// That many bytes of the file, or those up to its end.
fn bytes_at(file: &File, byte: u64, count: usize) -> io::Result<Vec<u8>> {
    let (mut bytes, mut filled) = (vec![0; count], 0);
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, byte + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn lost() -> io::Error {
    io::ErrorKind::InvalidData.into()
}
