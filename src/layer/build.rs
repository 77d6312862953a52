//! One layer to one blob in the store.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    thread,
};

use super::{
    Compression,
    blob::{Chunks, Written, chunks, write_parts},
    compressors::{CHUNK, Compressors},
    tar::{DirectoryAttributes, LayerTar},
};
use crate::{
    digest::DiffId,
    error::{Error, Result},
    package::EntrySink,
    store::{BuiltLayer, Store},
};

/// Changes whenever the same packages would give another tar.
const LAYOUT: &str = "imgbuild-layer-3";

/// Changes whenever the same packages would give other bytes: part of every layer key.
pub fn format(compression: Compression) -> String {
    format!("{LAYOUT} chunk-{CHUNK} {}", compression.format())
}

/// Builds a layer from what `fill` writes and puts its blob into the store. Nothing is left
/// behind when it fails.
///
/// # Errors
/// Those of `fill`, or when the store cannot be written.
pub fn build_layer(
    store: &Store,
    compressors: &Compressors,
    base: BTreeMap<Vec<u8>, DirectoryAttributes>,
    fill: impl FnOnce(&mut dyn EntrySink) -> Result<()>,
) -> Result<BuiltLayer> {
    let failed = |e| Error::io("write in", store.tmp_dir(), e);
    let blob = store.blob_writer()?;
    let Written { tar, out } = thread::scope(|scope| {
        let (chunks, parts) = chunks(compressors);
        let writing = scope.spawn(move || write_parts(&parts, blob));
        let mut tar = LayerTar::new(chunks, base);
        let end = |tar: LayerTar<Chunks<'_>>| tar.finish()?.flush();
        // With the tar the chunks go, and with them the writing ends.
        let filled = fill(&mut tar).and_then(|()| end(tar).map_err(failed));
        let written = writing
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("a thread ended early")));
        // A blob that cannot be written is why its filling failed, too.
        let written = written.map_err(failed)?;
        filled.map(|()| written)
    })?;
    let (_, diff_id, unpacked) = tar.finish();
    let (digest, size) = out.finish()?;
    Ok(BuiltLayer {
        diff_id: DiffId(diff_id),
        digest,
        size,
        unpacked: Some(unpacked),
        media_type: compressors.compression().media_type().into(),
    })
}
