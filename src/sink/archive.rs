//! One tar: an OCI layout, or that plus `manifest.json`, which every Docker store loads.

use std::{
    io::{self, Write},
    path::Path,
};

use serde_json::json;
use tar::{Builder, EntryType, Header};

use super::{
    Contents, folder_of,
    layout::{LAYOUT, atomically, descriptors},
};
use crate::{
    digest::Digest,
    error::{Error, Result},
    image::{Image, Index},
    space::Watched,
    store::Store,
};

/// What an archive is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveKind {
    /// An OCI image layout.
    Oci,
    /// For `docker load` of every version: an OCI layout of uncompressed layers, for Docker 20.10
    /// reads no zstd, with Docker's `manifest.json`.
    Docker,
}

/// Writes an archive file; it appears under its name when it is whole.
///
/// # Errors
/// When the file cannot be written.
pub fn write_archive(
    image: &Image,
    names: &[String],
    kind: ArchiveKind,
    dest: &Path,
    store: &Store,
) -> Result<()> {
    let contents = match kind {
        ArchiveKind::Oci => Contents::stored(image),
        ArchiveKind::Docker => Contents::plain(image, store)?,
    };
    let mut failure = None;
    let size = contents.size();
    let written = atomically(dest, size, |file| {
        let file = Watched::new(file, folder_of(dest).to_owned(), Some(size));
        let mut out = io::BufWriter::with_capacity(1 << 20, file);
        match stream(&contents, names, kind, store, &mut out) {
            Ok(()) => out.flush(),
            Err(e) => {
                failure = Some(e);
                Err(io::Error::other("unfinished"))
            }
        }
    });
    failure.map_or(written, Err)
}

/// Writes an archive to any writer. The same contents give the same bytes.
///
/// # Errors
/// When a blob is missing or the writer fails.
pub fn stream(
    contents: &Contents,
    names: &[String],
    kind: ArchiveKind,
    store: &Store,
    out: &mut dyn Write,
) -> Result<()> {
    let failed = |e| Error::of_io("cannot write the image archive", e);
    let mut tar = Builder::new(out);
    directory(&mut tar, "blobs/").map_err(failed)?;
    directory(&mut tar, "blobs/sha256/").map_err(failed)?;
    for blob in contents.blobs() {
        file(
            &mut tar,
            &blob_name(&blob.digest),
            blob.size,
            blob.open(store)?,
        )
        .map_err(failed)?;
    }
    let image = contents.image();
    let documents = [
        (blob_name(&image.config_digest), image.config.clone()),
        (blob_name(&image.digest), image.manifest.clone()),
        ("oci-layout".into(), LAYOUT.to_vec()),
        (
            "index.json".into(),
            Index::new(descriptors(image, names)).to_bytes()?,
        ),
    ];
    let docker = (kind == ArchiveKind::Docker)
        .then(|| ("manifest.json".to_owned(), docker_manifest(image, names)));
    for (name, bytes) in documents.into_iter().chain(docker) {
        file(&mut tar, &name, bytes.len() as u64, &bytes[..]).map_err(failed)?;
    }
    tar.finish().map_err(failed)
}

/// Docker's own list of images in an archive (moby image-spec v1.2, "Combined Image JSON +
/// Filesystem Changeset Format").
fn docker_manifest(image: &Image, names: &[String]) -> Vec<u8> {
    let layers: Vec<String> = image.layers.iter().map(|l| blob_name(&l.digest)).collect();
    json!([{
        "Config": blob_name(&image.config_digest),
        "RepoTags": names,
        "Layers": layers,
    }])
    .to_string()
    .into_bytes()
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn header(size: u64, mode: u32, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn directory(tar: &mut Builder<&mut dyn Write>, name: &str) -> io::Result<()> {
    tar.append_data(
        &mut header(0, 0o755, EntryType::Directory),
        name,
        io::empty(),
    )
}

/// A content of another length than the header says would shift all that follows.
fn file(
    tar: &mut Builder<&mut dyn Write>,
    name: &str,
    size: u64,
    mut content: impl io::Read,
) -> io::Result<()> {
    let mut exact = io::Read::take(&mut content, size);
    tar.append_data(
        &mut header(size, 0o644, EntryType::Regular),
        name,
        &mut exact,
    )?;
    if exact.limit() > 0 || content.read(&mut [0])? > 0 {
        let why = format!("{name} is not of {size} bytes, as it was when it was made");
        return Err(io::Error::other(why));
    }
    Ok(())
}
