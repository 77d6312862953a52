//! Entries to a layer blob: deterministic tar, diff id, parallel compression, digest.

mod blob;
mod buffers;
mod build;
mod compression;
mod compressors;
mod tar;

pub use build::{build_layer, format};
pub use compression::Compression;
pub use compressors::Compressors;
pub use tar::{DirectoryAttributes, LayerTar};
