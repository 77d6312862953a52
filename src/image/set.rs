//! One image, or those of several platforms under one index (OCI image-spec, image-index.md).

use serde::Deserialize;

use super::{Descriptor, Image, Index, manifest::Annotations};
use crate::{
    base::{Platform, media},
    digest::Digest,
    error::{Error, Result},
    machine::Machine,
};

/// What registries and layouts keep under a name: a manifest or an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The OCI media type.
    pub media_type: &'static str,
    /// The sha256 of the bytes.
    pub digest: Digest,
    /// The document as stored.
    pub bytes: Vec<u8>,
}

impl Document {
    /// A document of these bytes.
    pub fn new(media_type: &'static str, bytes: Vec<u8>) -> Self {
        Self {
            media_type,
            digest: Digest::of(&bytes),
            bytes,
        }
    }

    /// The manifest of an image.
    pub fn of_image(image: &Image) -> Self {
        Self::new(media::OCI_MANIFEST, image.manifest.clone())
    }

    /// A reference to it.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: self.media_type.into(),
            digest: self.digest,
            size: self.bytes.len() as u64,
            annotations: Annotations::new(),
            platform: None,
        }
    }
}

/// What a build gives: an image, or one for each of several platforms and the index that names
/// them.
#[derive(Clone, Debug)]
pub struct ImageSet {
    images: Vec<Image>,
    index: Option<Document>,
}

impl ImageSet {
    /// An image by itself, which no index names.
    pub fn one(image: Image) -> Self {
        Self {
            images: vec![image],
            index: None,
        }
    }

    /// Images of several platforms. The index is the same in whatever order they come: its entries
    /// are sorted by operating system, architecture and variant.
    ///
    /// # Errors
    /// When a config does not say what its image is for.
    pub fn indexed(images: Vec<Image>) -> Result<Self> {
        let mut sorted = images
            .into_iter()
            .map(|image| Ok((platform(&image)?, image)))
            .collect::<Result<Vec<_>>>()?;
        sorted.sort_by(|(one, _), (other, _)| one.cmp(other));
        let entries = sorted.iter().map(|(platform, image)| {
            let platform = serde_json::to_value(platform).map_err(|e| unreadable(&e))?;
            Ok(Descriptor {
                platform: Some(platform),
                ..Document::of_image(image).descriptor()
            })
        });
        let index = Index::new(entries.collect::<Result<_>>()?).to_bytes()?;
        Ok(Self {
            images: sorted.into_iter().map(|(_, image)| image).collect(),
            index: Some(Document::new(media::OCI_INDEX, index)),
        })
    }

    /// What an index that was stored names.
    pub fn stored(index: Vec<u8>, images: Vec<Image>) -> Self {
        Self {
            images,
            index: Some(Document::new(media::OCI_INDEX, index)),
        }
    }

    /// The images, in the index's order.
    pub fn images(&self) -> &[Image] {
        &self.images
    }

    /// The index, where there is one.
    pub fn index(&self) -> Option<&Document> {
        self.index.as_ref()
    }

    /// The image that no index names.
    pub fn single(&self) -> Option<&Image> {
        match (&self.index, self.images.as_slice()) {
            (None, [image]) => Some(image),
            _ => None,
        }
    }

    /// The image for a machine; the only one, whatever it is for.
    pub fn for_machine(&self, machine: Machine) -> Option<&Image> {
        let fits = |image: &&Image| image.is_for(machine);
        self.single().or_else(|| self.images.iter().find(fits))
    }

    /// Every document, each after those that it names.
    pub fn documents(&self) -> Vec<Document> {
        let manifests = self.images.iter().map(Document::of_image);
        manifests.chain(self.index.clone()).collect()
    }

    /// The digest that a name stands for: the index's, or the only manifest's.
    pub fn digest(&self) -> Digest {
        self.root()
            .map_or_else(|| Digest::of(b""), |(digest, _)| digest)
    }

    /// The size in bytes of what a name stands for.
    pub fn size(&self) -> u64 {
        self.root().map_or(0, |(_, size)| size)
    }

    fn root(&self) -> Option<(Digest, u64)> {
        let index = self.index.as_ref();
        index
            .map(|index| (index.digest, index.bytes.len() as u64))
            .or_else(|| {
                let image = self.images.first()?;
                Some((image.digest, image.manifest.len() as u64))
            })
    }
}

impl Image {
    /// Whether its config says that it is for that machine.
    pub fn is_for(&self, machine: Machine) -> bool {
        platform(self).is_ok_and(|platform| machine.platform().accepts(&platform))
    }
}

/// The platform that an image's config names.
///
/// # Errors
/// When it names none.
fn platform(image: &Image) -> Result<Platform> {
    #[derive(Deserialize)]
    struct Said {
        #[serde(flatten)]
        platform: Platform,
    }
    serde_json::from_slice::<Said>(&image.config)
        .map(|said| said.platform)
        .map_err(|e| unreadable(&e))
}

fn unreadable(error: &serde_json::Error) -> Error {
    Error::environment("an image's config does not say what the image is for").why(error)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn image(platform: Value) -> Image {
        let config = platform.to_string().into_bytes();
        let manifest = format!("manifest of {platform}").into_bytes();
        Image {
            digest: Digest::of(&manifest),
            config_digest: Digest::of(&config),
            manifest,
            config,
            layers: Vec::new(),
        }
    }

    fn images() -> [Image; 2] {
        let arm = json!({"os": "linux", "architecture": "arm64", "variant": "v8", "config": {}});
        [
            image(arm),
            image(json!({"architecture": "amd64", "os": "linux", "rootfs": {}})),
        ]
    }

    #[test]
    fn an_index_has_one_order() {
        let [arm64, amd64] = images();
        let set = ImageSet::indexed(vec![arm64.clone(), amd64.clone()]).unwrap();
        let other = ImageSet::indexed(vec![amd64.clone(), arm64.clone()]).unwrap();
        assert_eq!(set.digest(), other.digest());
        let documents = set.documents();
        let index: Value = serde_json::from_slice(&documents[2].bytes).unwrap();
        assert_eq!(
            index,
            json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": [
                {"mediaType": media::OCI_MANIFEST, "digest": amd64.digest,
                 "size": amd64.manifest.len(),
                 "platform": {"os": "linux", "architecture": "amd64"}},
                {"mediaType": media::OCI_MANIFEST, "digest": arm64.digest,
                 "size": arm64.manifest.len(),
                 "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}},
            ]})
        );
        assert_eq!(set.digest(), documents[2].digest);
        assert_eq!(set.size(), documents[2].bytes.len() as u64);
        assert_eq!(
            set.for_machine(Machine::Arm64).unwrap().digest,
            arm64.digest
        );
        assert!(set.single().is_none());
    }

    #[test]
    fn an_image_by_itself_has_no_index() {
        let [arm64, _] = images();
        let set = ImageSet::one(arm64.clone());
        assert_eq!((set.digest(), set.documents().len()), (arm64.digest, 1));
        assert_eq!(set.single().unwrap().digest, arm64.digest);
        assert_eq!(
            set.for_machine(Machine::Amd64).unwrap().digest,
            arm64.digest
        );
        assert!(ImageSet::indexed(vec![image(json!({"os": "linux"}))]).is_err());
    }
}
