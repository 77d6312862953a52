//! A sink that writes entries to a folder of this machine: the Python that compiles.
//!
//! Nothing is written outside the folder, whatever the entries are: every folder on the way is made
//! here and is no link, and files are created, never opened. Names are the linker's, which are
//! checked already.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs::{self, File, Permissions},
    io::{self, Read},
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
    },
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::{
    package::{Entry, EntryKind, EntrySink},
    space,
};

/// Writes those entries that `wanted` takes, by their path below the prefix.
pub(super) struct FolderSink<'a> {
    folder: &'a Path,
    /// The prefix as entries have it.
    root: &'a [u8],
    wanted: &'a dyn Fn(&Path) -> bool,
    made: HashSet<PathBuf>,
}

impl<'a> FolderSink<'a> {
    pub(super) fn new(folder: &'a Path, root: &'a str, wanted: &'a dyn Fn(&Path) -> bool) -> Self {
        Self {
            folder,
            root: root.as_bytes(),
            wanted,
            made: HashSet::new(),
        }
    }

    fn below<'p>(&self, path: &'p [u8]) -> Option<&'p Path> {
        below(path, self.root)
    }

    fn parents(&mut self, path: &Path) -> io::Result<()> {
        let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) else {
            return Ok(());
        };
        if self.made.contains(parent) {
            return Ok(());
        }
        self.parents(parent)?;
        fs::create_dir(self.folder.join(parent))?;
        self.made.insert(parent.to_owned());
        Ok(())
    }

    fn write(&mut self, path: &Path, entry: &Entry, content: &mut dyn Read) -> io::Result<()> {
        self.parents(path)?;
        let at = self.folder.join(path);
        // The last of two packages wins, as in the image.
        if !matches!(entry.kind, EntryKind::Directory) && at.symlink_metadata().is_ok() {
            fs::remove_file(&at)?;
        }
        match &entry.kind {
            EntryKind::Directory => {}
            EntryKind::File(_) => {
                let mut file = File::create_new(&at)?;
                io::copy(content, &mut file)?;
                file.set_permissions(Permissions::from_mode(entry.mode & 0o755 | 0o600))?;
                // Else its shipped .pyc would be stale.
                file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(entry.mtime))?;
            }
            EntryKind::Symlink(target) => {
                let target = Path::new(OsStr::from_bytes(target));
                if stays(target) {
                    symlink(target, &at)?;
                }
            }
            EntryKind::Hardlink(target) => {
                if let Some(target) = self.below(target).filter(|t| (self.wanted)(t)) {
                    fs::hard_link(self.folder.join(target), &at)?;
                }
            }
        }
        Ok(())
    }
}

/// The path below the prefix `root` of an entry's path.
pub(super) fn below<'p>(path: &'p [u8], root: &[u8]) -> Option<&'p Path> {
    let rest = path.strip_prefix(root)?.strip_prefix(b"/")?;
    Some(Path::new(OsStr::from_bytes(rest)))
}

/// A library's own short name for another file of its folder is all that is needed.
fn stays(target: &Path) -> bool {
    let mut parts = target.components();
    matches!(parts.next(), Some(Component::Normal(_))) && parts.next().is_none()
}

impl EntrySink for FolderSink<'_> {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Read) -> io::Result<()> {
        match self.below(&entry.path).filter(|path| (self.wanted)(path)) {
            Some(path) => {
                let written = self.write(path, entry, content);
                written.map_err(|e| space::explained(e, self.folder, None))
            }
            None => io::copy(content, &mut io::sink()).map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: EntryKind) -> Entry {
        Entry {
            path: path.as_bytes().to_vec(),
            kind,
            mode: 0o4755,
            mtime: 1_000_000_000,
            owner: (0, 0),
        }
    }

    #[test]
    fn nothing_is_written_outside_the_folder() {
        let outside = tempfile::tempdir().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut sink = FolderSink::new(folder.path(), "p", &|path| !path.starts_with("share"));
        let away = outside.path().as_os_str().as_bytes().to_vec();
        let mut put = |path: &str, kind| sink.entry(&entry(path, kind), &mut &b"x"[..]);

        put(
            "p/lib/libz.so.1",
            EntryKind::Symlink(b"libz.so.1.2".to_vec()),
        )
        .unwrap();
        put("p/lib/up", EntryKind::Symlink(b"../..".to_vec())).unwrap();
        put("p/lib/away", EntryKind::Symlink(away)).unwrap();
        put("p/lib/away/file", EntryKind::File(1)).unwrap();
        put("p/lib/here", EntryKind::Symlink(b"other".to_vec())).unwrap();
        put("p/lib/here/file", EntryKind::File(1)).unwrap_err();
        put("p/lib/here", EntryKind::File(1)).unwrap();
        put("p/lib/hard", EntryKind::Hardlink(b"p/lib/here".to_vec())).unwrap();
        put("p/lib/hard2", EntryKind::Hardlink(b"p/share/x".to_vec())).unwrap();
        put("p/share/x", EntryKind::File(1)).unwrap();
        put("q/lib/x", EntryKind::File(1)).unwrap();

        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        let names = |dir: &str| -> Vec<String> {
            let entries = fs::read_dir(folder.path().join(dir)).unwrap();
            let mut names: Vec<_> = entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        assert_eq!(names(""), ["lib"]);
        assert_eq!(names("lib"), ["away", "hard", "here", "libz.so.1"]);
        let stat = fs::symlink_metadata(folder.path().join("lib/here")).unwrap();
        assert_eq!(stat.permissions().mode() & 0o7777, 0o755);
        let age = stat
            .modified()
            .unwrap()
            .duration_since(SystemTime::UNIX_EPOCH);
        assert_eq!(age.unwrap().as_secs(), 1_000_000_000);
    }
}
