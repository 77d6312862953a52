//! zstd frames taken block by block (RFC 8878), and new frames made of blocks that are there.
//!
//! A `.conda` package is compressed once, at a high level, by who built it. A layer holds the same
//! bytes of its big files, so it can hold the same compressed blocks: nothing is compressed a
//! second time, and the layer is as small as the package. What a block means depends on what is
//! in front of it - earlier bytes, repeated offsets, tables of earlier blocks - and behind a tar
//! header of our own that is not what it was in the package. [`splice`] makes it the same again.

mod bits;
mod decode;
mod format;
mod fse;
mod offsets;
mod primer;
pub mod splice;
#[cfg(test)]
mod tests;

pub use decode::{Block, BlockReader, Tape};
pub use format::{BLOCK_MAX, Window};
