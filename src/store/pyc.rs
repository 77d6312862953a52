//! Compiled Python files of packages, and the Pythons that compile them.

use std::{
    fs::{self, File},
    io,
    path::PathBuf,
};

use nix::unistd::syncfs;
use tempfile::{NamedTempFile, TempDir};

use super::{
    Store,
    blobs::{READABLE, persist},
};
use crate::{
    digest::Digest,
    error::{Error, Result},
};

impl Store {
    /// Where the compiled files of a package lie, or would lie.
    pub fn pyc_path(&self, key: &Digest) -> PathBuf {
        self.root().join("pyc").join(key.hex())
    }

    /// Keeps the compiled files of a package; replaces those that were there.
    ///
    /// # Errors
    /// When the file cannot be synced or renamed.
    pub fn keep_pyc(&self, key: &Digest, file: NamedTempFile) -> Result<()> {
        persist(file, &self.pyc_path(key), READABLE)
    }

    /// Where an unpacked Python is, or would be.
    pub fn python_path(&self, key: &Digest) -> PathBuf {
        self.root().join("pythons").join(key.hex())
    }

    /// Makes a folder from [`Store::temp_dir`] the Python of that key. Where another process was
    /// first, its folder stays.
    ///
    /// # Errors
    /// When it cannot be synced or renamed.
    pub fn keep_python(&self, key: &Digest, made: TempDir) -> Result<()> {
        let path = self.python_path(key);
        // Thousands of small files: one sync of all is far cheaper than one of each.
        let synced = File::open(made.path()).and_then(|folder| Ok(syncfs(folder)?));
        synced.map_err(|e| Error::io("sync", made.path(), e))?;
        match fs::rename(made.path(), &path) {
            Ok(()) => {
                let _ = made.keep();
                Ok(())
            }
            Err(e) if is_taken(&e) => Ok(()),
            Err(e) => Err(Error::io("write", &path, e)),
        }
    }

    /// Takes a Python away that does not run, so that it is made anew.
    ///
    /// # Errors
    /// When the folder cannot be moved.
    pub fn drop_python(&self, key: &Digest) -> Result<()> {
        let path = self.python_path(key);
        let away = self.temp_dir()?;
        match fs::rename(&path, away.path()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &path, e)),
            _ => Ok(()),
        }
    }

    /// A new folder on the file system of the store; removed when dropped.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn temp_dir(&self) -> Result<TempDir> {
        let dir = self.tmp_dir();
        tempfile::Builder::new()
            .prefix(&format!("{}-", std::process::id()))
            .tempdir_in(&dir)
            .map_err(|e| Error::io("write in", &dir, e))
    }
}

fn is_taken(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_python_stays_and_a_broken_one_goes() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let key = Digest::of(b"python");
        for text in ["first", "second"] {
            let made = store.temp_dir().unwrap();
            fs::write(made.path().join("file"), text).unwrap();
            store.keep_python(&key, made).unwrap();
        }
        let file = store.python_path(&key).join("file");
        assert_eq!(fs::read_to_string(file).unwrap(), "first");
        store.drop_python(&key).unwrap();
        store.drop_python(&key).unwrap();
        assert!(!store.python_path(&key).exists());
        assert_eq!(fs::read_dir(store.tmp_dir()).unwrap().count(), 0);
    }
}
