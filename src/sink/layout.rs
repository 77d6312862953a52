//! An OCI image layout folder (OCI image-spec, image-layout.md).

use std::{fs, io::Write, path::Path};

use super::Outgoing;
use crate::{
    digest::Digest,
    error::{Error, Result},
    image::{Descriptor, Document, Index},
    reference,
    space::{Progress, explained},
    store::Store,
};

pub(super) const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// Under this annotation a layout keeps a tag (OCI image-spec, annotations.md).
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Under this one containerd, and Docker over it, look for the whole name, registry included
/// (containerd, core/images/annotations.go).
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Writes images into a layout folder, made if it is missing. Images that are there stay,
/// but for those of the same name. Blobs come first, `index.json` last. See [`super::Output::check`].
///
/// # Errors
/// When the folder cannot be written.
pub fn write_layout(outgoing: &Outgoing<'_>, dest: &Path, store: &Store) -> Result<()> {
    let folder =
        |path: &Path| fs::create_dir_all(path).map_err(|e| Error::io("make the folder", path, e));
    folder(dest)?;
    // First of all: what a killed build or a full disk leaves can be gone on with.
    put(&dest.join("oci-layout"), LAYOUT)?;
    let blobs = dest.join("blobs/sha256");
    folder(&blobs)?;
    for image in outgoing.set.images() {
        for layer in &image.layers {
            copy_blob(store, &layer.digest, layer.size, &blobs)?;
        }
        for bytes in [&image.config, &image.manifest] {
            put(&blobs.join(Digest::of(bytes).hex()), bytes)?;
        }
    }
    let top = outgoing.top().map(|top| top.bytes.as_slice());
    for bytes in outgoing.statements().chain(top) {
        put(&blobs.join(Digest::of(bytes).hex()), bytes)?;
    }
    let index = updated_index(&dest.join("index.json"), outgoing)?;
    put(&dest.join("index.json"), &index.to_bytes()?)
}

pub(super) fn refuse_foreign(dest: &Path) -> Result<()> {
    let other = |why| {
        Err(
            Error::input(format!("{} is not an OCI layout folder", dest.display()))
                .why(why)
                .hint("choose an empty or a new folder"),
        )
    };
    if dest.is_file() {
        return other("it is a file");
    }
    let empty = fs::read_dir(dest).map_or(true, |mut entries| entries.next().is_none());
    if empty || dest.join("oci-layout").exists() {
        Ok(())
    } else {
        other("it holds other files")
    }
}

/// The entries of `index.json`.
pub(super) fn top_entries(outgoing: &Outgoing<'_>) -> Vec<Descriptor> {
    let image = outgoing.set.single().map(Document::of_image);
    let top = outgoing.top().or(image.as_ref());
    top.map(|top| descriptors(top, outgoing.names))
        .unwrap_or_default()
}

/// The descriptors of a manifest or an index: one a name, or one without.
pub(super) fn descriptors(document: &Document, names: &[String]) -> Vec<Descriptor> {
    let plain = document.descriptor();
    if names.is_empty() {
        return vec![plain];
    }
    let named = |name: &String| {
        let whole = reference::parse(name).map(|reference| reference.whole());
        let whole = whole.map(|whole| (CONTAINERD_NAME.to_owned(), whole));
        let short = (REF_NAME.to_owned(), name.clone());
        Descriptor {
            annotations: whole.into_iter().chain([short]).collect(),
            ..plain.clone()
        }
    };
    names.iter().map(named).collect()
}

fn updated_index(path: &Path, outgoing: &Outgoing<'_>) -> Result<Index> {
    let (new, names) = (top_entries(outgoing), outgoing.names);
    let mut kept: Vec<Descriptor> = match fs::read(path) {
        Ok(bytes) => {
            let index: Index = serde_json::from_slice(&bytes).map_err(|e| {
                Error::input(format!("{} is not an OCI index", path.display()))
                    .why(e)
                    .hint("choose an empty or a new folder")
            })?;
            index.manifests
        }
        Err(_) => Vec::new(),
    };
    kept.retain(|old| match old.annotations.get(REF_NAME) {
        Some(name) => !names.contains(name),
        None => new.iter().all(|new| old.digest != new.digest),
    });
    kept.extend(new);
    Ok(Index::new(kept))
}

fn copy_blob(store: &Store, digest: &Digest, size: u64, blobs: &Path) -> Result<()> {
    let dest = blobs.join(digest.hex());
    if fs::metadata(&dest).is_ok_and(|meta| meta.len() == size) {
        return Ok(());
    }
    // A copy and not a hard link: who edits the output must not edit the cache.
    let mut from = store.open_blob(digest)?;
    atomically(&dest, size, |file| {
        std::io::copy(&mut from, file).map(|_| ())
    })
}

fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    atomically(path, bytes.len() as u64, |file| file.write_all(bytes))
}

/// Writes a file of about `size` bytes under a temporary name and renames it when it is whole.
pub(super) fn atomically(
    path: &Path,
    size: u64,
    write: impl FnOnce(&mut fs::File) -> std::io::Result<()>,
) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let named = |e| Error::io("write", path, e);
    let mut file = tempfile::Builder::new()
        .prefix(&super::unfinished_prefix())
        .tempfile_in(super::folder_of(path))
        // The temporary file's name, which tempfile adds, means nothing to anyone.
        .map_err(|e| named(e.kind().into()))?;
    write(file.as_file_mut()).map_err(|e| {
        let written = file.as_file().metadata().map_or(0, |meta| meta.len());
        let total = Some(size);
        named(explained(e, path, Some(Progress { written, total })))
    })?;
    let mode = fs::Permissions::from_mode(0o644);
    file.as_file().set_permissions(mode).map_err(named)?;
    file.persist(path).map_err(|e| named(e.error))?;
    Ok(())
}
