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
    store::{BuiltLayer, Store},
};

/// What an archive holds: an image as its documents describe it, and some of its layers.
#[derive(Clone, Debug)]
pub struct Contents {
    image: Image,
    /// Where each layer of the image comes from; absent for those left out.
    sources: Vec<Option<Source>>,
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

impl Contents {
    /// The layers as the store has them.
    pub fn stored(image: &Image) -> Self {
        let source = |layer: &Layer| Source {
            stored: layer.digest,
            unpack: Packing::Plain,
        };
        Self {
            sources: image.layers.iter().map(source).map(Some).collect(),
            image: image.clone(),
        }
    }

    /// The layers as plain tars, which every Docker reads and none has to decompress. gzip layers
    /// of a base stay as they are: to know the size of their tars, each would be decoded twice.
    ///
    /// Only those layers that are wanted by their place in the image are looked at and come with it.
    /// Reads one of zstd and unknown size to its end.
    ///
    /// # Errors
    /// When a blob is missing or damaged.
    pub fn plain(image: &Image, store: &Store, wanted: impl Fn(usize) -> bool) -> Result<Self> {
        let (mut layers, mut sources) = (Vec::new(), Vec::new());
        for (place, layer) in image.layers.iter().enumerate() {
            if !wanted(place) {
                let plain = unpacked(layer, store).map(|size| as_tar(layer, size));
                layers.push(plain.unwrap_or_else(|| layer.clone()));
                sources.push(None);
                continue;
            }
            let (plain, source) = plain(layer, store)?;
            layers.push(plain);
            sources.push(Some(source));
        }
        Ok(Self {
            image: image.with_layers(layers)?,
            sources,
        })
    }

    /// The same image, with only those layers that are wanted by their place in it.
    #[must_use]
    pub fn only(mut self, wanted: impl Fn(usize) -> bool) -> Self {
        for (place, source) in self.sources.iter_mut().enumerate() {
            *source = source.filter(|_| wanted(place));
        }
        self
    }

    /// The image as the archive describes it.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The size of the layers to write in bytes.
    pub fn size(&self) -> u64 {
        self.blobs().iter().map(|blob| blob.size).sum()
    }

    /// The size of all layers in bytes, with those left out as far as their tars were measured.
    pub fn whole_size(&self) -> u64 {
        let mut seen = BTreeSet::new();
        let layers = self.image.layers.iter();
        let once = layers.filter(|layer| seen.insert(layer.digest));
        once.map(|layer| layer.size).sum()
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
    /// A layer as the store has it.
    pub fn stored(layer: &BuiltLayer) -> Self {
        let source = Source {
            stored: layer.digest,
            unpack: Packing::Plain,
        };
        Self {
            digest: layer.digest,
            size: layer.size,
            source,
        }
    }

    /// A layer as the plain tar that [`Contents::plain`] has of it; none where its size is not known.
    ///
    /// # Errors
    /// When the store lacks it.
    pub fn plain(layer: &BuiltLayer, store: &Store) -> Result<Option<Self>> {
        let unpack = media::sniff_blob(store, &layer.digest)?;
        Ok(layer.unpacked.map(|size| Self {
            digest: layer.diff_id.0,
            size,
            source: Source {
                stored: layer.digest,
                unpack,
            },
        }))
    }

    /// The bytes to write.
    pub(super) fn open(&self, store: &Store) -> Result<Box<dyn Read>> {
        let failed = |e| Error::io("read", store.blob_path(&self.source.stored), e);
        let stored = store.open_blob(&self.source.stored)?;
        self.source.unpack.decoder(stored).map_err(failed)
    }
}

fn plain(layer: &Layer, store: &Store) -> Result<(Layer, Source)> {
    let as_is = Source {
        stored: layer.digest,
        unpack: Packing::Plain,
    };
    let packing = media::sniff_blob(store, &layer.digest)?;
    let size = match (packing, unpacked(layer, store)) {
        (Packing::Plain, _) | (Packing::Gzip, None) => return Ok((layer.clone(), as_is)),
        (_, Some(size)) => size,
        (Packing::Zstd, None) => count(layer, packing, store)?,
    };
    let source = Source {
        unpack: packing,
        ..as_is
    };
    Ok((as_tar(layer, size), source))
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
        let plain = Contents::plain(&stored, &store, |_| true).unwrap();
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
        assert_eq!(plain.size(), of_base.size + 6);
        let top: Vec<_> = plain.only(|place| place > 1).blobs();
        assert_eq!(
            top.iter().map(|blob| blob.digest).collect::<Vec<_>>(),
            [tar]
        );
        let unchanged = Contents::stored(&stored);
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
        let size = || Contents::plain(&image, &store, |_| true).unwrap().size();
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
        let twice = Contents::stored(&image(vec![layer.clone(), layer.clone()]));
        assert_eq!((twice.blobs().len(), twice.size()), (1, 3));
        assert_eq!(twice.only(|place| place == 1).blobs().len(), 1);
    }
}
