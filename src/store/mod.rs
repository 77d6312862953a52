//! The cache on disk: blobs by digest, packages, built layers by key, and named images.
//!
//! ```text
//! blobs/sha256/<hex>   layers, configs, manifests, by the sha256 of their bytes
//! packages/<hex>       package archives, by their sha256
//! wheels/<hex>         wheels, by their sha256
//! layers/<key>.json    LayerKey -> diff id, digest and size of a layer that was built
//! facts/<hex>.json     what a package archive says of itself, by its sha256
//! infos/<hex>.json     files of a `.tar.bz2` package's `info/`, by its sha256
//! aliases/md5/<hex>    the sha256 of a package archive, by its md5
//! surveys/<key>.json   what a set of packages means for an environment
//! images/<name>.json   image reference -> manifest descriptor
//! recipes/<hex>.json   what an image was made of, by the digest of its manifest
//! builds/<path>.json   environment file -> manifest descriptor of what was built of it last
//! bases/<name>.json    what a base image was when it was last loaded
//! pip/                 what uv keeps, and the stand-ins that it is given
//! pyc/<key>            compiled Python files of a package
//! pythons/<key>/       a Python that compiles them
//! repodata/            channel indexes, kept by the repodata gateway
//! tmp/                 files being written
//! lock, locks/         who uses the cache, and who is making what
//! ```
//!
//! A file appears under its name only when it is whole: it is written under `tmp/`, synced, and
//! renamed. A process killed at any moment leaves at most stray files in `tmp/` and `locks/`, which
//! the next one that finds itself alone removes. When something was last used is the time of its
//! record or, without one, its own: file systems do not keep access times.
//!
//! # After a power cut
//!
//! A record never names a blob that is not whole: the blob is synced before it is renamed, and
//! its folder before the record is written, for POSIX does not say that an older rename reaches
//! the disk first (ext4's and XFS's journals keep that order, btrfs's need not). Records
//! themselves are not synced but for the names of images, the one thing that a build promises: a
//! record that the cut left empty or short is no JSON, and counts as one that was never written.

mod blobs;
mod history;
mod lock;
mod prune;
mod pyc;
mod records;
mod size;
mod things;
mod verify;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

pub use blobs::BlobWriter;
pub use lock::{Alone, MadeOnce};
pub use prune::Policy;
pub use records::{BuiltLayer, StoredImage};
pub use size::parse_size;
pub use things::{Kind, Role, Thing};
pub use verify::{Damage, Verified};

use crate::error::{Error, Result};

const FOLDERS: [&str; 18] = [
    "blobs/sha256",
    "packages",
    "wheels",
    "facts",
    "infos",
    "aliases/md5",
    "layers",
    "surveys",
    "images",
    "recipes",
    "builds",
    "bases",
    "pip",
    "pyc",
    "pythons",
    "repodata",
    "locks",
    "tmp",
];

/// The cache folder, opened: nothing of it is removed until the last clone is dropped. Cheap to
/// clone.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    /// Holds this process's share of the lock.
    in_use: Arc<File>,
}

impl Store {
    /// Opens the cache, making its folders; waits while another process removes things from it.
    ///
    /// # Errors
    /// When the folder cannot be made, written or locked.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        Self::open_or_wait(root, || {})
    }

    /// As [`Store::open`]; calls `waiting` before it waits for long.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_or_wait(root: impl Into<PathBuf>, waiting: impl FnOnce()) -> Result<Self> {
        let root = root.into();
        for folder in FOLDERS {
            let path = root.join(folder);
            fs::create_dir_all(&path).map_err(|e| {
                Error::io("make the cache folder", &path, e)
                    .hint("set IMGBUILD_CACHE_DIR to a folder that can be written")
            })?;
        }
        let (lock, alone) = lock::enter(&root, waiting)?;
        let store = Self {
            root,
            in_use: Arc::new(lock),
        };
        if alone {
            store.sweep();
            lock::share(&store.in_use, || {}).map_err(|e| Error::io("lock", &store.root, e))?;
        }
        Ok(store)
    }

    /// The folder that a user's cache is in: `IMGBUILD_CACHE_DIR`, else the XDG cache folder
    /// (XDG Base Directory Specification, `$XDG_CACHE_HOME`).
    ///
    /// # Errors
    /// When neither is set and the user has no home.
    pub fn default_root() -> Result<PathBuf> {
        if let Some(dir) = std::env::var_os("IMGBUILD_CACHE_DIR").filter(|v| !v.is_empty()) {
            return Ok(dir.into());
        }
        directories::BaseDirs::new()
            .map(|dirs| dirs.cache_dir().join("imgbuild"))
            .ok_or_else(|| {
                Error::environment(
                    "no folder for the cache: neither HOME nor XDG_CACHE_HOME is set",
                )
                .hint("set IMGBUILD_CACHE_DIR")
            })
    }

    /// The root of the cache.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where channel indexes are kept.
    pub fn repodata_dir(&self) -> PathBuf {
        self.root.join("repodata")
    }

    /// Where uv's cache is, and the stand-ins that it is given.
    pub fn pip_dir(&self) -> PathBuf {
        self.root.join("pip")
    }

    /// Keeps a small file for uv under a name that says its content; returns its path.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_pip_file(&self, name: &str, bytes: &[u8], mode: u32) -> Result<PathBuf> {
        let path = self.pip_dir().join(name);
        if !note_use(&path) {
            self.write_file(&path, bytes, mode)?;
        }
        Ok(path)
    }

    /// Where files lie while they are written; on the same file system as the rest.
    pub fn tmp_dir(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Removes what killed processes left. Only for who holds the cache alone.
    fn sweep(&self) {
        let folders = [self.tmp_dir(), self.locks_dir()];
        for entry in folders.iter().flat_map(fs::read_dir).flatten().flatten() {
            // What cannot be removed stays for the next run.
            let _ = match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                true => fs::remove_dir_all(entry.path()),
                false => fs::remove_file(entry.path()),
            };
        }
    }

    fn write_file(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
        let file = self.temp_file()?;
        fs::write(file.path(), bytes).map_err(|e| Error::io("write", path, e))?;
        blobs::persist(file, path, mode)
    }

    /// Writes a file that may be lost in a power cut.
    fn write_record(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let file = self.temp_file()?;
        fs::write(file.path(), bytes).map_err(|e| Error::io("write", path, e))?;
        blobs::rename(file, path, blobs::READABLE)
    }
}

/// Notes that something is used; whether it is there.
pub(crate) fn note_use(path: &Path) -> bool {
    // Another user's file cannot be marked, and then ages.
    File::open(path)
        .map(|file| file.set_modified(SystemTime::now()))
        .is_ok()
}
