//! What earlier builds left to be compared with: what images were made of, and what was built of
//! an environment file last.

use std::path::{Path, PathBuf};

use serde::{Serialize, de::DeserializeOwned};

use super::{Store, StoredImage, records::read_json};
use crate::{
    digest::Digest,
    error::{Error, Exit, Result},
};

impl Store {
    /// What the image with this manifest was made of, if it was built here.
    pub fn recipe<T: DeserializeOwned>(&self, manifest: &Digest) -> Option<T> {
        read_json(&self.recipe_record(manifest))
    }

    /// Keeps what an image was made of.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn put_recipe<T: Serialize>(&self, manifest: &Digest, recipe: &T) -> Result<()> {
        // Without blanks: those of large environments have half a megabyte.
        let bytes = serde_json::to_vec(recipe)
            .map_err(|e| Error::new(Exit::Internal, "cannot write JSON").why(e))?;
        self.write_record(&self.recipe_record(manifest), &bytes)
    }

    /// The image that was built of this environment file last; its name is the file's path.
    pub fn last_build(&self, env: &Path) -> Option<StoredImage> {
        read_json(&self.last_build_record(env)?)
    }

    /// Remembers what was built of an environment file, unless the same was before.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn put_last_build(&self, env: &Path, manifest: Digest, size: u64) -> Result<()> {
        let build = StoredImage {
            reference: env.display().to_string(),
            manifest,
            size,
        };
        match self.last_build_record(env) {
            Some(path) if self.last_build(env).as_ref() != Some(&build) => {
                self.write_json(&path, &build)
            }
            _ => Ok(()),
        }
    }

    fn recipe_record(&self, manifest: &Digest) -> PathBuf {
        let name = manifest.hex() + ".json";
        self.root().join("recipes").join(name)
    }

    /// By the file's whole path; none when there is no such file.
    fn last_build_record(&self, env: &Path) -> Option<PathBuf> {
        use std::os::unix::ffi::OsStrExt;
        let path = env.canonicalize().ok()?;
        let name = Digest::of(path.as_os_str().as_bytes()).hex() + ".json";
        Some(self.root().join("builds").join(name))
    }
}
