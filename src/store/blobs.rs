//! Blobs and package archives, by digest.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use super::{Store, note_use};
use crate::{
    digest::{Digest, Hashing},
    error::{Error, Result},
    space::Watched,
};

/// Blobs are world-readable, as a registry's or a shared cache's are; tempfile makes 0600.
pub(super) const READABLE: u32 = 0o644;

impl Store {
    /// Where a blob lies, or would lie.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root().join("blobs/sha256").join(digest.hex())
    }

    /// Where a package archive lies, or would lie.
    pub fn package_path(&self, digest: &Digest) -> PathBuf {
        self.root().join("packages").join(digest.hex())
    }

    /// Where a wheel lies, or would lie.
    pub fn wheel_path(&self, digest: &Digest) -> PathBuf {
        self.root().join("wheels").join(digest.hex())
    }

    /// Whether the blob is here with this size; a file of another size does not count.
    pub fn has_blob(&self, digest: &Digest, size: u64) -> bool {
        fs::metadata(self.blob_path(digest)).is_ok_and(|meta| meta.len() == size)
    }

    /// Opens a blob for reading.
    ///
    /// # Errors
    /// When it is not here.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        let path = self.blob_path(digest);
        File::open(&path).map_err(|e| Error::io("open", &path, e))
    }

    /// Reads a small blob (a config or a manifest) and checks its digest.
    ///
    /// # Errors
    /// When it is not here, or its bytes are not those of the digest.
    pub fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.blob_path(digest);
        let bytes = fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        if Digest::of(&bytes) != *digest {
            return Err(Error::environment(format!("blob {digest} is damaged"))
                .at(path.display())
                .hint("delete that file and run the command again"));
        }
        Ok(bytes)
    }

    /// Stores bytes as a blob.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<(Digest, u64)> {
        let digest = Digest::of(bytes);
        let size = bytes.len() as u64;
        let path = self.blob_path(&digest);
        if !(self.has_blob(&digest, size) && note_use(&path)) {
            self.write_file(&path, bytes, READABLE)?;
        }
        Ok((digest, size))
    }

    /// A new temporary file that hashes what is written to it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn blob_writer(&self) -> Result<BlobWriter> {
        self.blob_writer_of(None)
    }

    /// As [`Store::blob_writer`] for a file whose size in bytes is known before.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn blob_writer_of(&self, size: Option<u64>) -> Result<BlobWriter> {
        let file = self.temp_file()?;
        let behind = WriteBehind::of(file.as_file());
        Ok(BlobWriter {
            out: Hashing::new(Watched::new(file, self.tmp_dir(), size)),
            behind: behind.map_err(|e| Error::io("write in", self.tmp_dir(), e))?,
            store: self.clone(),
        })
    }

    /// A new temporary file on the file system of the store; removed when dropped.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn temp_file(&self) -> Result<NamedTempFile> {
        let dir = self.tmp_dir();
        tempfile::Builder::new()
            .prefix(&format!("{}-", std::process::id()))
            .tempfile_in(&dir)
            .map_err(|e| Error::io("write in", &dir, e))
    }
}

/// Has the disk begin with what was written while more is to come: syncing then waits for the last
/// piece alone.
struct WriteBehind {
    file: File,
    written: u64,
    begun: u64,
}

impl WriteBehind {
    /// How much is written between two times that the disk is told to begin, in bytes.
    const PIECE: u64 = 16 << 20;

    fn of(file: &File) -> io::Result<Self> {
        Ok(Self {
            file: file.try_clone()?,
            written: 0,
            begun: 0,
        })
    }

    fn wrote(&mut self, bytes: u64) {
        self.written += bytes;
        let piece = self.written - self.begun;
        if piece >= Self::PIECE {
            begin(&self.file, self.begun, piece);
            self.begun = self.written;
        }
    }
}

/// Linux begins to write a range that is said not to be needed (mm/fadvise.c), and keeps it in
/// memory while it does. Where that fails, syncing does all of it.
#[cfg(target_os = "linux")]
fn begin(file: &File, offset: u64, bytes: u64) {
    use nix::fcntl::{PosixFadviseAdvice::POSIX_FADV_DONTNEED, posix_fadvise};
    if let (Ok(offset), Ok(bytes)) = (offset.try_into(), bytes.try_into()) {
        let _ = posix_fadvise(file, offset, bytes, POSIX_FADV_DONTNEED);
    }
}

#[cfg(not(target_os = "linux"))]
fn begin(_: &File, _: u64, _: u64) {}

/// A blob being written. Dropped unfinished, it leaves nothing.
pub struct BlobWriter {
    out: Hashing<Watched<NamedTempFile>>,
    behind: WriteBehind,
    store: Store,
}

impl Write for BlobWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = self.out.write(buf)?;
        self.behind.wrote(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl BlobWriter {
    /// Makes the file a blob under its digest, unless that is here; returns digest and size in bytes.
    ///
    /// # Errors
    /// When it cannot be synced or renamed.
    pub fn finish(self) -> Result<(Digest, u64)> {
        let store = self.store.clone();
        let (file, digest, size) = self.out.finish();
        let path = store.blob_path(&digest);
        // A file that is there was synced; one that went bad since is `verify`'s to find.
        if !(store.has_blob(&digest, size) && note_use(&path)) {
            persist(file.into_inner(), &path, READABLE)?;
        }
        Ok((digest, size))
    }

    /// As [`BlobWriter::finish`], but only if the bytes are those expected. Otherwise nothing is
    /// kept and the digest and size that were found are returned as `Err` of the inner result.
    ///
    /// # Errors
    /// When it cannot be synced or renamed.
    pub fn finish_expecting(
        self,
        expected: &Digest,
        place: impl FnOnce(&Store) -> PathBuf,
    ) -> Result<std::result::Result<u64, (Digest, u64)>> {
        let store = self.store.clone();
        let (file, digest, size) = self.out.finish();
        if digest != *expected {
            return Ok(Err((digest, size)));
        }
        persist(file.into_inner(), &place(&store), READABLE)?;
        Ok(Ok(size))
    }

    /// The sha256 of what was written so far.
    pub fn digest(&self) -> Digest {
        self.out.digest()
    }
}

/// Names a temporary file once its content is on the disk.
pub(super) fn persist(file: NamedTempFile, path: &Path, mode: u32) -> Result<()> {
    let synced = file.as_file().sync_all();
    synced.map_err(|e| Error::io("write", path, e))?;
    rename(file, path, mode)
}

pub(super) fn rename(file: NamedTempFile, path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let named = |e| Error::io("write", path, e);
    let permissions = fs::Permissions::from_mode(mode);
    file.as_file().set_permissions(permissions).map_err(named)?;
    file.persist(path).map_err(|e| named(e.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::no_forks_beside;

    #[test]
    fn a_blob_is_there_only_when_whole() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut writer = store.blob_writer().unwrap();
        writer.write_all(b"half").unwrap();
        drop(writer);
        assert_eq!(fs::read_dir(store.tmp_dir()).unwrap().count(), 0);

        let (digest, size) = store.put_blob(b"whole").unwrap();
        assert!(store.has_blob(&digest, size));
        assert!(!store.has_blob(&digest, size + 1));
        assert_eq!(store.read_blob(&digest).unwrap(), b"whole");
        fs::write(store.blob_path(&digest), b"other").unwrap();
        assert!(store.read_blob(&digest).is_err());
    }

    #[test]
    fn the_wrong_bytes_are_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut writer = store.blob_writer().unwrap();
        writer.write_all(b"evil").unwrap();
        let good = Digest::of(b"good");
        let found = writer
            .finish_expecting(&good, |store| store.package_path(&good))
            .unwrap();
        assert_eq!(found, Err((Digest::of(b"evil"), 4)));
        assert!(!store.package_path(&good).exists());
    }

    #[test]
    fn what_the_dead_left_is_swept_and_nothing_of_the_living() {
        let _forks = no_forks_beside();
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let file = store.tmp_dir().join("1-abc");
        let folder = store.tmp_dir().join("1-def");
        let lock = store.locks_dir().join("layer-abc");
        fs::write(&file, b"").unwrap();
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("file"), b"").unwrap();
        fs::write(&lock, b"").unwrap();
        Store::open(dir.path()).unwrap();
        assert!(file.exists() && folder.exists() && lock.exists());
        drop(store);
        Store::open(dir.path()).unwrap();
        assert!(!file.exists() && !folder.exists() && !lock.exists());
    }
}
