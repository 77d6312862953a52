//! What is said of an image beside it: in-toto statements, and the OCI documents that carry them.
//! Pure.

mod oci;
mod statement;

pub use oci::{
    Attestation, EMPTY, IN_TOTO, PREDICATE_TYPE, REFERENCE_DIGEST, SPDX_JSON, attestation_manifest,
    index, referrer,
};
pub use statement::{PROVENANCE, SPDX, provenance, statement};
