//! The tar of a layer, as every engine reads it (OCI image-spec, layer.md).
//!
//! Every parent of an entry is an entry too, once: an implicit parent would get the extraction
//! time, and one missing over an existing folder resets that folder's mode. No path comes twice.

use std::{
    collections::{BTreeMap, HashMap, hash_map},
    ffi::OsStr,
    io::{self, Read, Write},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use ::tar::{Builder, EntryType, Header};
use serde::Serialize;

use crate::{
    frames::Tape,
    package::{Entry, EntryKind, EntrySink},
};

/// How a folder that the base image has looks there; repeated so that a layer does not change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DirectoryAttributes {
    /// Permission bits.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u64,
    /// Numeric group.
    pub gid: u64,
    /// Modification time in seconds since the epoch.
    pub mtime: u64,
}

const PLAIN_DIRECTORY: DirectoryAttributes = DirectoryAttributes {
    mode: 0o755,
    uid: 0,
    gid: 0,
    mtime: 0,
};

/// What every header and every content fills up to.
const BLOCK: u64 = 512;

/// The longest name that a tar header holds itself.
const NAME_FIELD: usize = 100;

/// Where a tar goes to that may hold a file's blocks as they are.
pub trait TakesBlocks: Write {
    /// Writes a file of that many bytes, whose blocks the tape tells while it is read.
    ///
    /// # Errors
    /// When the file cannot be read or the tar cannot be written.
    fn file(&mut self, size: u64, file: &mut dyn Read, tape: &Tape) -> io::Result<()>;
}

/// Writes entries as a tar; the same entries give the same bytes.
pub struct LayerTar<W: Write> {
    builder: Builder<W>,
    seen: HashMap<Vec<u8>, Seen>,
    base: BTreeMap<Vec<u8>, DirectoryAttributes>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    Directory,
    Other,
}

impl<W: Write> LayerTar<W> {
    /// Starts a tar over a base image that has the folders `base`.
    pub fn new(out: W, base: BTreeMap<Vec<u8>, DirectoryAttributes>) -> Self {
        Self {
            builder: Builder::new(out),
            seen: HashMap::new(),
            base,
        }
    }

    /// Ends the archive with its one end-of-archive mark.
    ///
    /// # Errors
    /// When the last bytes cannot be written.
    pub fn finish(self) -> io::Result<W> {
        self.builder.into_inner()
    }

    fn parents(&mut self, path: &[u8]) -> io::Result<()> {
        for (end, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            self.directory(&path[..end], None)?;
        }
        Ok(())
    }

    /// A folder is written once; the base's own attributes win over the entry's.
    fn directory(&mut self, path: &[u8], given: Option<DirectoryAttributes>) -> io::Result<()> {
        match self.seen.entry(path.to_vec()) {
            hash_map::Entry::Occupied(seen) if *seen.get() == Seen::Directory => return Ok(()),
            hash_map::Entry::Occupied(_) => return Err(twice(path)),
            hash_map::Entry::Vacant(free) => free.insert(Seen::Directory),
        };
        let known = self.base.get(path).copied().or(given);
        let attributes = known.unwrap_or(PLAIN_DIRECTORY);
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Directory);
        header.set_mode(attributes.mode);
        header.set_uid(attributes.uid);
        header.set_gid(attributes.gid);
        header.set_mtime(attributes.mtime);
        header.set_size(0);
        let mut name = path.to_vec();
        name.push(b'/');
        self.append(header, &name, &mut io::empty())
    }

    fn append(
        &mut self,
        mut header: Header,
        path: &[u8],
        content: &mut dyn Read,
    ) -> io::Result<()> {
        self.builder
            .append_data(&mut header, Path::new(OsStr::from_bytes(path)), content)
    }

    /// The header of an entry that is no folder, which has its parents and no second of its name
    /// then.
    fn begin(&mut self, entry: &Entry) -> io::Result<Header> {
        self.parents(&entry.path)?;
        if self.seen.insert(entry.path.clone(), Seen::Other).is_some() {
            return Err(twice(&entry.path));
        }
        let mut header = Header::new_gnu();
        header.set_mode(entry.mode);
        header.set_uid(entry.owner.0);
        header.set_gid(entry.owner.1);
        header.set_mtime(entry.mtime);
        header.set_size(0);
        Ok(header)
    }

    /// Stores a link's target byte for byte; the tar crate's own way would tidy it.
    fn link(&mut self, header: &mut Header, target: &[u8]) -> io::Result<()> {
        if target.len() <= NAME_FIELD {
            return header.set_link_name_literal(target);
        }
        let mut long = Header::new_gnu();
        long.set_entry_type(EntryType::GNULongLink);
        long.set_path("././@LongLink")?;
        long.set_mode(0o644);
        long.set_mtime(0);
        long.set_uid(0);
        long.set_gid(0);
        long.set_size(target.len() as u64 + 1);
        long.set_cksum();
        self.builder.append(&long, target.chain(&b"\0"[..]))?;
        header.set_link_name_literal(&target[..NAME_FIELD])
    }
}

impl<W: TakesBlocks> EntrySink for LayerTar<W> {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Read) -> io::Result<()> {
        if entry.kind == EntryKind::Directory {
            let path = entry.path.strip_suffix(b"/").unwrap_or(&entry.path);
            self.parents(path)?;
            let given = DirectoryAttributes {
                mode: entry.mode,
                uid: entry.owner.0,
                gid: entry.owner.1,
                mtime: entry.mtime,
            };
            return self.directory(path, Some(given));
        }
        let mut header = self.begin(entry)?;
        match &entry.kind {
            EntryKind::File(size) => {
                header.set_entry_type(EntryType::Regular);
                header.set_size(*size);
                let mut exact = Exact {
                    inner: content,
                    left: *size,
                };
                return self.append(header, &entry.path, &mut exact);
            }
            EntryKind::Symlink(target) => {
                header.set_entry_type(EntryType::Symlink);
                self.link(&mut header, target)?;
            }
            EntryKind::Hardlink(target) => {
                header.set_entry_type(EntryType::Link);
                self.link(&mut header, target)?;
            }
            EntryKind::Directory => {}
        }
        self.append(header, &entry.path, &mut io::empty())
    }

    fn entry_in_blocks(
        &mut self,
        entry: &Entry,
        content: &mut dyn Read,
        tape: &Tape,
    ) -> io::Result<()> {
        let EntryKind::File(size) = entry.kind else {
            return self.entry(entry, content);
        };
        let mut header = self.begin(entry)?;
        header.set_entry_type(EntryType::Regular);
        header.set_size(size);
        // The header alone: content and padding follow by another way.
        self.append(header, &entry.path, &mut io::empty())?;
        let mut exact = Exact {
            inner: content,
            left: size,
        };
        let out = self.builder.get_mut();
        out.file(size, &mut exact, tape)?;
        let padding = size.next_multiple_of(BLOCK) - size;
        io::copy(&mut io::repeat(0).take(padding), out).map(drop)
    }
}

fn twice(path: &[u8]) -> io::Error {
    io::Error::other(format!(
        "{} comes twice in one layer",
        String::from_utf8_lossy(path)
    ))
}

/// Yields exactly the announced number of bytes, or fails: a tar with a wrong size is garbage
/// from there on.
struct Exact<'a> {
    inner: &'a mut dyn Read,
    left: u64,
}

impl Read for Exact<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            return match self.inner.read(&mut [0; 1])? {
                0 => Ok(0),
                _ => Err(io::Error::other("a file is longer than announced")),
            };
        }
        let wanted = buf
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.inner.read(&mut buf[..wanted])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl TakesBlocks for Vec<u8> {
        fn file(&mut self, _: u64, file: &mut dyn Read, _: &Tape) -> io::Result<()> {
            io::copy(file, self).map(drop)
        }
    }

    fn file(path: &str, size: u64) -> Entry {
        Entry {
            path: path.into(),
            kind: EntryKind::File(size),
            mode: 0o644,
            mtime: 7,
            owner: (0, 0),
        }
    }

    fn names(bytes: &[u8]) -> Vec<String> {
        let mut archive = ::tar::Archive::new(bytes);
        let entries = archive.entries().unwrap();
        entries
            .map(|entry| {
                let entry = entry.unwrap();
                let link = entry.link_name_bytes();
                let link = link.map_or(String::new(), |l| {
                    format!(" -> {}", String::from_utf8_lossy(&l))
                });
                String::from_utf8_lossy(&entry.path_bytes()).into_owned() + &link
            })
            .collect()
    }

    #[test]
    fn parents_come_once_and_first() {
        let mut tar = LayerTar::new(Vec::new(), BTreeMap::new());
        tar.entry(&file("a/b/c", 1), &mut &b"x"[..]).unwrap();
        tar.entry(&file("a/d", 0), &mut io::empty()).unwrap();
        let bytes = tar.finish().unwrap();
        assert_eq!(names(&bytes), ["a/", "a/b/", "a/b/c", "a/d"]);
    }

    #[test]
    fn a_path_never_comes_twice() {
        let mut tar = LayerTar::new(Vec::new(), BTreeMap::new());
        tar.entry(&file("a/b", 0), &mut io::empty()).unwrap();
        assert!(tar.entry(&file("a/b", 0), &mut io::empty()).is_err());
        assert!(tar.entry(&file("a/b/c", 0), &mut io::empty()).is_err());
    }

    #[test]
    fn a_folder_is_one_with_and_without_a_slash() {
        let mut folder = file("a/b/", 0);
        folder.kind = EntryKind::Directory;
        let mut tar = LayerTar::new(Vec::new(), BTreeMap::new());
        tar.entry(&folder, &mut io::empty()).unwrap();
        tar.entry(&file("a/b/c", 0), &mut io::empty()).unwrap();
        assert_eq!(names(&tar.finish().unwrap()), ["a/", "a/b/", "a/b/c"]);
    }

    #[test]
    fn sizes_must_be_true() {
        let mut tar = LayerTar::new(Vec::new(), BTreeMap::new());
        assert!(tar.entry(&file("short", 2), &mut &b"x"[..]).is_err());
        let mut tar = LayerTar::new(Vec::new(), BTreeMap::new());
        assert!(tar.entry(&file("long", 1), &mut &b"xy"[..]).is_err());
    }

    #[test]
    fn long_names_and_targets_survive() {
        let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
        let target = format!("../{}//./x", "t".repeat(150));
        let mut tar = LayerTar::new(Vec::new(), BTreeMap::new());
        let mut link = file(&long, 0);
        link.kind = EntryKind::Symlink(target.clone().into_bytes());
        tar.entry(&link, &mut io::empty()).unwrap();
        let bytes = tar.finish().unwrap();
        assert_eq!(names(&bytes)[1], format!("{long} -> {target}"));
    }

    #[test]
    fn folders_of_the_base_keep_their_attributes() {
        let sticky = DirectoryAttributes {
            mode: 0o1777,
            uid: 0,
            gid: 0,
            mtime: 9,
        };
        let base = BTreeMap::from([(b"tmp".to_vec(), sticky)]);
        let mut tar = LayerTar::new(Vec::new(), base);
        tar.entry(&file("tmp/x", 0), &mut io::empty()).unwrap();
        let bytes = tar.finish().unwrap();
        let mut archive = ::tar::Archive::new(&bytes[..]);
        let first = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(first.header().mode().unwrap(), 0o1777);
        assert_eq!(first.header().mtime().unwrap(), 9);
    }
}
