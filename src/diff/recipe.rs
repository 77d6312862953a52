//! What the layers of an image were made of: kept with the image, so that a later plan can say
//! why a layer has to be built.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Area, Package, PackageId};
use crate::digest::Digest;

/// What the layers over the base image were made of, lowest first. The layer of the
/// environment's own state is not among them: it is written at every build.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// The layers.
    pub layers: Vec<LayerRecipe>,
}

/// What one layer was made of: all that its key covers, in a form that can be compared. What is
/// not known while a build is only planned is absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecipe {
    /// The layer's key.
    pub key: Option<Digest>,
    /// Which part of the image it belongs to.
    pub area: Area,
    /// What `docker history` shows.
    pub title: String,
    /// The layer format; every change of it is another layer.
    pub format: String,
    /// The compression, as `--compression` says it.
    pub compression: String,
    /// The prefix, or the folder of the code, as programs see it.
    pub path: String,
    /// The same from the root, through the base image's symlinks, and the base's folders on the
    /// way with their attributes.
    pub folders: Option<(String, Digest)>,
    /// The Python that its files depend on, where they do.
    pub python: Option<PythonRecipe>,
    /// The packages by name.
    pub packages: Vec<LayerPackage>,
    /// The hash of the user's code.
    pub code: Option<Digest>,
}

/// What of the environment's Python a layer depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PythonRecipe {
    /// Major and minor version, such as `3.11`.
    pub version: String,
    /// What compiled files depend on; none where they are not made.
    pub compile: Option<Digest>,
}

/// A package of a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerPackage {
    /// Which one.
    #[serde(flatten)]
    pub id: PackageId,
    /// What is known of it.
    #[serde(flatten)]
    pub package: Package,
    /// A hash of what else of it reaches the layer: its URL, its md5, and the paths that it loses
    /// to other packages.
    pub rest: Option<Digest>,
}

impl Recipe {
    /// Where each package is: the index of its layer, and the package.
    pub(super) fn places(&self) -> BTreeMap<&PackageId, (usize, &LayerPackage)> {
        let layers = self.layers.iter().enumerate();
        layers
            .flat_map(|(index, layer)| {
                let packages = layer.packages.iter();
                packages.map(move |package| (&package.id, (index, package)))
            })
            .collect()
    }
}
