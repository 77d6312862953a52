//! Registries: references, logins, and images pushed to them (OCI distribution-spec).
//!
//! Base images are pulled with the same [`remote::Remote`] by [`crate::base`].

mod access;
mod ahead;
mod api;
pub mod auth;
mod body;
pub mod failure;
mod login;
pub mod problem;
mod push;
pub mod referrers;
pub mod remote;
mod retry;
mod settings;
mod transport;
mod trust;
mod upload;

pub use access::Grant;
pub use ahead::{Ahead, Sent};
pub use push::push;
pub use settings::Settings;
