//! What an OCI layout says of an image beside it: statements in an index, as BuildKit writes them
//! (Docker docs, "Image attestation storage").

use serde_json::Value;

use super::files::{Files, blob_document, document};
use crate::{
    attest::{PREDICATE_TYPE, REFERENCE_DIGEST},
    base::media,
    digest::Digest,
    error::{Error, Result},
};

/// The statement of a kind about an image; nothing where there is none.
///
/// # Errors
/// When a document cannot be read, or is not what its digest says.
pub(super) fn statement(files: &dyn Files, image: &Digest, kind: &str) -> Result<Option<Value>> {
    let top = parsed(&document(files, "index.json")?, files)?;
    for entry in entries(&top).filter(|entry| entry["mediaType"] == media::OCI_INDEX) {
        let index = named(files, entry)?;
        let about = entries(&index)
            .filter(|entry| entry["annotations"][REFERENCE_DIGEST] == image.to_string());
        for entry in about {
            let manifest = named(files, entry)?;
            let layers = manifest["layers"].as_array().into_iter().flatten();
            let mut fits = layers.filter(|layer| layer["annotations"][PREDICATE_TYPE] == kind);
            if let Some(layer) = fits.next() {
                return named(files, layer).map(Some);
            }
        }
    }
    Ok(None)
}

fn entries(index: &Value) -> impl Iterator<Item = &Value> {
    index["manifests"].as_array().into_iter().flatten()
}

/// The document that a descriptor names.
fn named(files: &dyn Files, descriptor: &Value) -> Result<Value> {
    let digest = descriptor["digest"].as_str().unwrap_or_default();
    let digest = super::manifest::sha256(digest).map_err(|e| e.at(files.place()))?;
    parsed(&blob_document(files, &digest)?, files)
}

fn parsed(bytes: &[u8], files: &dyn Files) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|e| {
        Error::input("a document of the image layout is no JSON")
            .at(files.place())
            .why(e)
    })
}
