//! What is said of an image beside it: in-toto statements, and the OCI documents that carry them.
//! Pure.

mod oci;
mod statement;

pub use oci::{
    Attestation, Attested, EMPTY, IN_TOTO, PREDICATE_TYPE, REFERENCE_DIGEST, SPDX_JSON, referrer,
};
pub use statement::{PROVENANCE, SPDX, provenance, statement};
