//! A disk that is full: which folder, how much room is there, how much is needed, the way out.

use std::{
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
};

use crate::{error::Error, report::human_bytes};

const WAY_OUT: &str = "`imgbuild cache prune` makes room in the cache; IMGBUILD_CACHE_DIR puts \
                       the cache on another disk";

/// What was written when the room ended, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Written so far.
    pub written: u64,
    /// The whole, where that is known.
    pub total: Option<u64>,
}

/// Whether an error says that there is no more room: on the disk, or in the user's quota.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

/// [`full`]'s error for a write below `path`, where any source of `error` says so.
pub fn full_in(error: &(dyn std::error::Error + 'static), path: &Path) -> Option<Error> {
    let sources = std::iter::successors(Some(error), |error| error.source());
    let mut sources = sources.filter_map(|error| error.downcast_ref::<io::Error>());
    let found = sources.find(|error| is_full(error))?;
    Some(full(path, found.kind(), None))
}

/// The error for a write at `path` that found no room. How much is needed is not known but for
/// files whose size is.
pub fn full(path: &Path, kind: ErrorKind, progress: Option<Progress>) -> Error {
    let folder = path.ancestors().find(|path| path.is_dir());
    let folder = folder.unwrap_or(path);
    let mut error = match kind {
        ErrorKind::QuotaExceeded => Error::environment(format!(
            "your disk quota for {} is used up",
            folder.display()
        )),
        _ => Error::environment(format!("no space left in {}", folder.display())),
    };
    if folder != path {
        error = error.at(path.display());
    }
    // A quota may end long before the disk does.
    if let Some(room) = room(folder).filter(|_| kind != ErrorKind::QuotaExceeded) {
        error = error.why(format!("{} are free there", human_bytes(room)));
    }
    if let Some(Progress { written, total }) = progress {
        let written = human_bytes(written);
        error = error.why(match total {
            Some(total) => format!("{} are needed, {written} were written", human_bytes(total)),
            None => format!("{written} were written, and there was more to come"),
        });
    }
    error.hint(WAY_OUT)
}

/// An I/O error that carries [`full`]'s where there is no more room at `path`, for those who can
/// only give an [`io::Error`]: [`Error::io`] and [`Error::of_io`] take it out again.
pub fn explained(error: io::Error, path: &Path, progress: Option<Progress>) -> io::Error {
    let is_explained = error.get_ref().is_some_and(|inner| inner.is::<Error>());
    match is_full(&error) && !is_explained {
        true => io::Error::new(error.kind(), full(path, error.kind(), progress)),
        false => error,
    }
}

/// The bytes that an ordinary user may still write in a folder.
fn room(folder: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(folder).ok()?;
    Some(stat.blocks_available() * stat.fragment_size())
}

/// A writer whose errors are [`explained`].
#[derive(Debug)]
pub struct Watched<W> {
    inner: W,
    folder: PathBuf,
    progress: Progress,
}

impl<W> Watched<W> {
    /// Watches a writer to a file in `folder` that will have `total` bytes, where that is known.
    pub fn new(inner: W, folder: PathBuf, total: Option<u64>) -> Self {
        let progress = Progress { written: 0, total };
        Self {
            inner,
            folder,
            progress,
        }
    }

    /// The writer.
    pub fn into_inner(self) -> W {
        self.inner
    }

    fn explain(&self, error: io::Error) -> io::Error {
        explained(error, &self.folder, Some(self.progress))
    }
}

impl<W: Write> Write for Watched<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buf).map_err(|e| self.explain(e))?;
        self.progress.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush().map_err(|e| self.explain(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Small(usize);

    impl Write for Small {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            let n = buf.len().min(self.0);
            self.0 -= n;
            match n {
                0 => Err(ErrorKind::StorageFull.into()),
                n => Ok(n),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_message_goes_through_and_counts() {
        let dir = tempfile::tempdir().unwrap();
        for (total, words) in [
            (Some(9000), "9.0 kB are needed, 1.0 kB were written"),
            (None, "1.0 kB were written, and there was more"),
        ] {
            let mut writer = Watched::new(Small(1000), dir.path().to_owned(), total);
            let source = writer.write_all(&[0; 4096]).unwrap_err();
            let text = Error::io("write", "/elsewhere/file", source).to_string();
            let place = format!("no space left in {}", dir.path().display());
            assert!(text.starts_with(&place), "{text}");
            assert!(text.contains(words) && text.contains(" are free"), "{text}");
            assert!(text.contains("hint: `imgbuild cache prune`"), "{text}");
        }
        let plain = io::Error::from(ErrorKind::QuotaExceeded);
        let file = dir.path().join("no/such/file");
        let text = Error::io("write", &file, plain).to_string();
        let start = format!("your disk quota for {} is", dir.path().display());
        assert!(text.starts_with(&start), "{text}");
        assert!(text.contains(file.to_str().unwrap()), "{text}");
        let other = Error::io("write", &file, ErrorKind::NotFound.into()).to_string();
        assert!(other.starts_with("cannot write "), "{other}");
    }
}
