//! The cache on disk: blobs by digest, packages, built layers by key, and named images.
//!
//! ```text
//! blobs/sha256/<hex>   layers, configs, manifests, by the sha256 of their bytes
//! packages/<hex>       package archives, by their sha256
//! wheels/<hex>         wheels, by their sha256
//! layers/<key>.json    LayerKey -> diff id, digest and size of a layer that was built
//! facts/<hex>.json     what a package archive says of itself, by its sha256
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
//! ```
//!
//! A file appears under its name only when it is whole: it is written under `tmp/`, synced, and
//! renamed. A process killed at any moment leaves at most a stray file in `tmp/`, which the next
//! run removes when the process that wrote it is gone.

mod blobs;
mod history;
mod pyc;
mod records;

use std::{
    fs,
    path::{Path, PathBuf},
};

pub use blobs::BlobWriter;
pub use records::{BuiltLayer, StoredImage};

use crate::error::{Error, Result};

/// The cache folder, opened. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens the cache, making its folders.
    ///
    /// # Errors
    /// When the folder cannot be made or written.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let store = Self { root: root.into() };
        for folder in [
            "blobs/sha256",
            "packages",
            "wheels",
            "facts",
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
            "tmp",
        ] {
            let path = store.root.join(folder);
            fs::create_dir_all(&path).map_err(|e| {
                Error::io("make the cache folder", &path, e)
                    .hint("set IMGBUILD_CACHE_DIR to a folder that can be written")
            })?;
        }
        store.sweep_tmp();
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
        use std::io::Write;
        let path = self.pip_dir().join(name);
        if !path.exists() {
            let mut writer = self.blob_writer()?;
            writer
                .write_all(bytes)
                .map_err(|e| Error::io("write", &path, e))?;
            writer.finish_at(&path, mode)?;
        }
        Ok(path)
    }

    /// Where files lie while they are written; on the same file system as the rest.
    pub fn tmp_dir(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Removes what killed processes left: temporary files carry their writer's pid.
    fn sweep_tmp(&self) {
        let Ok(entries) = fs::read_dir(self.tmp_dir()) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let writer = name.to_str().and_then(|n| n.split_once('-')).map(|n| n.0);
            let alive = writer.is_some_and(|pid| Path::new("/proc").join(pid).exists());
            if !alive {
                // Another process may have swept it first.
                let _ = match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    true => fs::remove_dir_all(entry.path()),
                    false => fs::remove_file(entry.path()),
                };
            }
        }
    }

    fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        use std::io::Write;
        let mut writer = self.blob_writer()?;
        writer
            .write_all(bytes)
            .map_err(|e| Error::io("write", path, e))?;
        writer.finish_at(path, blobs::READABLE)
    }
}
