//! One tar: an OCI layout, or that plus `manifest.json`, which every Docker store loads.

use std::{
    io::{self, Write},
    path::Path,
};

use serde_json::json;
use tar::{Builder, EntryType, Header};

use super::{
    folder_of,
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
    /// For `docker load` of every version: an OCI layout with Docker's `manifest.json`.
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
    let mut failure = None;
    let written = atomically(dest, archive_size(image), |file| {
        let size = Some(archive_size(image));
        let file = Watched::new(file, folder_of(dest).to_owned(), size);
        let mut out = io::BufWriter::with_capacity(1 << 20, file);
        match stream(image, names, kind, store, &mut out) {
            Ok(()) => out.flush(),
            Err(e) => {
                failure = Some(e);
                Err(io::Error::other("unfinished"))
            }
        }
    });
    failure.map_or(written, Err)
}

/// The size of the blobs that an archive holds, in bytes; for progress.
pub fn archive_size(image: &Image) -> u64 {
    image.layers.iter().map(|layer| layer.size).sum()
}

/// Writes an archive to any writer. The same image gives the same bytes.
///
/// # Errors
/// When a blob is missing or the writer fails.
pub fn stream(
    image: &Image,
    names: &[String],
    kind: ArchiveKind,
    store: &Store,
    out: &mut dyn Write,
) -> Result<()> {
    let failed = |e| Error::of_io("cannot write the image archive", e);
    let mut tar = Builder::new(out);
    directory(&mut tar, "blobs/").map_err(failed)?;
    directory(&mut tar, "blobs/sha256/").map_err(failed)?;
    let mut done = std::collections::BTreeSet::new();
    for layer in &image.layers {
        if done.insert(layer.digest) {
            let blob = store.open_blob(&layer.digest)?;
            file(&mut tar, &blob_name(&layer.digest), layer.size, blob).map_err(failed)?;
        }
    }
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

fn file(
    tar: &mut Builder<&mut dyn Write>,
    name: &str,
    size: u64,
    content: impl io::Read,
) -> io::Result<()> {
    tar.append_data(
        &mut header(size, 0o644, EntryType::Regular),
        name,
        content.take(size),
    )
}
