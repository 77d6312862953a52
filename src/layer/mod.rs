//! Entries to a layer blob: deterministic tar, diff id, parallel compression, digest.

mod build;
mod gzip;
mod tar;

pub use build::{FORMAT, build_layer};
pub use gzip::Compressors;
pub use tar::{DirectoryAttributes, LayerTar};
