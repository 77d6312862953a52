//! The software bill of materials of an image: an SPDX 2.3 document. Pure, but for reading layers.
//!
//! What is in an image is known in two ways: from the lock that it was built of ([`Materials`]),
//! or from the records that every installer leaves in it ([`Inventory`]). Both come to the same
//! [`Component`]s, of which [`document`] makes the SPDX document: the same components give the
//! same bytes, with no random identifier and no time but the image's own.

mod component;
mod inventory;
mod licence;
mod materials;
mod metadata;
mod purl;
mod spdx;

pub use component::{Component, Ecosystem};
pub use inventory::{Inventory, components};
pub use materials::{Choices, Materials};
pub use metadata::WheelFacts;
pub use purl::{of_base, of_component};
pub use spdx::{Base, Subject, document};
