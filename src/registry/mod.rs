//! Registries: references, logins and retries (OCI distribution-spec).
//!
//! Base images are pulled with [`remote::Remote`] by [`crate::base`].

pub mod auth;
pub mod remote;
mod token;
