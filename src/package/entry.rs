//! What a layer is made of: file entries as a stream.

use std::{
    io::{self, Read},
    path::PathBuf,
};

use crate::{
    error::{Error, chain},
    frames::Tape,
};

/// One path of a layer.
///
/// Paths are relative to the root of the image, `/`-separated, without `.`, `..` or a leading
/// slash, as a tar stores them. Owner and group are root unless a field says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The path inside the image, as bytes (conda packages may hold names that are not UTF-8).
    pub path: Vec<u8>,
    /// What stands at the path.
    pub kind: EntryKind,
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    /// Modification time in seconds since the epoch.
    pub mtime: u64,
    /// Numeric owner and group.
    pub owner: (u64, u64),
}

/// The kinds of entry that a layer holds; devices and sockets never.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file of that many bytes, which follow from a reader.
    File(u64),
    /// A symbolic link with its target, exactly as stored.
    Symlink(Vec<u8>),
    /// A hard link to a path of the same layer.
    Hardlink(Vec<u8>),
    /// A directory.
    Directory,
}

/// Takes entries one after another; the content reader is empty for all but files.
pub trait EntrySink {
    /// Takes one entry and reads its content to the end.
    ///
    /// # Errors
    /// When the content cannot be read or the entry cannot be written.
    fn entry(&mut self, entry: &Entry, content: &mut dyn Read) -> io::Result<()>;

    /// As [`EntrySink::entry`], for a file that is read from a [`BlockReader`] unchanged: a sink
    /// may take its blocks, which `tape` tells, instead of compressing it.
    ///
    /// # Errors
    /// As [`EntrySink::entry`].
    ///
    /// [`BlockReader`]: crate::frames::BlockReader
    fn entry_in_blocks(
        &mut self,
        entry: &Entry,
        content: &mut dyn Read,
        _tape: &Tape,
    ) -> io::Result<()> {
        self.entry(entry, content)
    }

    /// Adds what the sink makes of the entries so far, such as compiled Python files, and returns
    /// their paths below the prefix, sorted. A linker calls it once, before it writes the record
    /// that lists every file.
    ///
    /// # Errors
    /// As [`EntrySink::entry`].
    fn complete(&mut self) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
}

/// What a sink that failed has to say of the package at `place`.
pub fn sink_error(place: &str, e: io::Error) -> Error {
    // A sink that does more than writing has an error of its own, and so has a full disk.
    e.downcast::<Error>().unwrap_or_else(|e| {
        Error::environment("cannot write a layer")
            .at(place)
            .why(chain(&e))
    })
}
