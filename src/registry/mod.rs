//! Registries: references, logins, and images pushed to them (OCI distribution-spec).
//!
//! Base images are pulled with the same [`remote::Remote`] by [`crate::base`].

pub mod auth;
pub mod failure;
mod push;
pub mod remote;
mod token;
mod trust;
mod upload;

pub use push::push;
