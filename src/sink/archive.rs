//! One tar: an OCI layout, or that plus `manifest.json`, which every Docker store loads.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    path::Path,
    slice,
};

use serde_json::json;
use tar::{Builder, EntryType, Header};

use super::{
    Contents, Outgoing,
    contents::Blob,
    folder_of,
    layout::{LAYOUT, atomically, descriptors},
};
use crate::{
    digest::Digest,
    error::{Error, Result},
    image::{Document, Image, Index},
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
    outgoing: &Outgoing<'_>,
    kind: ArchiveKind,
    dest: &Path,
    store: &Store,
) -> Result<()> {
    let images = outgoing.set.images().iter();
    let contents = images.map(|image| match kind {
        ArchiveKind::Oci => Contents::stored(image),
        ArchiveKind::Docker => Contents::plain(image, store),
    });
    let contents = contents.collect::<Result<Vec<_>>>()?;
    let parts = Parts {
        contents: &contents,
        beside: match kind {
            ArchiveKind::Oci => outgoing.statements().collect(),
            ArchiveKind::Docker => Vec::new(),
        },
        top: outgoing.top().filter(|_| kind == ArchiveKind::Oci),
        names: outgoing.names,
    };
    let mut failure = None;
    let size = parts.blobs().iter().map(|blob| blob.size).sum();
    let written = atomically(dest, size, |file| {
        let file = Watched::new(file, folder_of(dest).to_owned(), Some(size));
        let mut out = io::BufWriter::with_capacity(1 << 20, file);
        let written =
            Archive::begin(store, &mut out).and_then(|archive| parts.write(kind, archive));
        match written {
            Ok(()) => out.flush(),
            Err(e) => {
                failure = Some(e);
                Err(io::Error::other("unfinished"))
            }
        }
    });
    failure.map_or(written, Err)
}

/// An archive that is written layer by layer, to any writer.
pub struct Archive<'a> {
    tar: Builder<&'a mut dyn Write>,
    store: &'a Store,
    written: BTreeSet<Digest>,
}

impl<'a> Archive<'a> {
    /// Begins one.
    ///
    /// # Errors
    /// When the writer fails.
    pub fn begin(store: &'a Store, out: &'a mut dyn Write) -> Result<Self> {
        let mut tar = Builder::new(out);
        for folder in ["blobs/", "blobs/sha256/"] {
            directory(&mut tar, folder).map_err(failed)?;
        }
        Ok(Self {
            tar,
            store,
            written: BTreeSet::new(),
        })
    }

    /// Writes a layer, unless it is there.
    ///
    /// # Errors
    /// When the blob is missing or the writer fails.
    pub fn layer(&mut self, blob: &Blob) -> Result<()> {
        if !self.written.insert(blob.digest) {
            return Ok(());
        }
        let (name, content) = (blob_name(&blob.digest), blob.open(self.store)?);
        file(&mut self.tar, &name, blob.size, content).map_err(failed)
    }

    /// Gives what was written on to where it goes.
    ///
    /// # Errors
    /// When the writer fails.
    pub fn flush(&mut self) -> Result<()> {
        self.tar.get_mut().flush().map_err(failed)
    }

    /// Writes the other layers, and then for Docker what they are together. The same layers in the
    /// same order give the same bytes.
    ///
    /// # Errors
    /// As [`Archive::layer`].
    pub fn end(self, contents: &Contents, names: &[String]) -> Result<()> {
        let parts = Parts {
            contents: slice::from_ref(contents),
            beside: Vec::new(),
            top: None,
            names,
        };
        parts.write(ArchiveKind::Docker, self)
    }
}

fn failed(e: io::Error) -> Error {
    Error::of_io("cannot write the image archive", e)
}

/// What goes into an archive.
struct Parts<'a> {
    contents: &'a [Contents],
    /// What is said of them: blobs and manifests.
    beside: Vec<&'a [u8]>,
    /// The index over them, where there is one.
    top: Option<&'a Document>,
    names: &'a [String],
}

impl Parts<'_> {
    fn write(&self, kind: ArchiveKind, mut archive: Archive<'_>) -> Result<()> {
        for blob in self.blobs() {
            archive.layer(&blob)?;
        }
        let mut tar = archive.tar;
        for (name, bytes) in self.documents(kind)? {
            file(&mut tar, &name, bytes.len() as u64, &bytes[..]).map_err(failed)?;
        }
        tar.finish().map_err(failed)
    }

    /// The layers, each once: images share those of their noarch packages and code.
    fn blobs(&self) -> Vec<Blob> {
        let mut seen = BTreeSet::new();
        let blobs = self.contents.iter().flat_map(Contents::blobs);
        blobs.filter(|blob| seen.insert(blob.digest)).collect()
    }

    fn documents(&self, kind: ArchiveKind) -> Result<Vec<(String, Vec<u8>)>> {
        let (mut files, mut top) = (Vec::new(), Vec::new());
        for contents in self.contents {
            let image = contents.image();
            files.push((blob_name(&image.config_digest), image.config.clone()));
            files.push((blob_name(&image.digest), image.manifest.clone()));
            top = descriptors(&Document::of_image(image), self.names);
        }
        for bytes in &self.beside {
            files.push((blob_name(&Digest::of(bytes)), bytes.to_vec()));
        }
        if let Some(index) = self.top {
            files.push((blob_name(&index.digest), index.bytes.clone()));
            top = descriptors(index, self.names);
        }
        files.push(("oci-layout".into(), LAYOUT.to_vec()));
        files.push(("index.json".into(), Index::new(top).to_bytes()?));
        if kind == ArchiveKind::Docker {
            let images = self.contents.iter().map(Contents::image);
            files.push(("manifest.json".into(), docker_manifest(images, self.names)));
        }
        Ok(files)
    }
}

/// Docker's own list of images in an archive (moby image-spec v1.2, "Combined Image JSON +
/// Filesystem Changeset Format").
fn docker_manifest<'a>(images: impl Iterator<Item = &'a Image>, names: &[String]) -> Vec<u8> {
    let entry = |image: &Image| {
        let layers: Vec<String> = image.layers.iter().map(|l| blob_name(&l.digest)).collect();
        json!({
            "Config": blob_name(&image.config_digest),
            "RepoTags": names,
            "Layers": layers,
        })
    };
    let list: Vec<_> = images.map(entry).collect();
    json!(list).to_string().into_bytes()
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
