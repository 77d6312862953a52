//! Small JSON records: built layers by key, surveys, and images and bases by name.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Store, note_use};
use crate::{
    base::BaseImage,
    digest::{DiffId, Digest},
    error::{Error, Result},
    image::{Index, Manifest},
};

/// A layer that exists as a blob in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuiltLayer {
    /// The sha256 of the uncompressed tar.
    pub diff_id: DiffId,
    /// The sha256 of the blob.
    pub digest: Digest,
    /// The size of the blob in bytes.
    pub size: u64,
    /// The size of the uncompressed tar in bytes; unknown for a layer that was not made here.
    pub unpacked: Option<u64>,
    /// The OCI media type of the blob.
    pub media_type: String,
}

/// An image in the store: its manifest or index, by the name the user gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredImage {
    /// The full reference, tag included.
    pub reference: String,
    /// The digest of the manifest or index.
    pub manifest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

impl Store {
    /// The layer built for a key, if its blob is still here.
    pub fn built_layer(&self, key: &Digest) -> Option<BuiltLayer> {
        let layer: BuiltLayer = read_used(&self.layer_record(key))?;
        self.has_blob(&layer.digest, layer.size).then_some(layer)
    }

    /// Records which layer a key stands for.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn put_built_layer(&self, key: &Digest, layer: &BuiltLayer) -> Result<()> {
        self.sync_blob_names()?;
        self.write_json(&self.layer_record(key), layer)
    }

    /// A survey kept under its key.
    pub fn survey<T: DeserializeOwned>(&self, key: &Digest) -> Option<T> {
        read_used(&self.survey_record(key))
    }

    /// Keeps a survey.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn put_survey<T: Serialize>(&self, key: &Digest, survey: &T) -> Result<()> {
        self.write_json(&self.survey_record(key), survey)
    }

    /// What the archive with this sha256 was found to say of itself.
    pub fn facts<T: DeserializeOwned>(&self, package: &Digest) -> Option<T> {
        read_used(&self.facts_record(package))
    }

    /// Keeps what an archive says of itself; it need not be here for that any more.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn put_facts<T: Serialize>(&self, package: &Digest, facts: &T) -> Result<()> {
        self.write_json(&self.facts_record(package), facts)
    }

    /// The files of a package's `info/`, by name, where they were kept.
    pub fn info(&self, package: &Digest) -> Option<BTreeMap<String, String>> {
        read_used(&self.info_record(package))
    }

    /// Keeps files of a package's `info/`, by name.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn put_info(&self, package: &Digest, files: &BTreeMap<&str, &str>) -> Result<()> {
        self.write_json(&self.info_record(package), files)
    }

    /// The sha256 of the archive that was found to have this md5, in hexadecimal digits.
    pub fn sha256_of_md5(&self, md5: &str) -> Option<Digest> {
        let path = self.md5_alias(md5);
        note_use(&path);
        fs::read_to_string(path).ok()?.parse().ok()
    }

    /// Keeps which archive has this md5, so that a lock with no better hash needs no download.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_md5_alias(&self, md5: &str, sha256: &Digest) -> Result<()> {
        self.write_record(&self.md5_alias(md5), sha256.hex().as_bytes())
    }

    /// Names an image. Its blobs must be in the store already. Unlike other records, the name is
    /// on the disk afterwards.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn put_image(&self, image: &StoredImage) -> Result<()> {
        let path = self.image_record(&image.reference);
        if read_json(&path).as_ref() == Some(image) && note_use(&path) {
            return Ok(());
        }
        self.sync_blob_names()?;
        self.write_json(&path, image)?;
        let file = File::open(&path).and_then(|file| file.sync_all());
        file.map_err(|e| Error::io("sync", &path, e))?;
        sync_folder(&self.root().join("images"))
    }

    /// Ends that a reference names an image here.
    ///
    /// # Errors
    /// When the record is there and cannot be removed.
    pub fn forget_image(&self, reference: &str) -> Result<()> {
        let path = self.image_record(reference);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &path, e)),
            _ => Ok(()),
        }
    }

    /// The image of that full reference, if all its blobs are still here.
    pub fn image(&self, reference: &str) -> Option<StoredImage> {
        let image: StoredImage = read_used(&self.image_record(reference))?;
        self.lacks(&image.manifest).is_none().then_some(image)
    }

    /// The first blob of an image that is not here with its size; nothing when all are.
    pub(super) fn lacks(&self, manifest: &Digest) -> Option<Digest> {
        let Some(blobs) = self.blobs_of(manifest) else {
            return Some(*manifest);
        };
        let lost = |(digest, size): &(Digest, u64)| !self.has_blob(digest, *size);
        blobs.into_iter().find(lost).map(|(digest, _)| digest)
    }

    /// The blobs that a manifest names, and their sizes in bytes, or those that an index and its
    /// manifests name; nothing when one of these is not here, or not what its digest says.
    pub(super) fn blobs_of(&self, manifest: &Digest) -> Option<Vec<(Digest, u64)>> {
        let bytes = self.read_blob(manifest).ok()?;
        let Ok(index) = Index::parse(&bytes) else {
            return named(&bytes);
        };
        let mut blobs = Vec::new();
        for entry in index.manifests {
            blobs.push((entry.digest, entry.size));
            blobs.extend(named(&self.read_blob(&entry.digest).ok()?)?);
        }
        Some(blobs)
    }

    /// What the base image of that name was when it was last used; its layers may be gone, or may
    /// never have been here.
    pub fn last_base(&self, name: &str) -> Option<BaseImage> {
        read_used(&self.base_record(name))
    }

    /// Keeps what a base image is, under its name. Media types are those of its blobs.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn put_base(&self, name: &str, base: &BaseImage) -> Result<()> {
        if self.last_base(name).as_ref() != Some(base) {
            self.sync_blob_names()?;
        }
        self.write_json(&self.base_record(name), base)
    }

    /// What the base image of that name was when it was last loaded, if all its layers are still
    /// here.
    pub fn base(&self, name: &str) -> Option<BaseImage> {
        let base = self.last_base(name)?;
        let mut layers = base.layers.iter();
        let whole = layers.all(|layer| self.has_blob(&layer.digest, layer.size));
        whole.then_some(base)
    }

    fn base_record(&self, name: &str) -> PathBuf {
        let name = Digest::of(name.as_bytes()).hex();
        self.root().join("bases").join(name + ".json")
    }

    fn layer_record(&self, key: &Digest) -> PathBuf {
        self.root().join("layers").join(key.hex() + ".json")
    }

    fn survey_record(&self, key: &Digest) -> PathBuf {
        self.root().join("surveys").join(key.hex() + ".json")
    }

    fn facts_record(&self, package: &Digest) -> PathBuf {
        self.root().join("facts").join(package.hex() + ".json")
    }

    fn info_record(&self, package: &Digest) -> PathBuf {
        self.root().join("infos").join(package.hex() + ".json")
    }

    fn md5_alias(&self, md5: &str) -> PathBuf {
        self.root().join("aliases/md5").join(md5)
    }

    fn image_record(&self, reference: &str) -> PathBuf {
        // A reference holds '/' and ':'; its digest is a safe file name, the record says the rest.
        let name = Digest::of(reference.as_bytes()).hex();
        self.root().join("images").join(name + ".json")
    }

    pub(super) fn write_json(&self, path: &Path, value: &impl Serialize) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(value)
            .map_err(|e| Error::new(crate::error::Exit::Internal, "cannot write JSON").why(e))?;
        match fs::read(path) {
            Ok(known) if known == bytes && note_use(path) => Ok(()),
            _ => self.write_record(path, &bytes),
        }
    }

    /// Puts the names of blobs on the disk, before a record names one of them.
    fn sync_blob_names(&self) -> Result<()> {
        sync_folder(&self.root().join("blobs/sha256"))
    }
}

/// The blobs that a manifest names, and their sizes in bytes.
fn named(manifest: &[u8]) -> Option<Vec<(Digest, u64)>> {
    let parsed = Manifest::parse(manifest).ok()?;
    let named = std::iter::once(&parsed.config).chain(&parsed.layers);
    Some(named.map(|blob| (blob.digest, blob.size)).collect())
}

fn sync_folder(path: &Path) -> Result<()> {
    let synced = File::open(path).and_then(|folder| folder.sync_all());
    synced.map_err(|e| Error::io("sync", path, e))
}

/// A record that is missing or unreadable is one that was never written: it is made again.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn read_used<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let record = read_json(path)?;
    note_use(path);
    Some(record)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_index_has_the_blobs_of_its_images() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let manifests = ["one", "two"].map(|name| {
            let (config, _) = store.put_blob(name.as_bytes()).unwrap();
            let manifest = json!({"schemaVersion": 2, "mediaType": "m", "layers": [],
                "config": {"mediaType": "c", "digest": config, "size": 3}});
            let (digest, size) = store.put_blob(manifest.to_string().as_bytes()).unwrap();
            json!({"mediaType": "m", "digest": digest, "size": size})
        });
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        let (index, _) = store.put_blob(index.to_string().as_bytes()).unwrap();
        let blobs = store.blobs_of(&index).unwrap();
        assert_eq!(blobs.len(), 4);
        assert_eq!(store.lacks(&index), None);
        for (digest, _) in blobs {
            let path = store.blob_path(&digest);
            let bytes = fs::read(&path).unwrap();
            fs::remove_file(&path).unwrap();
            assert!(store.lacks(&index).is_some(), "{digest}");
            fs::write(&path, bytes).unwrap();
        }
    }
}
