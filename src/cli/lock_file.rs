//! The lock beside an environment file: read, and written whole.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    lock::{self, Locks},
};

/// `env.yml` -> `env.lock.yml`, beside it.
pub(super) fn path_for(env: &Path) -> PathBuf {
    env.with_extension("lock.yml")
}

/// The locks, if there are any.
pub(super) fn read(path: &Path) -> Result<Option<Locks>> {
    match fs::read_to_string(path) {
        Ok(text) => parse(&text, path).map(Some),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", path, e)),
    }
}

/// Writes the locks, unless the file says the same; what is returned is what the file says, so that
/// a build gives the same digest with and without it.
pub(super) fn save(path: &Path, locks: &Locks) -> Result<Locks> {
    let text = lock::render(locks, &folder(path)?)?;
    if fs::read_to_string(path).ok().as_deref() != Some(&text) {
        write_whole(path, text.as_bytes()).map_err(|e| Error::io("write", path, e))?;
    }
    parse(&text, path)
}

/// Writes beside the file and renames: a build that is killed must not leave half a lock.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let mut file = tempfile::Builder::new()
        .prefix(".env.lock.")
        .permissions(fs::Permissions::from_mode(0o666)) // less the umask
        .tempfile_in(dir.unwrap_or(Path::new(".")))?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

fn parse(text: &str, path: &Path) -> Result<Locks> {
    let name = path.display().to_string();
    lock::parse_all(text, &name, &folder(path)?)
}

fn folder(path: &Path) -> Result<PathBuf> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = dir.unwrap_or(Path::new("."));
    // As env.yml's paths are resolved: symlinks stay.
    std::path::absolute(dir).map_err(|e| Error::io("open", dir, e))
}
