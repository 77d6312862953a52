//! imgbuild turns a conda environment file into a layered OCI image and proves that it trains.
//!
//! The stages follow each other in one direction; see ARCHITECTURE.md:
//! [`spec`] -> [`lock`] -> [`plan`] -> [`package`] and [`wheel`] -> [`layer`] -> [`image`] ->
//! [`sink`], then [`probe`]. [`build`] walks the way once. I/O lives at the edge: [`fetch`],
//! [`store`], [`base`], [`registry`], [`docker`], and [`cli`].

pub mod attest;
pub mod base;
pub mod build;
pub mod cache_from;
pub mod cli;
pub mod code;
pub mod condarc;
pub mod diff;
pub mod digest;
pub mod docker;
pub mod error;
pub mod explain;
pub mod fetch;
pub mod frames;
pub mod gate;
pub mod image;
pub mod layer;
pub mod lock;
pub mod machine;
pub mod package;
pub mod plan;
pub mod probe;
pub mod pyc;
pub mod reference;
pub mod registry;
pub mod report;
pub mod sbom;
pub mod secret;
pub mod sink;
pub mod space;
pub mod spec;
pub mod store;
pub mod wheel;

#[cfg(test)]
mod testing;
