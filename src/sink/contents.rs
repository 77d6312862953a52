//! Which layers an archive holds, and how they are packed in it.

use std::{
    collections::BTreeSet,
    io::{self, Read},
};

use crate::{
    base::media::{self, Packing},
    digest::Digest,
    error::{Error, Result},
    image::{Image, KEY_ANNOTATION, Layer},
    store::Store,
};

/// What an archive holds: an image as its documents describe it, and some of its layers.
#[derive(Clone, Debug)]
pub struct Contents {
    image: Image,
    /// Where each layer of the image comes from; absent for those left out.
    sources: Vec<Option<Source>>,
}

/// A layer as an archive describes it, and where it comes from unless it is left out.
#[derive(Clone, Debug)]
pub struct Packed {
    layer: Layer,
    source: Option<Source>,
}

/// A blob of the store, and what has to be undone for the archive.
#[derive(Clone, Copy, Debug)]
struct Source {
    stored: Digest,
    unpack: Packing,
}

/// A layer in an archive.
#[derive(Clone, Copy, Debug)]
pub struct Blob {
    /// The sha256 of what is written.
    pub(super) digest: Digest,
    /// The size of what is written, in bytes.
    pub(super) size: u64,
    source: Source,
}

impl Packed {
    /// A layer as the store has it.
    pub fn stored(layer: &Layer) -> Self {
        let source = Source {
            stored: layer.digest,
            unpack: Packing::Plain,
        };
        Self {
            layer: layer.clone(),
            source: Some(source),
        }
    }

    /// A layer as a plain tar, which every Docker reads and none has to decompress. A gzip layer of
    /// a base stays as it is: to know the size of its tar, it would be decoded twice. One of zstd
    /// and unknown size is read to its end.
    ///
    /// # Errors
    /// When the blob is missing or damaged.
    pub fn plain(layer: &Layer, store: &Store) -> Result<Self> {
        let packing = media::sniff_blob(store, &layer.digest)?;
        let size = match (packing, unpacked(layer, store)) {
            (Packing::Plain, _) | (Packing::Gzip, None) => return Ok(Self::stored(layer)),
            (_, Some(size)) => size,
            (Packing::Zstd, None) => count(layer, packing, store)?,
        };
        let source = Source {
            stored: layer.digest,
            unpack: packing,
        };
        Ok(Self {
            layer: as_tar(layer, size),
            source: Some(source),
        })
    }

    /// A layer that is left out, of which the store need not have the blob.
    pub fn absent(layer: &Layer, store: &Store) -> Self {
        let plain = unpacked(layer, store).map(|size| as_tar(layer, size));
        Self {
            layer: plain.unwrap_or_else(|| layer.clone()),
            source: None,
        }
    }

    /// The layer as the archive describes it.
    pub fn layer(&self) -> &Layer {
        &self.layer
    }

    /// Leaves the layer out.
    pub fn leave_out(&mut self) {
        self.source = None;
    }

    /// What is written of it.
    pub fn blob(&self) -> Option<Blob> {
        self.source.map(|source| Blob {
            digest: self.layer.digest,
            size: self.layer.size,
            source,
        })
    }
}

impl Contents {
    /// An image whose layers are packed like this. They are the image's, in its order.
    ///
    /// # Errors
    /// When the image's manifest is none.
    pub fn new(image: &Image, packed: &[Packed]) -> Result<Self> {
        let layers = image.layers.iter().zip(packed);
        let same = |(ours, packed): (&Layer, &Packed)| ours.digest == packed.layer.digest;
        // What the manifest says of a layer that stays as it is stays too.
        let layer = |pair: (&Layer, &Packed)| match same(pair) {
            true => pair.0.clone(),
            false => pair.1.layer.clone(),
        };
        let image = match layers.clone().all(same) {
            true => image.clone(),
            false => image.with_layers(layers.map(layer).collect())?,
        };
        Ok(Self {
            image,
            sources: packed.iter().map(|packed| packed.source).collect(),
        })
    }

    /// The layers as the store has them.
    ///
    /// # Errors
    /// As [`Contents::new`].
    pub fn stored(image: &Image) -> Result<Self> {
        let packed: Vec<_> = image.layers.iter().map(Packed::stored).collect();
        Self::new(image, &packed)
    }

    /// The layers as [`Packed::plain`] has them.
    ///
    /// # Errors
    /// When a blob is missing or damaged.
    pub fn plain(image: &Image, store: &Store) -> Result<Self> {
        let layers = image.layers.iter();
        let packed: Result<Vec<_>> = layers.map(|layer| Packed::plain(layer, store)).collect();
        Self::new(image, &packed?)
    }

    /// The image as the archive describes it.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The layers to write, each once.
    pub(super) fn blobs(&self) -> Vec<Blob> {
        let mut seen = BTreeSet::new();
        let layers = self.image.layers.iter().zip(&self.sources);
        layers
            .filter_map(|(layer, source)| {
                let source = (*source)?;
                seen.insert(layer.digest).then_some(Blob {
                    digest: layer.digest,
                    size: layer.size,
                    source,
                })
            })
            .collect()
    }
}

impl Blob {
    /// The size of what is written, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The bytes to write.
    pub(super) fn open(&self, store: &Store) -> Result<Box<dyn Read>> {
        let failed = |e| Error::io("read", store.blob_path(&self.source.stored), e);
        let stored = store.open_blob(&self.source.stored)?;
        self.source.unpack.decoder(stored).map_err(failed)
    }
}

/// The layer as a plain tar of that size.
fn as_tar(layer: &Layer, size: u64) -> Layer {
    Layer {
        media_type: media::OCI_TAR.into(),
        digest: layer.diff_id.0,
        size,
        unpacked: Some(size),
        // They were said of the blob that is not written.
        annotations: Default::default(),
        ..layer.clone()
    }
}

/// The size of a layer's tar, if it was measured when the layer was made.
fn unpacked(layer: &Layer, store: &Store) -> Option<u64> {
    let made = || {
        let key = layer.annotations.get(KEY_ANNOTATION)?.parse().ok()?;
        let built = store.built_layer(&key)?;
        built.unpacked.filter(|_| built.digest == layer.digest)
    };
    layer.unpacked.or_else(made)
}

fn count(layer: &Layer, packing: Packing, store: &Store) -> Result<u64> {
    let failed = |e| Error::io("read", store.blob_path(&layer.digest), e);
    let mut tar = packing
        .decoder(store.open_blob(&layer.digest)?)
        .map_err(failed)?;
    io::copy(&mut tar, &mut io::sink()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{digest::DiffId, image::Manifest, store::BuiltLayer};

    fn gzip(tar: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        let mut gzip = flate2::bufread::GzEncoder::new(tar, flate2::Compression::fast());
        gzip.read_to_end(&mut packed).unwrap();
        packed
    }

    /// A layer of `tar` whose blob, `packed`, is in the store.
    fn layer(store: &Store, media_type: &str, tar: &[u8], packed: &[u8]) -> Layer {
        let (digest, size) = store.put_blob(packed).unwrap();
        Layer {
            media_type: media_type.into(),
            digest,
            size,
            diff_id: DiffId(Digest::of(tar)),
            unpacked: None,
            annotations: Default::default(),
        }
    }

    fn image(layers: Vec<Layer>) -> Image {
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media::OCI_MANIFEST,
            "config": {"mediaType": media::OCI_CONFIG, "digest": Digest::of(b""), "size": 0},
            "layers": [],
        });
        let image = Image {
            config: b"{}".to_vec(),
            config_digest: Digest::of(b"{}"),
            digest: Digest::of(b""),
            manifest: manifest.to_string().into_bytes(),
            layers: Vec::new(),
        };
        image.with_layers(layers).unwrap()
    }

    fn size_of(contents: &Contents) -> u64 {
        contents.blobs().iter().map(Blob::size).sum()
    }

    fn read(blob: &Blob, store: &Store) -> Vec<u8> {
        let mut bytes = Vec::new();
        blob.open(store).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn layers_are_unpacked_where_their_size_is_known_or_must_be() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (gz, zstd) = (gzip(b"tar"), zstd::encode_all(&b"rat"[..], 1).unwrap());
        let of_base = layer(&store, media::OCI_GZIP, b"tar", &gz);
        let ours = Layer {
            unpacked: Some(3),
            ..of_base.clone()
        };
        let stored = image(vec![
            of_base.clone(),
            layer(&store, media::OCI_ZSTD, b"rat", &zstd),
            ours,
        ]);
        let plain = Contents::plain(&stored, &store).unwrap();
        let told = Manifest::parse(&plain.image().manifest).unwrap().layers;
        let told: Vec<_> = told
            .iter()
            .map(|l| (&l.media_type[..], l.digest, l.size))
            .collect();
        let (tar, rat) = (Digest::of(b"tar"), Digest::of(b"rat"));
        let expected = [
            (media::OCI_GZIP, of_base.digest, of_base.size),
            (media::OCI_TAR, rat, 3),
            (media::OCI_TAR, tar, 3),
        ];
        assert_eq!(told, expected);
        assert_eq!(plain.image().digest, Digest::of(&plain.image().manifest));
        assert_eq!(plain.image().config_digest, stored.config_digest);
        let written: Vec<_> = plain
            .blobs()
            .iter()
            .map(|blob| read(blob, &store))
            .collect();
        assert_eq!(written, [gz, b"rat".to_vec(), b"tar".to_vec()]);
        assert_eq!(size_of(&plain), of_base.size + 6);
        let mut packed = vec![Packed::stored(&of_base); 2];
        packed.iter_mut().for_each(Packed::leave_out);
        packed.push(Packed::plain(&stored.layers[2], &store).unwrap());
        let top = Contents::new(&stored, &packed).unwrap().blobs();
        assert_eq!(
            top.iter().map(|blob| blob.digest).collect::<Vec<_>>(),
            [tar]
        );
        let unchanged = Contents::stored(&stored).unwrap();
        assert_eq!(unchanged.image().digest, stored.digest);
    }

    #[test]
    fn a_layer_read_back_has_its_size_from_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut layer = layer(&store, media::OCI_GZIP, b"tar", &gzip(b"tar"));
        let key = Digest::of(b"key");
        layer
            .annotations
            .insert(KEY_ANNOTATION.into(), key.to_string());
        let image = image(vec![layer.clone()]);
        let size = || size_of(&Contents::plain(&image, &store).unwrap());
        assert_eq!(size(), layer.size);
        let built = BuiltLayer {
            diff_id: layer.diff_id,
            digest: layer.digest,
            size: layer.size,
            unpacked: Some(3),
            media_type: layer.media_type.clone(),
        };
        store.put_built_layer(&key, &built).unwrap();
        assert_eq!(size(), 3);
    }

    #[test]
    fn a_layer_that_comes_twice_is_written_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let layer = layer(&store, media::OCI_TAR, b"tar", b"tar");
        let image = image(vec![layer.clone(), layer.clone()]);
        let twice = Contents::stored(&image).unwrap();
        assert_eq!((twice.blobs().len(), size_of(&twice)), (1, 3));
        let packed = [Packed::absent(&layer, &store), Packed::stored(&layer)];
        assert_eq!(Contents::new(&image, &packed).unwrap().blobs().len(), 1);
    }
}
