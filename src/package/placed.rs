//! What a linker keeps of the files that it has seen.

use std::path::PathBuf;

use crate::digest::Digest;

#[derive(Clone)]
pub(super) struct Placed {
    pub target: PathBuf,
    pub outcome: Outcome,
    pub stat: Stat,
}

/// What became of a file's content.
#[derive(Clone)]
pub(super) struct Outcome {
    pub sha256: Digest,
    pub size: u64,
}

pub(super) struct Held {
    pub content: tempfile::SpooledTempFile,
    pub header: Stat,
}

#[derive(Clone, Copy)]
pub(super) struct Stat {
    pub mode: u32,
    pub mtime: u64,
    pub size: u64,
}
