//! Reading an image back, and checking every rule of it on the way (OCI image-spec).

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, BufReader, Read},
    path::{Component, Path, PathBuf},
};

use flate2::read::MultiGzDecoder;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Rootfs, attested, documents};

pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image that was read, and found to be sound.
#[derive(Debug)]
pub struct Image {
    /// The digest of the manifest.
    pub digest: String,
    /// The manifest.
    pub manifest: Value,
    /// The config.
    pub config: Value,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
    /// What they make.
    pub rootfs: Rootfs,
}

/// What a layer is packed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// A tar as it is.
    Plain,
    /// gzip members.
    Gzip,
    /// zstd frames.
    Zstd,
}

/// A layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The digest of the blob.
    pub digest: String,
    /// The blob.
    pub path: PathBuf,
    /// Its words in the history.
    pub title: String,
    /// Whether imgbuild made it; else it is the base's.
    pub ours: bool,
    /// What it is packed with, as its media type says.
    pub codec: Codec,
    /// The paths of its entries, in their order.
    pub entries: Vec<PathBuf>,
}

/// Checks every image of an OCI layout folder, and that the folder holds nothing else.
pub fn validate_layout(dir: &Path) -> Vec<Image> {
    let marker = json_file(&dir.join("oci-layout"));
    assert_eq!(marker["imageLayoutVersion"], "1.0.0");
    let index = json_file(&dir.join("index.json"));
    assert_eq!(index["schemaVersion"], 2);
    assert_eq!(index["mediaType"], INDEX);
    let blobs = dir.join("blobs/sha256");
    let mut images: Vec<Image> = Vec::new();
    for descriptor in list(&index["manifests"]) {
        for image in read_from(&blobs, descriptor) {
            if images.iter().all(|known| known.digest != image.digest) {
                images.push(image);
            }
        }
    }
    assert!(!images.is_empty(), "{} holds no image", dir.display());
    for entry in fs::read_dir(&blobs).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let (hash, _) = hash_file(&blobs.join(&name));
        assert_eq!(hash, name, "a blob is not what its name says");
    }
    images
}

/// Reads the image of a digest, or those of an index, and checks all of them.
pub fn read_all(blobs: &Path, digest: &str) -> Vec<Image> {
    let media = document(blobs, digest)["mediaType"].clone();
    let size = fs::metadata(blob(blobs, digest)).unwrap().len();
    let descriptor = serde_json::json!({"mediaType": media, "digest": digest, "size": size});
    read_from(blobs, &descriptor)
}

fn read_from(blobs: &Path, descriptor: &Value) -> Vec<Image> {
    let read = |(digest, platform): (String, Value)| {
        let image = Image::read(blobs, &digest);
        for key in ["os", "architecture", "variant"] {
            let said = platform.get(key);
            assert!(platform.is_null() || said == image.config.get(key), "{key}");
        }
        image
    };
    manifests(blobs, descriptor).into_iter().map(read).collect()
}

/// The manifests that a descriptor leads to, each with the platform that an index says it is for.
fn manifests(blobs: &Path, descriptor: &Value) -> Vec<(String, Value)> {
    let digest = text(&descriptor["digest"]);
    let size = fs::metadata(blob(blobs, digest)).unwrap().len();
    assert_eq!(descriptor["size"], size, "{digest}");
    if descriptor["mediaType"] == MANIFEST {
        return vec![(digest.to_owned(), descriptor["platform"].clone())];
    }
    assert_eq!(descriptor["mediaType"], INDEX);
    let index = document(blobs, digest);
    assert_eq!(
        (&index["schemaVersion"], &index["mediaType"]),
        (&2.into(), &INDEX.into())
    );
    let entries = list(&index["manifests"]).iter();
    let (statements, images): (Vec<&Value>, Vec<&Value>) =
        entries.partition(|entry| attested::is_attestation(entry));
    for entry in statements {
        attested::read(blobs, &index, entry);
    }
    let images = images.into_iter();
    images.flat_map(|entry| manifests(blobs, entry)).collect()
}

impl Image {
    /// Reads the only image of an OCI layout folder.
    pub fn of_layout(dir: &Path) -> Self {
        let mut images = validate_layout(dir);
        assert_eq!(images.len(), 1, "{} holds several images", dir.display());
        images.remove(0)
    }

    /// Reads an image of a folder of blobs and checks all of it.
    pub fn read(blobs: &Path, digest: &str) -> Self {
        let manifest = document(blobs, digest);
        let described = &manifest["config"];
        let config = document(blobs, text(&described["digest"]));
        let size = fs::metadata(blob(blobs, text(&described["digest"])));
        assert_eq!(described["size"], size.unwrap().len());
        let history = documents::check(&manifest, &config);
        let descriptors = list(&manifest["layers"]);
        let diff_ids = list(&config["rootfs"]["diff_ids"]);

        let mut rootfs = Rootfs::default();
        let mut layers = Vec::new();
        for ((descriptor, diff_id), told) in descriptors.iter().zip(diff_ids).zip(history) {
            let digest = text(&descriptor["digest"]);
            let mut layer = Layer {
                digest: digest.to_owned(),
                path: blob(blobs, digest),
                title: text(&told["created_by"]).to_owned(),
                ours: documents::is_ours(told),
                codec: codec(text(&descriptor["mediaType"])),
                entries: Vec::new(),
            };
            let (size, found) = layer.read_into(&mut rootfs);
            assert_eq!(descriptor["size"], size, "{digest}");
            assert_eq!(text(diff_id), format!("sha256:{found}"), "{}", layer.title);
            layers.push(layer);
        }
        let image = Self {
            digest: digest.to_owned(),
            manifest,
            config,
            layers,
            rootfs,
        };
        image.check_places();
        image
    }

    /// The layers that imgbuild made.
    pub fn ours(&self) -> impl Iterator<Item = &Layer> {
        self.layers.iter().filter(|layer| layer.ours)
    }

    /// The layers of this image that the other does not have, by title.
    pub fn titles_not_in<'a>(&'a self, other: &Self) -> Vec<&'a str> {
        let known = |layer: &Layer| other.layers.iter().any(|l| l.digest == layer.digest);
        let new = self.layers.iter().filter(|layer| !known(layer));
        new.map(|layer| layer.title.as_str()).collect()
    }

    /// How many layers are of a base that imgbuild made itself, with another prefix: each image has
    /// one layer of state.
    fn base_layers(&self) -> usize {
        let states = self.layers.iter().enumerate();
        let mut states = states.filter(|(_, layer)| layer.title.starts_with("Environment state"));
        states.nth_back(1).map_or(0, |(place, _)| place + 1)
    }

    /// Our layers touch nothing but the prefixes and the code's folder.
    fn check_places(&self) {
        if self.ours().next().is_none() {
            return; // a base image
        }
        let label = &self.config["config"]["Labels"]["dev.imgbuild.prefix"];
        let prefix = text(label).trim_start_matches('/').to_owned();
        let mut places = vec![prefix.clone()];
        if prefix.starts_with("opt/conda/envs/") {
            places.push("opt/conda".into());
        }
        for layer in self.layers.iter().skip(self.base_layers()) {
            if !layer.ours {
                continue;
            }
            let code = layer.title.strip_prefix("User code in /");
            let places = code.map_or(places.clone(), |dest| vec![dest.to_owned()]);
            for entry in &layer.entries {
                let allowed = |place: &String| {
                    let place = Path::new(place);
                    entry.starts_with(place) || place.starts_with(entry)
                };
                assert!(
                    places.iter().any(allowed),
                    "{} of '{}' is outside {places:?}",
                    entry.display(),
                    layer.title
                );
            }
        }
    }
}

impl Layer {
    /// Whether the bytes occur anywhere in the layer's tar.
    pub fn contains(&self, needle: &[u8]) -> bool {
        let mut tar = self.tar();
        let mut window = Vec::new();
        loop {
            let keep = window.len().saturating_sub(needle.len());
            window.drain(..keep);
            let more = (&mut tar).take(1 << 20).read_to_end(&mut window).unwrap();
            if more == 0 {
                return false;
            }
            let starts = window.iter().enumerate().filter(|(_, b)| **b == needle[0]);
            if starts
                .into_iter()
                .any(|(at, _)| window[at..].starts_with(needle))
            {
                return true;
            }
        }
    }

    /// The tar inside; what is packed otherwise than the media type says gives an error.
    pub fn tar(&self) -> Box<dyn Read> {
        let blob = BufReader::with_capacity(1 << 20, File::open(&self.path).unwrap());
        match self.codec {
            Codec::Plain => Box::new(blob),
            Codec::Gzip => Box::new(MultiGzDecoder::new(blob)),
            Codec::Zstd => Box::new(zstd::Decoder::new(blob).unwrap()),
        }
    }

    /// Applies the layer and checks its tar; returns its size and its diff id.
    fn read_into(&mut self, rootfs: &mut Rootfs) -> (u64, String) {
        let (digest, size) = hash_file(&self.path);
        assert_eq!(format!("sha256:{digest}"), self.digest);
        let mut archive = tar::Archive::new(Sha::new(self.tar()));
        let mut seen = HashMap::new();
        let mut end = 0;
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().into_owned();
            let path = plain(&path, self.ours);
            end = entry.raw_file_position() + entry.size().next_multiple_of(512);
            if path == Path::new("") {
                continue; // the root folder, which bases may name
            }
            if self.ours {
                self.check_entry(&path, &entry, &mut seen, rootfs);
            }
            rootfs.apply(&path, &mut entry);
            self.entries.push(path);
        }
        let mut tar = archive.into_inner();
        let mut rest = Vec::new();
        tar.read_to_end(&mut rest).unwrap();
        assert!(
            rest.iter().all(|byte| *byte == 0),
            "more after the end of {}",
            self.title
        );
        let (diff_id, length, _) = tar.finish();
        if self.ours {
            assert_eq!(length, end + 1024, "the end of '{}'", self.title);
        }
        (size, diff_id)
    }

    fn check_entry<R: Read>(
        &self,
        path: &Path,
        entry: &tar::Entry<'_, R>,
        seen: &mut HashMap<PathBuf, tar::Header>,
        rootfs: &Rootfs,
    ) {
        let name = path.display();
        let header = entry.header();
        let kind = header.entry_type();
        let folder = path.parent().unwrap();
        let parent = seen.get(folder).map(tar::Header::entry_type);
        assert!(
            folder == Path::new("") || parent == Some(tar::EntryType::Directory),
            "{name} comes before its folder"
        );
        let before = rootfs
            .nodes
            .get(path)
            .map(|node| node.kind == super::Kind::Directory);
        let is_folder = kind == tar::EntryType::Directory;
        assert!(
            before.is_none_or(|was_folder| was_folder == is_folder),
            "{name} replaces a folder by something else or the reverse"
        );
        let mode = header.mode().unwrap();
        assert_eq!(mode & !0o1777, 0, "the mode of {name}: {mode:o}");
        assert!(
            matches!(
                kind,
                tar::EntryType::Directory
                    | tar::EntryType::Regular
                    | tar::EntryType::Symlink
                    | tar::EntryType::Link
            ),
            "{name} is {kind:?}"
        );
        if kind == tar::EntryType::Link {
            let target = entry.link_name().unwrap().unwrap();
            let target = seen
                .get(target.as_ref())
                .unwrap_or_else(|| panic!("{name} links to {target:?}, which this layer lacks"));
            assert!(target.entry_type().is_file(), "{name} links to no file");
            assert_eq!(target.mode().unwrap(), mode, "the mode of hard link {name}");
            assert_eq!(target.mtime().unwrap(), header.mtime().unwrap(), "{name}");
        }
        let twice = seen.insert(path.to_owned(), header.clone());
        assert!(twice.is_none(), "{name} comes twice in '{}'", self.title);
    }
}

fn codec(media_type: &str) -> Codec {
    match media_type.strip_prefix(LAYER) {
        Some("") => Codec::Plain,
        Some("+gzip") => Codec::Gzip,
        Some("+zstd") => Codec::Zstd,
        _ => panic!("a layer of the type {media_type}"),
    }
}

/// The path of an entry without a leading `./`; ours have none, and nothing has `..`.
fn plain(path: &Path, ours: bool) -> PathBuf {
    let odd = |part| match part {
        Component::Normal(_) => false,
        Component::CurDir => ours,
        _ => true,
    };
    assert!(!path.components().any(odd), "{path:?} in a layer");
    path.strip_prefix(".")
        .unwrap_or(path)
        .components()
        .collect()
}

pub fn blob(blobs: &Path, digest: &str) -> PathBuf {
    blobs.join(digest.strip_prefix("sha256:").expect("a sha256 digest"))
}

pub fn document(blobs: &Path, digest: &str) -> Value {
    let path = blob(blobs, digest);
    assert_eq!(format!("sha256:{}", hash_file(&path).0), digest);
    json_file(&path)
}

fn json_file(path: &Path) -> Value {
    let bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub(super) fn list(value: &Value) -> &Vec<Value> {
    value
        .as_array()
        .unwrap_or_else(|| panic!("no list: {value}"))
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// The sha256 and the size of a file.
pub fn hash_file(path: &Path) -> (String, u64) {
    let mut hashing = Sha::new(File::open(path).unwrap());
    io::copy(&mut hashing, &mut io::sink()).unwrap();
    let (hash, size, _) = hashing.finish();
    (hash, size)
}

/// Hashes what is read through it. The product's own is not used to check the product.
pub struct Sha<R> {
    inner: R,
    hasher: Sha256,
    length: u64,
}

impl<R: Read> Sha<R> {
    /// Wraps a reader.
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
            length: 0,
        }
    }

    /// The hash and the length so far, and the reader.
    pub fn finish(self) -> (String, u64, R) {
        (hex::encode(self.hasher.finalize()), self.length, self.inner)
    }
}

impl<R: Read> Read for Sha<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hasher.update(&buf[..n]);
        self.length += n as u64;
        Ok(n)
    }
}
