//! One tar on disk as named files, in any order, with links between members.
//!
//! The tar is scanned once for where its members lie; members are then read in place. Nothing is
//! unpacked: a member's name is a key of a map, never a path of the host. What cannot be read in
//! place (a compressed tar, a pipe, the stream of a daemon) is first spooled to a temporary file
//! of the store.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::Path,
};

use tar::EntryType;

use super::{
    files::{Files, Opened, copy},
    media::{self, Packing},
};
use crate::{
    error::{Error, Result},
    report::{Activity, Reporter, Step},
    space::Watched,
    store::Store,
};

/// How many links in a row are followed between members.
const MAX_LINKS: usize = 16;

/// A tar whose members can be opened by name.
pub(super) struct Archive {
    place: String,
    file: File,
    members: BTreeMap<String, Member>,
}

enum Member {
    File {
        offset: u64,
        size: u64,
    },
    Link(String),
    /// Something whose content is not one run of bytes.
    Unreadable,
}

impl Archive {
    /// Opens a tar, plain or compressed.
    ///
    /// # Errors
    /// When it cannot be read or is no tar.
    pub fn open(path: &Path, store: &Store, reporter: &Reporter) -> Result<Self> {
        let place = path.display().to_string();
        let failed = |e| Error::io("read", path, e);
        let mut file = File::open(path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::input(format!("base image {place}: no such file"))
                .hint("check the path; it may be followed by :TAG"),
            _ => Error::io("open", path, e),
        })?;
        let meta = file.metadata().map_err(failed)?;
        if meta.is_dir() {
            return Err(Error::input(format!("{place} is a folder, not an archive"))
                .hint(format!("for an OCI layout folder, write oci:{place}")));
        }
        if !meta.is_file() {
            return Self::spool(place, file, store, reporter);
        }
        let packing = media::sniff(&mut file)
            .map_err(failed)?
            .map_err(|e| e.at(&place))?;
        file.rewind().map_err(failed)?;
        match packing {
            Packing::Plain => Self::index(place, file),
            packed => {
                let reader = packed.decoder(BufReader::new(file)).map_err(failed)?;
                Self::spool(place, reader, store, reporter)
            }
        }
    }

    /// Takes a tar from a stream, by way of a temporary file that goes with the value.
    ///
    /// # Errors
    /// When the stream breaks off, the disk is full, or it is no tar.
    pub fn spool(
        place: String,
        from: impl Read,
        store: &Store,
        reporter: &Reporter,
    ) -> Result<Self> {
        let dir = store.tmp_dir();
        let mut file = tempfile::tempfile_in(&dir).map_err(|e| Error::io("write in", &dir, e))?;
        let task = reporter.bytes(Activity::new(Step::Base, "reading the base image"), None);
        let mut out = Watched::new(&mut file, dir, None);
        copy(from, &mut out, &task).map_err(|e| e.at(&place))?;
        Self::index(place, file)
    }

    fn index(place: String, mut file: File) -> Result<Self> {
        let read = |file: &mut File| -> io::Result<_> {
            let length = file.seek(SeekFrom::End(0))?;
            file.rewind()?;
            let mut members = BTreeMap::new();
            for entry in tar::Archive::new(file).entries_with_seek()? {
                let entry = entry?;
                let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
                // Members outside the root have no name that anything could ask for.
                if let Some(name) = resolve("", &path) {
                    let member = Member::of(&entry, &name);
                    if let Member::File { offset, size } = member
                        && offset.checked_add(size).is_none_or(|end| end > length)
                    {
                        return Err(io::Error::other(format!("it ends in the middle of {name}")));
                    }
                    members.insert(name, member);
                }
            }
            Ok(members)
        };
        match read(&mut file) {
            Ok(members) if members.is_empty() => {
                Err(Error::input("the archive is empty").at(place))
            }
            Ok(members) => Ok(Self {
                place,
                file,
                members,
            }),
            Err(e) => Err(Error::input("the archive cannot be read as a tar")
                .at(place)
                .why(e)),
        }
    }

    /// Whether there is a file of this name, links followed.
    pub fn has(&self, name: &str) -> bool {
        matches!(self.follow(name), Some((_, Member::File { .. })))
    }

    /// The name of the member that a name stands for once links are followed.
    pub fn target<'a>(&'a self, name: &str) -> Option<&'a str> {
        self.follow(name).map(|(name, _)| name)
    }

    fn follow(&self, name: &str) -> Option<(&str, &Member)> {
        let mut name = resolve("", name)?;
        for _ in 0..MAX_LINKS {
            match self.members.get_key_value(&name)? {
                (_, Member::Link(target)) => name.clone_from(target),
                (key, member) => return Some((key, member)),
            }
        }
        None
    }
}

impl Member {
    fn of(entry: &tar::Entry<'_, impl Read>, name: &str) -> Self {
        let target = || {
            let link = entry.link_name_bytes()?;
            Some(String::from_utf8_lossy(&link).into_owned())
        };
        let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
        let link = match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => {
                return Self::File {
                    offset: entry.raw_file_position(),
                    size: entry.size(),
                };
            }
            // A symlink starts at its own folder, a hard link at the root.
            EntryType::Symlink => target().and_then(|target| resolve(folder, &target)),
            EntryType::Link => target().and_then(|target| resolve("", &target)),
            _ => None,
        };
        link.map_or(Self::Unreadable, Self::Link)
    }
}

/// Joins by words alone; nothing when it leaves the root.
fn resolve(folder: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = match path.starts_with('/') {
        true => Vec::new(),
        false => folder.split('/').filter(|part| !part.is_empty()).collect(),
    };
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

impl Files for Archive {
    fn place(&self) -> String {
        self.place.clone()
    }

    fn open(&self, name: &str) -> Result<Option<Opened<'_>>> {
        match self.follow(name) {
            Some((_, &Member::File { offset, size })) => {
                let window = Window {
                    file: &self.file,
                    offset,
                    left: size,
                };
                Ok(Some((Box::new(window), size)))
            }
            Some((name, _)) => Err(Error::input(format!(
                "{name} is not a plain file in the archive"
            ))
            .at(&self.place)),
            None => Ok(None),
        }
    }
}

/// A run of bytes of a file, read without moving the file's own position.
struct Window<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for Window<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buf.len());
        let n = self.file.read_at(&mut buf[..want], self.offset)?;
        self.offset += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside() {
        assert_eq!(resolve("", "./a//b"), Some("a/b".into()));
        assert_eq!(resolve("x", "../y/layer.tar"), Some("y/layer.tar".into()));
        assert_eq!(resolve("x", "/y"), Some("y".into()));
        assert_eq!(resolve("x", "../../etc/passwd"), None);
        assert_eq!(resolve("", "../a"), None);
    }

    #[test]
    fn a_cut_archive_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let reporter = Reporter::stderr(true);
        let tar = crate::base::testing::layer_tar(&["a/", "a/file"]);
        for (length, word) in [
            (0, "empty"),
            (700, "cannot be read"),
            (1030, "in the middle"),
        ] {
            let read = Archive::spool("x.tar".into(), &tar[..length], &store, &reporter);
            let error = read.map(drop).unwrap_err().to_string();
            assert!(error.contains(word), "{length}: {error}");
        }
        let text = Archive::spool("x".into(), &[b'x'; 2048][..], &store, &reporter);
        assert!(text.is_err());
        let error = Archive::open(dir.path(), &store, &reporter)
            .map(drop)
            .unwrap_err();
        assert!(error.to_string().contains("oci:"), "{error}");
    }
}
