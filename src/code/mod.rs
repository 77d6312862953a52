//! The user's code: a folder as a layer that is the same on every checkout.

mod ignore;
mod links;
mod tree;

pub use ignore::{Match, Patterns};
pub use tree::{CodeTree, collect};
