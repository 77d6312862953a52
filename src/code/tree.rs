//! Walking a folder of code, and writing it as entries.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::{
    ignore::{Match, Patterns},
    links,
};
use crate::{
    digest::{Digest, Hashing},
    error::{Error, Exit, Result},
    package::{Entry, EntryKind, EntrySink},
};

/// The modification time of every file and folder when `SOURCE_DATE_EPOCH` is not set:
/// 1980-01-01 00:00:00 UTC, in seconds. A checkout's own times differ from machine to machine
/// and would change the layer's digest; anything earlier breaks tools that write zip files.
const MTIME: u64 = 315_532_800;

/// A folder of code as it was found.
#[derive(Debug)]
pub struct CodeTree {
    root: PathBuf,
    mtime: u64,
    /// Sorted by path, which puts a folder before what is in it.
    items: Vec<Item>,
}

#[derive(Debug)]
struct Item {
    /// Relative to the root.
    path: Vec<u8>,
    what: What,
}

#[derive(Debug)]
enum What {
    Folder,
    File { executable: bool, stamp: Stamp },
    Link(Vec<u8>),
}

/// What must not change between the walk and the end of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Walks a folder, leaving out what its `.dockerignore` says.
///
/// # Errors
/// When the folder cannot be read, `.dockerignore` or `SOURCE_DATE_EPOCH` is malformed, a link
/// is absolute or leaves the folder, or there is a socket, a pipe or a device.
pub fn collect(dir: &Path) -> Result<CodeTree> {
    let mtime = mtime(env::var_os("SOURCE_DATE_EPOCH").as_deref())?;
    // The folder itself may be reached through a link.
    let root = fs::canonicalize(dir).map_err(|e| unreadable(dir, e))?;
    let patterns = patterns(&root)?;
    let mut walk = Walk {
        root: &root,
        patterns: &patterns,
        items: Vec::new(),
    };
    walk.folder(Path::new(""), &Match::default())?;
    let mut items = walk.items;
    items.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(CodeTree { root, mtime, items })
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    Error::io("read", path, error).with_exit(Exit::Input)
}

fn mtime(epoch: Option<&OsStr>) -> Result<u64> {
    // The largest time that a tar header holds in octal digits.
    const MAX: u64 = 0o77_777_777_777;
    let Some(text) = epoch.filter(|text| !text.is_empty()) else {
        return Ok(MTIME);
    };
    let seconds = text.to_str().and_then(|text| text.parse().ok());
    seconds.filter(|s| *s <= MAX).ok_or_else(|| {
        Error::input(format!("SOURCE_DATE_EPOCH '{}' is no time", text.display()))
            .hint("set it to seconds since 1970, such as the output of: git log -1 --format=%ct")
    })
}

fn patterns(root: &Path) -> Result<Patterns> {
    let path = root.join(".dockerignore");
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Patterns::default()),
        Err(error) => return Err(unreadable(&path, error)),
    };
    Patterns::parse(&text).map_err(|(line, why)| {
        Error::input("a .dockerignore pattern is malformed")
            .at(format!("{}:{line}", path.display()))
            .why(why)
    })
}

struct Walk<'a> {
    root: &'a Path,
    patterns: &'a Patterns,
    items: Vec<Item>,
}

impl Walk<'_> {
    /// Takes what is in a folder; returns whether that was anything.
    fn folder(&mut self, folder: &Path, verdict: &Match) -> Result<bool> {
        let path = self.root.join(folder);
        let before = self.items.len();
        for child in fs::read_dir(&path).map_err(|e| unreadable(&path, e))? {
            let child = child.map_err(|e| unreadable(&path, e))?;
            self.child(&folder.join(child.file_name()), verdict)?;
        }
        Ok(self.items.len() > before)
    }

    fn child(&mut self, name: &Path, folder: &Match) -> Result<()> {
        let bytes = name.as_os_str().as_bytes();
        let verdict = self.patterns.check(bytes, folder);
        let path = self.root.join(name);
        let metadata = fs::symlink_metadata(&path).map_err(|e| unreadable(&path, e))?;
        if metadata.is_dir() {
            let skipped = verdict.ignored && !self.patterns.may_take_back_inside(bytes);
            let kept = !skipped && self.folder(name, &verdict)?;
            if kept || !verdict.ignored {
                self.push(bytes, What::Folder);
            }
        } else if !verdict.ignored {
            let what = self.leaf(name, &path, &metadata)?;
            self.push(bytes, what);
        }
        Ok(())
    }

    fn push(&mut self, path: &[u8], what: What) {
        let path = path.to_owned();
        self.items.push(Item { path, what });
    }

    fn leaf(&self, name: &Path, path: &Path, metadata: &Metadata) -> Result<What> {
        if metadata.is_file() {
            return Ok(What::File {
                executable: metadata.mode() & 0o100 != 0,
                stamp: Stamp::of(metadata),
            });
        }
        if metadata.is_symlink() {
            let target = fs::read_link(path).map_err(|e| unreadable(path, e))?;
            links::stays_inside(self.root, name, &target).map_err(|why| {
                Error::input(format!("link {} cannot go into the image", name.display()))
                    .at(path.display())
                    .why(format!("it points to {}: {why}", target.display()))
                    .hint(
                        "copy what it points to into the folder, or list the link in .dockerignore",
                    )
            })?;
            return Ok(What::Link(target.into_os_string().as_bytes().to_owned()));
        }
        let kind = metadata.file_type();
        let kind = if kind.is_socket() {
            "a socket"
        } else if kind.is_fifo() {
            "a pipe"
        } else {
            "a device"
        };
        Err(
            Error::input(format!("{} cannot go into the image", name.display()))
                .at(path.display())
                .why(format!("it is {kind}"))
                .hint("remove it, or list it in .dockerignore"),
        )
    }
}

impl CodeTree {
    /// The number of files, folders and links.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is nothing in the folder, or everything is ignored.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The sum of the files' sizes in bytes.
    pub fn size(&self) -> u64 {
        let sizes = self.items.iter().map(|item| match &item.what {
            What::File { stamp, .. } => stamp.size,
            What::Folder | What::Link(_) => 0,
        });
        sizes.sum()
    }

    /// A digest of everything that reaches the layer's bytes but the place it goes to: paths,
    /// modes, contents, link targets and the modification time.
    ///
    /// # Errors
    /// When a file cannot be read, or changed since the walk.
    pub fn key(&self) -> Result<Digest> {
        let mut hasher = Sha256::new();
        hasher.update(b"imgbuild code 1\0");
        hasher.update(self.mtime.to_le_bytes());
        for item in &self.items {
            hasher.update((item.path.len() as u64).to_le_bytes());
            hasher.update(&item.path);
            match &item.what {
                What::Folder => hasher.update(b"d"),
                What::File { executable, stamp } => {
                    hasher.update(if *executable { b"x" } else { b"f" });
                    hasher.update(self.hash(item, stamp)?.bytes());
                }
                What::Link(target) => {
                    hasher.update(b"l");
                    hasher.update((target.len() as u64).to_le_bytes());
                    hasher.update(target);
                }
            }
        }
        Ok(Digest::from_bytes(hasher.finalize().into()))
    }

    fn hash(&self, item: &Item, stamp: &Stamp) -> Result<Digest> {
        let path = self.path(item);
        let read = || {
            let mut content = Content::open(&path, stamp)?;
            let mut hashing = Hashing::new(&mut content);
            io::copy(&mut hashing, &mut io::sink())?;
            let (_, digest, _) = hashing.finish();
            content.close()?;
            Ok(digest)
        };
        read().map_err(|e| unreadable(&path, e))
    }

    /// Writes the tree as entries below `dest`, an absolute path, which comes first itself;
    /// the folders above it are the caller's to write.
    ///
    /// # Errors
    /// When a file cannot be read, changed since the walk, or the sink refuses an entry. What
    /// the sink took by then must not be used.
    pub fn write(&self, dest: &str, sink: &mut dyn EntrySink) -> Result<()> {
        let dest = dest.trim_matches('/').as_bytes();
        let failed = |path: &Path, e| Error::io("pack", path, e);
        let folder = self.entry(dest.to_owned(), EntryKind::Directory, 0o755);
        sink.entry(&folder, &mut io::empty())
            .map_err(|e| failed(&self.root, e))?;
        for item in &self.items {
            let path = [dest, b"/", &item.path].concat();
            self.write_item(item, path, sink)
                .map_err(|e| failed(&self.path(item), e))?;
        }
        Ok(())
    }

    fn write_item(&self, item: &Item, path: Vec<u8>, sink: &mut dyn EntrySink) -> io::Result<()> {
        let (kind, mode) = match &item.what {
            What::Folder => (EntryKind::Directory, 0o755),
            What::Link(target) => (EntryKind::Symlink(target.clone()), 0o777),
            What::File { executable, stamp } => {
                let mode = if *executable { 0o755 } else { 0o644 };
                let entry = self.entry(path, EntryKind::File(stamp.size), mode);
                let mut content = Content::open(&self.path(item), stamp)?;
                sink.entry(&entry, &mut content)?;
                return content.close();
            }
        };
        sink.entry(&self.entry(path, kind, mode), &mut io::empty())
    }

    fn entry(&self, path: Vec<u8>, kind: EntryKind, mode: u32) -> Entry {
        Entry {
            path,
            kind,
            mode,
            mtime: self.mtime,
            owner: (0, 0),
        }
    }

    fn path(&self, item: &Item) -> PathBuf {
        self.root.join(OsStr::from_bytes(&item.path))
    }
}

/// A file's content: exactly as many bytes as the walk saw, or an error.
struct Content {
    file: File,
    stamp: Stamp,
    left: u64,
}

fn changed() -> io::Error {
    io::Error::other("the file changed while it was read; build again when nothing writes to it")
}

impl Content {
    fn open(path: &Path, stamp: &Stamp) -> io::Result<Self> {
        // Before opening, too: opening a pipe in the file's place would wait for ever.
        if Stamp::of(&fs::symlink_metadata(path)?) != *stamp {
            return Err(changed());
        }
        let file = File::open(path)?;
        if Stamp::of(&file.metadata()?) != *stamp {
            return Err(changed());
        }
        Ok(Self {
            file,
            stamp: *stamp,
            left: stamp.size,
        })
    }

    /// Ends the reading; an error when not everything was read, or the file is another by now.
    fn close(self) -> io::Result<()> {
        if self.left > 0 || Stamp::of(&self.file.metadata()?) != self.stamp {
            return Err(changed());
        }
        Ok(())
    }
}

impl Read for Content {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = buf
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let n = self.file.read(&mut buf[..most])?;
        if n == 0 {
            return Err(changed());
        }
        self.left -= n as u64;
        Ok(n)
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
