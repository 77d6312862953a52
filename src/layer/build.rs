//! One layer to one blob in the store.

use std::collections::BTreeMap;

use super::{
    gzip::{Compressors, ParallelGzip},
    tar::{DirectoryAttributes, LayerTar},
};
use crate::{
    base::media,
    digest::{DiffId, Hashing},
    error::{Error, Result},
    package::EntrySink,
    store::{BuiltLayer, Store},
};

/// Changes whenever the same packages would give other bytes: part of every layer key.
pub const FORMAT: &str = "imgbuild-layer-2 gzip-1 chunk-4MiB";

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
    let gzip = ParallelGzip::new(store.blob_writer()?, compressors);
    let mut tar = LayerTar::new(Hashing::new(gzip), base);
    fill(&mut tar)?;
    let (gzip, diff_id, unpacked) = tar.finish().map_err(failed)?.finish();
    let (digest, size) = gzip.finish().map_err(failed)?.finish()?;
    Ok(BuiltLayer {
        diff_id: DiffId(diff_id),
        digest,
        size,
        unpacked,
        media_type: media::OCI_GZIP.into(),
    })
}
