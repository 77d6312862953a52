//! Named files of an image on disk: a folder, or the members of one tar. Never unpacked by path.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Component, Path, PathBuf},
};

use super::manifest::MAX_DOCUMENT;
use crate::{
    digest::Digest,
    error::{Error, Result},
    report::{Activity, Reporter, Step, Task},
    store::Store,
};

/// A file's content and its size in bytes.
pub(super) type Opened<'a> = (Box<dyn Read + 'a>, u64);

/// Files by `/`-separated names.
pub(super) trait Files {
    /// Where the files are, for error messages.
    fn place(&self) -> String;

    /// Opens a file; nothing when there is none of that name.
    fn open(&self, name: &str) -> Result<Option<Opened<'_>>>;
}

/// A folder on disk.
pub(super) struct Folder(pub PathBuf);

impl Files for Folder {
    fn place(&self) -> String {
        self.0.display().to_string()
    }

    fn open(&self, name: &str) -> Result<Option<Opened<'_>>> {
        // Names are made of digests and constants; this keeps it so.
        let plain = |c| matches!(c, Component::Normal(_));
        if !Path::new(name).components().all(plain) {
            return Ok(None);
        }
        let path = self.0.join(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("open", &path, e)),
        };
        let size = file
            .metadata()
            .map_err(|e| Error::io("read", &path, e))?
            .len();
        Ok(Some((Box::new(file), size)))
    }
}

/// Reads a small file whole.
///
/// # Errors
/// When it is missing, too large for what it should be, or cannot be read.
pub(super) fn document(files: &dyn Files, name: &str) -> Result<Vec<u8>> {
    let missing = || Error::input(format!("no {name} there")).at(files.place());
    let (reader, size) = files.open(name)?.ok_or_else(missing)?;
    if size > MAX_DOCUMENT {
        return Err(Error::input(format!("{name} is too large: {size} bytes")).at(files.place()));
    }
    let mut bytes = Vec::new();
    reader
        .take(MAX_DOCUMENT)
        .read_to_end(&mut bytes)
        .map_err(|e| {
            Error::environment(format!("cannot read {name}"))
                .at(files.place())
                .why(e)
        })?;
    Ok(bytes)
}

/// A document named by its digest, checked.
///
/// # Errors
/// As [`document`], and when the bytes are others.
pub(super) fn blob_document(files: &dyn Files, digest: &Digest) -> Result<Vec<u8>> {
    let bytes = document(files, &blob_name(digest))?;
    let found = Digest::of(&bytes);
    if found != *digest {
        return Err(damaged(digest, &found, bytes.len() as u64).at(files.place()));
    }
    Ok(bytes)
}

/// Where an OCI layout keeps a blob (OCI image-spec, image-layout.md, "Blobs").
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Copies a file into the store under the digest that it must have, unless it is there.
///
/// # Errors
/// When the file is missing, of another size or another digest: nothing is kept then.
pub(super) fn import(
    files: &dyn Files,
    name: &str,
    expected: (&Digest, u64),
    store: &Store,
    reporter: &Reporter,
) -> Result<()> {
    let (digest, size) = expected;
    if store.has_blob(digest, size) {
        return Ok(());
    }
    let missing = || Error::input(format!("layer {digest} is not there")).at(files.place());
    let (reader, found) = files.open(name)?.ok_or_else(missing)?;
    if found != size {
        return Err(Error::input(format!(
            "layer {digest} has {found} bytes, and the manifest says {size}"
        ))
        .at(files.place()));
    }
    let mut writer = store.blob_writer_of(Some(size))?;
    let task = reporter.bytes(
        Activity::new(Step::Base, label(digest)).of(*digest),
        Some(size),
    );
    copy(reader, &mut writer, &task).map_err(|e| e.at(files.place()))?;
    match writer.finish_expecting(digest, |store| store.blob_path(digest))? {
        Ok(_) => Ok(()),
        Err((found, bytes)) => Err(damaged(digest, &found, bytes).at(files.place())),
    }
}

/// Copies to the end, counting bytes.
///
/// # Errors
/// When reading or writing fails.
pub(super) fn copy(mut from: impl Read, to: &mut impl Write, task: &Task) -> Result<u64> {
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0;
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Error::environment("cannot read the base image").why(e)),
        };
        to.write_all(&buffer[..n])
            .map_err(|e| Error::of_io("cannot write to the cache", e))?;
        task.add(n as u64);
        total += n as u64;
    }
}

/// The error for a blob whose bytes are not those of its digest.
pub(super) fn damaged(expected: &Digest, found: &Digest, size: u64) -> Error {
    Error::environment("a blob of the base image is damaged; it is not used")
        .why(format!("expected {expected}"))
        .why(format!("found    {found} ({size} bytes)"))
}

/// How a layer is called in progress: as `docker pull` does.
pub(super) fn label(digest: &Digest) -> String {
    format!("base layer {}", &digest.hex()[..12])
}
