//! What the fuzz targets share: files for parsers that read files.

use std::{io::Write, path::Path, sync::LazyLock};

use imgbuild::{report::Reporter, store::Store};
use tempfile::{NamedTempFile, TempDir};

/// Calls `read` with a file of these bytes, whose name ends so.
pub fn with_file(data: &[u8], suffix: &str, read: impl FnOnce(&Path)) {
    let mut file = NamedTempFile::with_suffix(suffix).expect("a temporary file");
    file.write_all(data).expect("room for a temporary file");
    read(file.path());
}

/// A cache that all inputs of a run share.
pub fn store() -> &'static Store {
    static STORE: LazyLock<(TempDir, Store)> = LazyLock::new(|| {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(dir.path()).expect("a cache");
        (dir, store)
    });
    &STORE.1
}

/// Progress that nobody reads.
pub fn reporter() -> Reporter {
    Reporter::stderr(true)
}
