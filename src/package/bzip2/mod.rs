//! `.bz2` files decoded on several threads.
//!
//! A bzip2 stream is a chain of independent blocks of at most 900 kB. The file is cut where a block
//! seems to begin, each block is decoded apart, and the pieces are given out in order: only when
//! the block's checksum is right, and the stream ends well only when its own one is. Everything
//! else (a magic number that stands inside a block by chance, damage, what is no bzip2 at all) goes
//! to the plain decoder, which begins the stream anew, skips what was given out and has the last
//! word. So the bytes and the errors are the plain decoder's, whatever the number of threads.

mod block;
mod crew;
mod parts;
mod plain;
mod scan;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io::{self, Read},
    sync::Arc,
};

pub use crew::Decoders;
use crew::{Crew, Piece};
use plain::Plain;

/// Blocks that the reading thread decodes itself before others help: a reader that wants only the
/// head of an archive leaves no work undone.
const ALONE: u64 = 4;

/// The decoded content of a `.bz2` file: of all its streams, as bzip2's own tool gives it.
pub struct Reader {
    file: Arc<File>,
    size: u64,
    source: Source,
    /// The byte at which the current stream begins.
    stream: u64,
    /// Bytes of the current stream that were given out, or will be before the next piece.
    given: u64,
    /// The checksum of the current stream's blocks so far.
    crc: u32,
    /// Blocks of the file so far.
    blocks: u64,
}

enum Source {
    /// Blocks decoded apart; the content of the current one.
    Blocks(Crew, Box<dyn Read + Send>),
    Plain(Box<Plain>),
    Over,
}

impl Reader {
    /// Reads the file from its start, with the help of threads that are free.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn new(file: File, decoders: &Decoders) -> io::Result<Self> {
        let size = file.metadata()?.len();
        let file = Arc::new(file);
        Ok(Self {
            source: Source::Blocks(Crew::new(&file, decoders), Box::new(io::empty())),
            file,
            size,
            stream: 0,
            given: 0,
            crc: 0,
            blocks: 0,
        })
    }

    /// Turns to the next piece, or to the plain decoder where that is not sound.
    fn turn(&mut self, piece: io::Result<Piece>) -> io::Result<()> {
        match piece {
            Ok(Piece::Block(block)) => {
                self.crc = self.crc.rotate_left(1) ^ block.crc;
                self.given += block.size;
                self.blocks += 1;
                if let Source::Blocks(crew, content) = &mut self.source {
                    *content = block.content;
                    if self.blocks >= ALONE {
                        crew.grow(self.size.saturating_sub(block.end));
                    }
                }
            }
            Ok(Piece::End { crc, next }) if crc == self.crc => match next {
                Some(next) => (self.stream, self.given, self.crc) = (next, 0, 0),
                None => self.source = Source::Over,
            },
            _ => self.source = Source::Plain(Box::new(self.begin_anew()?)),
        }
        Ok(())
    }

    /// The plain decoder behind what was given out.
    fn begin_anew(&self) -> io::Result<Plain> {
        let mut plain = Plain::from(&self.file, self.stream)?;
        let skipped = io::copy(&mut plain.by_ref().take(self.given), &mut io::sink());
        match skipped {
            Ok(skipped) if skipped == self.given => Ok(plain),
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(e) => Err(damaged(e, plain.reached(), self.blocks)),
        }
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let piece = match &mut self.source {
                Source::Over => return Ok(0),
                Source::Plain(plain) => {
                    let read = plain.read(buffer);
                    return read.map_err(|e| damaged(e, plain.reached(), self.blocks));
                }
                Source::Blocks(crew, content) => {
                    let read = content.read(buffer)?;
                    if read > 0 || buffer.is_empty() {
                        return Ok(read);
                    }
                    crew.next()
                }
            };
            self.turn(piece)?;
        }
    }
}

/// What the plain decoder ran into. `sound` blocks are known to be right.
fn damaged(e: io::Error, byte: u64, sound: u64) -> io::Error {
    let what = match e.kind() {
        io::ErrorKind::UnexpectedEof => "ends early".to_owned(),
        io::ErrorKind::InvalidInput => format!("is damaged near byte {byte}"),
        _ => return e,
    };
    io::Error::new(
        e.kind(),
        format!("its bzip2 data {what}, behind {sound} sound blocks"),
    )
}
