//! A frame of the blocks that a file has in another frame.
//!
//! The frame begins with the file. Its first bytes - as many as a match may reach back, so that
//! from there on no match reaches out of the file - are compressed anew. Then two blocks in a row
//! are looked for: one that tells all three offsets which a decoder remembers behind it, and one
//! that brings its own tables. Between what is compressed anew and the second of them goes a
//! [`primer`], so that a decoder remembers what it would in the old frame; all further blocks
//! that are wholly the file's are copied as they are.

use std::io::{self, Read};

use zstd::stream::raw::{CParameter, Encoder, InBuffer, Operation, OutBuffer};

use super::{
    decode::{Block, Tape},
    format::{BLOCK_MAX, BlockHeader, FrameHeader, Kind, Sections, Window},
    offsets::{self, Match},
    primer,
};

/// The largest window that every decoder of layers has memory for (RFC 8878, 3.1.1.1.2).
const WINDOW_MAX: u64 = 8 << 20;

/// What the encoder looks back at most, as a power of two: enough for its level.
const WINDOW_LOG: u32 = 19;

/// Bytes in which two fitting blocks are looked for.
const SEARCH: u64 = 32 << 20;

/// How much of the file's beginning is compressed anew, in windows, for a file to be worth it.
const WINDOWS: u64 = 2;

/// Whether a file of that many bytes is worth it in a frame with that window.
pub fn is_worth_it(size: u64, window: Window) -> bool {
    window.size() <= WINDOW_MAX && size >= WINDOWS * window.size() + BLOCK_MAX as u64
}

/// Some bytes of the file, in order.
struct Piece<'a> {
    /// The bytes, at most a block's.
    content: &'a [u8],
    /// The block, if these are all that it holds.
    block: Option<&'a Block>,
}

/// Makes the frame.
pub struct Splicer {
    window: Window,
    /// Bytes of the file that were taken.
    taken: u64,
    phase: Phase,
}

enum Phase {
    Searching(Box<Search>),
    /// Copies the blocks of the frame of that number.
    Copying(u64),
}

struct Search {
    encoder: Encoder<'static>,
    /// Bytes left of the encoder's frame header, for which ours, as long, is written.
    skip: usize,
    /// The last piece, which the encoder has not got yet.
    held: Vec<u8>,
    /// What the piece says of offsets, and its frame's number.
    told: Option<([Match; 3], u64)>,
}

impl Splicer {
    /// Begins a frame for a file of a frame with that window.
    ///
    /// # Errors
    /// When libzstd has no memory.
    pub fn new(window: Window, level: i32, out: &mut Vec<u8>) -> io::Result<Self> {
        let header = FrameHeader::of(window);
        out.extend_from_slice(&header);
        let mut encoder = Encoder::new(level)?;
        let log = window.size().ilog2().min(WINDOW_LOG);
        encoder.set_parameter(CParameter::WindowLog(log))?;
        Ok(Self {
            window,
            taken: 0,
            phase: Phase::Searching(Box::new(Search {
                encoder,
                skip: header.len(),
                held: Vec::new(),
                told: None,
            })),
        })
    }

    /// Reads the next bytes of the file, at most a block's and as many as the buffer holds, and adds
    /// them to the frame. Returns how many were read, and whether they were taken: not when the
    /// frame should end before them, or the file has ended.
    ///
    /// # Errors
    /// When the file cannot be read or libzstd fails.
    pub fn read(
        &mut self,
        file: &mut dyn Read,
        tape: &Tape,
        buffer: &mut [u8],
        out: &mut Vec<u8>,
    ) -> io::Result<(usize, bool)> {
        let n = file.read(buffer)?;
        let block = tape.whole(n);
        let piece = Piece {
            content: &buffer[..n],
            block: block.as_deref(),
        };
        Ok((n, n > 0 && self.take(&piece, out)?))
    }

    fn take(&mut self, piece: &Piece<'_>, out: &mut Vec<u8>) -> io::Result<bool> {
        match &mut self.phase {
            Phase::Copying(frame) => {
                let Some(block) = piece.block.filter(|block| block.frame == *frame) else {
                    return Ok(false);
                };
                copy(block, out);
            }
            Phase::Searching(search) => {
                let window = self.window.size();
                // A match of the held piece, too, stays in the file.
                let far = self.taken >= window + search.held.len() as u64;
                let alike = |block: &&Block| block.window == Some(self.window);
                if let Some(block) = piece.block.filter(|block| far && alike(block))
                    && search.fits(block)
                {
                    search.end(out)?;
                    copy(block, out);
                    self.phase = Phase::Copying(block.frame);
                } else if self.taken > window + SEARCH {
                    return Ok(false);
                } else {
                    search.hold(piece, out)?;
                }
            }
        }
        self.taken += piece.content.len() as u64;
        Ok(true)
    }

    /// Whether the last piece was copied as its block.
    #[cfg(test)]
    pub fn is_copying(&self) -> bool {
        matches!(self.phase, Phase::Copying(_))
    }

    /// Ends the frame.
    ///
    /// # Errors
    /// When libzstd fails.
    pub fn finish(mut self, out: &mut Vec<u8>) -> io::Result<()> {
        if let Phase::Searching(search) = &mut self.phase {
            search.told = None;
            search.end(out)?;
        }
        let end = BlockHeader {
            last: true,
            kind: Kind::Raw,
            size: 0,
        };
        out.extend_from_slice(&end.bytes());
        Ok(())
    }
}

/// Adds the block, which is not its frame's last one any more.
fn copy(block: &Block, out: &mut Vec<u8>) {
    let at = out.len();
    out.extend_from_slice(&block.packed);
    out[at] &= !1;
}

impl Search {
    /// Whether the block can be copied behind the held piece.
    fn fits(&self, block: &Block) -> bool {
        let same = self.told.is_some_and(|(_, frame)| frame == block.frame);
        same && block.kind == Some(Kind::Compressed)
            && Sections::of(block.body()).is_some_and(|sections| sections.stands_alone())
    }

    /// Compresses the held piece and holds this one.
    fn hold(&mut self, piece: &Piece<'_>, out: &mut Vec<u8>) -> io::Result<()> {
        let held = std::mem::take(&mut self.held);
        self.compress(&held, out)?;
        self.held = held;
        self.held.clear();
        self.held.extend_from_slice(piece.content);
        let block = piece.block.filter(|b| b.kind == Some(Kind::Compressed));
        self.told = block.and_then(|block| {
            let matches = offsets::behind(block.body())?;
            // A primer does not compress, so it should be a small part of the block.
            let primed = block.content.len() - matches[2].at;
            (primed <= block.content.len() / 2).then_some((matches, block.frame))
        });
        Ok(())
    }

    /// Compresses what is held, with a primer at its end where it told of offsets.
    fn end(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        let held = std::mem::take(&mut self.held);
        let primed = match self.told {
            Some((matches, _)) => matches[2].at,
            None => held.len(),
        };
        self.compress(&held[..primed], out)?;
        self.flush(out)?;
        if let Some((matches, _)) = self.told {
            primer::write(matches, &held, out);
        }
        Ok(())
    }

    fn compress(&mut self, content: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let mut input = InBuffer::around(content);
        while input.pos() < content.len() {
            self.write(out, |encoder, output| encoder.run(&mut input, output))?;
        }
        Ok(())
    }

    /// Has the encoder end its block.
    fn flush(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        while self.write(out, |encoder, output| encoder.flush(output))? > 0 {}
        Ok(())
    }

    fn write(
        &mut self,
        out: &mut Vec<u8>,
        step: impl FnOnce(&mut Encoder<'static>, &mut OutBuffer<'_, Vec<u8>>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        out.reserve(BLOCK_MAX);
        let start = out.len();
        let left = step(&mut self.encoder, &mut OutBuffer::around_pos(out, start))?;
        let skipped = self.skip.min(out.len() - start);
        out.drain(start..start + skipped);
        self.skip -= skipped;
        Ok(left)
    }
}
