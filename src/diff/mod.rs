//! What is different between two locks, images or plans, and why a layer is. Pure.

mod compare;
mod contents;
mod image;
mod lock;
mod package;
mod reason;
mod recipe;
mod subject;
#[cfg(test)]
mod tests;
mod text;

pub use compare::{Diff, DiffTotals, FactChange, LayerChanges, Side};
pub use contents::{LayerContents, Removals};
pub(crate) use contents::{dist_infos, each_entry, is_record, prefix, wheel, wheel_prefix};
pub(crate) use image::titles;
pub use image::{ImageSide, of_image};
pub use lock::of_lock;
pub use package::{Area, Change, Manager, Package, PackageChange, PackageId, Packages, changes};
pub use reason::{Reason, gone, reasons, unchanged_key};
pub use recipe::{LayerPackage, LayerRecipe, PythonRecipe, Recipe};
pub use subject::{Kind, Layer, Subject, Topic};
