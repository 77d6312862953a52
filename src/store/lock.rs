//! Who uses the cache, and who is making what.
//!
//! All locks are advisory ones of whole files (flock(2)): the kernel lets go of them when their
//! holder ends, however it ends. There are three ranks:
//!
//! 1. `lock`: shared by every process that has the store open. Who removes things holds it alone,
//!    so nothing is removed that a running build uses.
//! 2. `locks/layer-*`: a thread holds one while it makes that layer.
//! 3. `locks/download-*`: a task holds one while it downloads that file.
//!
//! # Why they cannot deadlock
//!
//! Who waits for a lock holds only locks of lower rank, so no circle of waiting processes closes:
//!
//! * `lock` is taken first, while nothing else is held. [`Store::try_alone`] never waits, and
//!   [`Store::alone`] lets its share go before it does.
//! * A thread makes one layer at a time, so it never waits for a layer while it holds another: two
//!   builds may make the same layers in any order on any number of threads. It may download while
//!   it holds a layer (the Python that compiles), which is a step up.
//! * The holder of a download waits for nothing of another process but its bytes. A process holds
//!   several at once, but each belongs to a task of its own; a task that waits holds none, and
//!   does not keep its thread from driving the others.
//!
//! The last point is a duty of callers: a task that holds a download must go on without the thread
//! that makes a layer, or a layer that waits here for another build could stop a download that the
//! other build waits for.
//!
//! Lock files go with their holder: it removes the file and then lets go. Who opened the file just
//! before finds another file, or none, under the name and starts over. What killed holders left is
//! removed by the next process that finds itself alone.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::Store;
use crate::{
    digest::Digest,
    error::{Error, Result},
};

/// How long another process may sweep or trim before it is worth a line.
const PATIENCE: u32 = 20;
const PAUSE: Duration = Duration::from_millis(25);

/// The right to make something that no other process makes meanwhile; ends when dropped.
#[derive(Debug)]
#[must_use]
pub struct MadeOnce {
    // Closing it lets go of the lock, after `drop` has removed the file.
    _file: File,
    path: PathBuf,
}

impl Drop for MadeOnce {
    fn drop(&mut self) {
        // A file that stays is swept later.
        let _ = fs::remove_file(&self.path);
    }
}

/// Proof that no other process uses the cache, and none begins to; ends when dropped.
#[derive(Debug)]
pub struct Alone<'a> {
    pub(super) store: &'a Store,
}

impl Alone<'_> {
    /// The store that nothing else uses.
    pub fn store(&self) -> &Store {
        self.store
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        // It has the lock already, so this cannot wait; a failure leaves it with more than a share.
        let _ = self.store.in_use.lock_shared();
    }
}

impl Store {
    /// Holds the layer of a key until the result is dropped. Waits while another holder makes it,
    /// and calls `waiting` before; look for the layer again afterwards.
    ///
    /// # Errors
    /// When the lock cannot be made.
    pub fn lock_layer(&self, key: &Digest, waiting: impl FnOnce()) -> Result<MadeOnce> {
        let path = self.lock_path("layer", &key.hex());
        if let Some(held) = try_hold(&path)? {
            return Ok(held);
        }
        waiting();
        loop {
            let file = open(&path)?;
            wait(|| file.lock()).map_err(|e| unlockable(&path, e))?;
            if is_at(&file, &path) {
                return Ok(MadeOnce { _file: file, path });
            }
        }
    }

    /// As [`Store::lock_layer`] for a file to download, by the hash that it must have; only this
    /// task waits.
    ///
    /// # Errors
    /// When the lock cannot be made.
    pub async fn lock_download(&self, hash: &str, waiting: impl FnOnce()) -> Result<MadeOnce> {
        let path = self.lock_path("download", hash);
        let mut waiting = Some(waiting);
        loop {
            if let Some(held) = try_hold(&path)? {
                return Ok(held);
            }
            if let Some(waiting) = waiting.take() {
                waiting();
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Holds the cache alone, if no other process uses it. The caller's own share is given up for
    /// a moment: it must not be using anything.
    ///
    /// # Errors
    /// When the file system has no locks.
    pub fn try_alone(&self) -> Result<Option<Alone<'_>>> {
        let path = lock_file(&self.root);
        match self.in_use.try_lock() {
            Ok(()) => Ok(Some(Alone { store: self })),
            Err(TryLockError::WouldBlock) => {
                // The attempt cost the share (flock(2): conversion is not atomic).
                wait(|| self.in_use.lock_shared()).map_err(|e| unlockable(&path, e))?;
                Ok(None)
            }
            Err(TryLockError::Error(e)) => Err(unlockable(&path, e)),
        }
    }

    /// As [`Store::try_alone`], but waits until no other process uses the cache, and calls
    /// `waiting` before.
    ///
    /// # Errors
    /// When the file system has no locks.
    pub fn alone(&self, waiting: impl FnOnce()) -> Result<Alone<'_>> {
        if let Some(alone) = self.try_alone()? {
            return Ok(alone);
        }
        waiting();
        wait(|| self.in_use.lock()).map_err(|e| unlockable(&lock_file(&self.root), e))?;
        Ok(Alone { store: self })
    }

    fn lock_path(&self, kind: &str, name: &str) -> PathBuf {
        self.locks_dir().join(format!("{kind}-{name}"))
    }

    pub(super) fn locks_dir(&self) -> PathBuf {
        self.root.join("locks")
    }
}

/// Takes a share of the cache. Whether no other process has one is given back too: then it is
/// still held alone, and the caller gives that up with [`share`].
pub(super) fn enter(root: &Path, waiting: impl FnOnce()) -> Result<(File, bool)> {
    let path = lock_file(root);
    let file = open(&path)?;
    match file.try_lock() {
        Ok(()) => return Ok((file, true)),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(e)) => return Err(unlockable(&path, e)),
    }
    share(&file, waiting).map_err(|e| unlockable(&path, e))?;
    Ok((file, false))
}

/// Waits for a share; calls `waiting` when it takes longer than a sweep does.
pub(super) fn share(file: &File, waiting: impl FnOnce()) -> io::Result<()> {
    for _ in 0..PATIENCE {
        match file.try_lock_shared() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            Err(TryLockError::Error(e)) => return Err(e),
        }
    }
    waiting();
    wait(|| file.lock_shared())
}

fn lock_file(root: &Path) -> PathBuf {
    root.join("lock")
}

fn try_hold(path: &Path) -> Result<Option<MadeOnce>> {
    loop {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) if is_at(&file, path) => {
                return Ok(Some(MadeOnce {
                    _file: file,
                    path: path.to_owned(),
                }));
            }
            // Its last holder removed it meanwhile.
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(unlockable(path, e)),
        }
    }
}

fn open(path: &Path) -> Result<File> {
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|e| Error::io("open", path, e))
}

fn is_at(file: &File, path: &Path) -> bool {
    let place = |meta: fs::Metadata| (meta.dev(), meta.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(held), Ok(named)) => place(held) == place(named),
        _ => false,
    }
}

/// A signal whose handler returns ends a wait for a lock early.
fn wait(lock: impl Fn() -> io::Result<()>) -> io::Result<()> {
    loop {
        match lock() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

fn unlockable(path: &Path, e: io::Error) -> Error {
    Error::io("lock", path, e)
        .hint("the cache needs a file system with locks: set IMGBUILD_CACHE_DIR to a local disk")
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, AtomicUsize, Ordering},
        thread,
    };

    use super::*;
    use crate::testing::no_forks_beside;

    #[test]
    fn one_at_a_time_and_no_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let key = Digest::of(b"key");
        let (inside, done) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _held = store.lock_layer(&key, || {}).unwrap();
                        assert!(!inside.swap(true, Ordering::SeqCst), "two at a time");
                        thread::yield_now();
                        inside.store(false, Ordering::SeqCst);
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(done.into_inner(), 400);
        assert_eq!(fs::read_dir(store.locks_dir()).unwrap().count(), 0);
    }

    #[test]
    fn alone_is_alone() {
        let _forks = no_forks_beside();
        let dir = tempfile::tempdir().unwrap();
        let first = Store::open(dir.path()).unwrap();
        let alone = first.try_alone().unwrap().unwrap();
        let (opened, told) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            let second = scope.spawn(|| {
                let waiting = || told.store(true, Ordering::SeqCst);
                let store = Store::open_or_wait(dir.path(), waiting).unwrap();
                opened.store(true, Ordering::SeqCst);
                store
            });
            while !told.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            assert!(!opened.load(Ordering::SeqCst));
            drop(alone);
            let second = second.join().unwrap();
            assert!(first.try_alone().unwrap().is_none());
            assert!(second.try_alone().unwrap().is_none());
            drop(second);
            assert!(first.try_alone().unwrap().is_some());
        });
    }
}
