//! What is different between two locks, images or plans, and why a layer is. Pure.

mod package;
mod reason;
mod recipe;

pub use package::{Area, Change, Manager, Package, PackageChange, PackageId, Packages, changes};
pub use reason::{Reason, gone, reasons};
pub use recipe::{LayerPackage, LayerRecipe, PythonRecipe, Recipe};
