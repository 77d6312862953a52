//! One block, decoded apart from its stream.
//!
//! The bits of a block depend on no other block. Between a stream's header and a stream's end that
//! repeats the block's own checksum they are a whole bzip2 stream, which libbzip2 decodes and
//! checks: so the decoder is the well-kept one, and nothing here interprets the content.

use std::{
    fs::File,
    io::{self, Cursor, Read},
    os::unix::fs::FileExt,
};

use ::bzip2::bufread::BzDecoder;

use super::{
    parts::bits_at,
    scan::{END, MARK_BITS},
};

/// How many decoded bytes of one block are held in memory. Most blocks are 900 kB; one of zeros
/// alone is 46 MB, and is decoded again while it is read.
const HELD: u64 = 4 << 20;

/// Where a block lies in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The bit at which its magic number begins.
    pub start: u64,
    /// The bit behind its last.
    pub end: u64,
    /// The digit of the stream's header: the size of a block in 100,000 bytes.
    pub level: u8,
}

/// A block whose checksum is right.
pub struct Block {
    /// Its content.
    pub content: Box<dyn Read + Send>,
    /// The size of the content in bytes.
    pub size: u64,
    /// The checksum of the content.
    pub crc: u32,
    /// The byte of the file in which it ends.
    pub end: u64,
}

/// Decodes a block.
///
/// # Errors
/// When the span is no block, or a damaged one.
pub fn decode(file: &File, span: &Span) -> io::Result<Block> {
    let crc =
        u32::try_from(bits_at(file, span.start + MARK_BITS, 32)?).map_err(io::Error::other)?;
    let stream = stream(file, span, crc)?;
    let mut decoder = BzDecoder::new(stream.as_slice());
    let mut bytes = Vec::with_capacity(usize::from(span.level & 0xf) * 100_000);
    decoder.by_ref().take(HELD).read_to_end(&mut bytes)?;
    let more = io::copy(&mut decoder, &mut io::sink())?;
    if !decoder.into_inner().is_empty() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(Block {
        size: bytes.len() as u64 + more,
        content: match more {
            0 => Box::new(Cursor::new(bytes)),
            _ => Box::new(BzDecoder::new(Cursor::new(stream))),
        },
        crc,
        end: span.end / 8,
    })
}

/// The bzip2 stream of this block alone.
fn stream(file: &File, span: &Span, crc: u32) -> io::Result<Vec<u8>> {
    let first = span.start / 8;
    let size = usize::try_from(span.end.div_ceil(8) - first).map_err(io::Error::other)?;
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, first)?;
    let mut stream = Vec::with_capacity(size + 16);
    stream.extend_from_slice(b"BZh");
    stream.push(span.level);
    let shift = (span.start % 8) as u32;
    let next = bytes.iter().skip(1).chain(&[0]);
    let shifted = |(byte, next): (&u8, &u8)| {
        let pair = u16::from_be_bytes([*byte, *next]) << shift;
        pair.to_be_bytes()[0]
    };
    stream.extend(bytes.iter().zip(next).map(shifted));
    finish(&mut stream, span.end - span.start, crc);
    Ok(stream)
}

/// Ends a stream whose block has that many bits: the end's magic number, then the checksum.
fn finish(stream: &mut Vec<u8>, block_bits: u64, crc: u32) {
    const HEADER: usize = 4;
    let whole = usize::try_from(block_bits / 8).unwrap_or(usize::MAX);
    let (whole, bits) = (HEADER.saturating_add(whole), (block_bits % 8) as u32);
    let last = stream.get(whole).copied().unwrap_or_default();
    stream.truncate(whole);
    // The block's last bits, 48 bits of the magic number, 32 bits of the checksum, from the top.
    let last = u128::from(last >> (8 - bits).min(7)) & ((1 << bits) - 1);
    let tail = (last << 80 | u128::from(END) << 32 | u128::from(crc)) << (48 - bits);
    let size = (80 + bits).div_ceil(8) as usize;
    stream.extend(tail.to_be_bytes().iter().take(size));
}
