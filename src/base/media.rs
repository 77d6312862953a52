//! Media types of layers: what is taken, what it is called in OCI's words, and what bytes look like.

use std::{
    fs::File,
    io::{self, Read},
};

use crate::{
    digest::Digest,
    error::{Error, Result},
    report::Reporter,
    store::Store,
};

use super::manifest::LayerBlob;

/// An uncompressed layer (OCI image-spec, layer.md).
pub const OCI_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
/// A gzip layer (OCI image-spec, layer.md).
pub const OCI_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// A zstd layer (OCI image-spec, layer.md).
pub const OCI_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// An image manifest (OCI image-spec, manifest.md).
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An image index (OCI image-spec, image-index.md).
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// An image config (OCI image-spec, config.md).
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Docker's image manifest (distribution, manifest-v2-2).
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's manifest list (distribution, manifest-v2-2).
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's image config (distribution, manifest-v2-2).
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// The OCI name of a layer's media type. The bytes are the same under both families of names.
///
/// # Errors
/// For layers that may not be distributed, and for types that are not known.
pub(super) fn oci_layer(media_type: &str) -> Result<&'static str> {
    match media_type {
        OCI_TAR | "application/vnd.docker.image.rootfs.diff.tar" => Ok(OCI_TAR),
        OCI_GZIP | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Ok(OCI_GZIP),
        OCI_ZSTD | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Ok(OCI_ZSTD),
        other if other.contains("nondistributable") || other.contains(".foreign.") => Err(
            Error::input("the image has a layer that its registry does not hold")
                .why(format!("media type {other}"))
                .hint("use a base image without foreign layers (Windows images have them)"),
        ),
        other => Err(Error::input("the image has a layer of an unknown kind")
            .why(format!("media type {other}"))
            .hint("imgbuild takes tar, gzip and zstd layers")),
    }
}

/// Refuses manifests that are not of container images.
///
/// # Errors
/// When the config is of another kind.
pub(super) fn check_config(media_type: &str) -> Result<()> {
    if [OCI_CONFIG, DOCKER_CONFIG].contains(&media_type) {
        return Ok(());
    }
    Err(
        Error::input("not a container image but another kind of artifact")
            .why(format!("its config has the media type {media_type}")),
    )
}

/// How a layer's bytes are packed, by their first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    /// Looks at the first bytes of a layer or an archive.
    ///
    /// # Errors
    /// For compressions that no engine takes in a layer, by name.
    pub fn sniff(magic: &[u8]) -> Result<Self> {
        match magic {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Self::Zstd),
            // A skippable frame: pigz's and zstd:chunked's writers may put one first.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Self::Zstd),
            [b'B', b'Z', b'h', ..] => Err(unknown_packing("bzip2")),
            [0xfd, b'7', b'z', b'X', ..] => Err(unknown_packing("xz")),
            _ => Ok(Self::Plain),
        }
    }

    /// The OCI media type of a layer packed like this.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Plain => OCI_TAR,
            Self::Gzip => OCI_GZIP,
            Self::Zstd => OCI_ZSTD,
        }
    }

    /// A reader of the tar inside.
    ///
    /// # Errors
    /// When the decompressor cannot be made.
    pub fn decoder<'a>(self, packed: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::Plain => Box::new(packed),
            // Layers of several members are one tar.
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(packed)),
            Self::Zstd => Box::new(zstd::Decoder::new(packed)?),
        })
    }
}

fn unknown_packing(name: &str) -> Error {
    Error::input(format!("compressed with {name}")).hint("imgbuild takes tar, gzip and zstd")
}

/// Looks at the first bytes that a reader gives.
///
/// # Errors
/// When they cannot be read, or are of a compression that is refused.
pub(super) fn sniff(reader: impl Read) -> io::Result<Result<Packing>> {
    let mut magic = Vec::with_capacity(4);
    reader.take(4).read_to_end(&mut magic)?;
    Ok(Packing::sniff(&magic))
}

/// Looks at a blob in the store.
///
/// # Errors
/// When it cannot be read, or is of a compression that is refused.
pub(crate) fn sniff_blob(store: &Store, digest: &Digest) -> Result<Packing> {
    let file: File = store.open_blob(digest)?;
    sniff(file)
        .map_err(|e| Error::io("read", store.blob_path(digest), e))?
        .map_err(|e| e.at(format!("layer {digest}")))
}

/// The tar inside a layer of the store, whatever its compression.
///
/// # Errors
/// When it cannot be read, or is of a compression that is refused.
pub fn open_layer(store: &Store, digest: &Digest) -> Result<Box<dyn Read>> {
    let packing = sniff_blob(store, digest)?;
    let packed = io::BufReader::with_capacity(256 << 10, store.open_blob(digest)?);
    packing
        .decoder(packed)
        .map_err(|e| Error::io("read", store.blob_path(digest), e))
}

/// Corrects media types that do not say what the blobs are: engines trust the declared type (a
/// gzip layer declared as a tar fails in containerd), and imgbuild declares them anew.
///
/// # Errors
/// When a blob cannot be read, or is of a compression that is refused.
pub(super) fn correct(layers: &mut [LayerBlob], store: &Store, reporter: &Reporter) -> Result<()> {
    layers
        .iter_mut()
        .try_for_each(|layer| correct_one(&layer.digest, &mut layer.media_type, store, reporter))
}

/// As [`correct`], of one layer.
///
/// # Errors
/// As [`correct`].
pub(super) fn correct_one(
    digest: &Digest,
    declared: &mut String,
    store: &Store,
    reporter: &Reporter,
) -> Result<()> {
    let found = sniff_blob(store, digest)?.media_type();
    if declared != found {
        reporter.warn(format_args!(
            "layer {digest} is declared as {declared} but is {found}; it is used as what it is"
        ));
        *declared = found.into();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_types() {
        let docker = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        assert_eq!(oci_layer(docker).unwrap(), OCI_GZIP);
        assert_eq!(oci_layer(OCI_ZSTD).unwrap(), OCI_ZSTD);
        for (bad, word) in [
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                "does not hold",
            ),
            (
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
                "does not hold",
            ),
            (
                "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
                "unknown kind",
            ),
            ("", "unknown kind"),
        ] {
            let error = oci_layer(bad).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains(bad), "{error}");
        }
        assert!(check_config("application/vnd.cncf.helm.config.v1+json").is_err());
    }

    #[test]
    fn sniffs_what_is_compressed() {
        let zstd = zstd::encode_all(&b"x"[..], 1).unwrap();
        assert_eq!(Packing::sniff(&zstd).unwrap(), Packing::Zstd);
        assert_eq!(Packing::sniff(&[0x1f, 0x8b, 8]).unwrap(), Packing::Gzip);
        assert_eq!(Packing::sniff(b"bin/").unwrap(), Packing::Plain);
        assert_eq!(Packing::sniff(b"").unwrap(), Packing::Plain);
        assert!(Packing::sniff(b"BZh9").is_err());
        assert!(Packing::sniff(&[0xfd, b'7', b'z', b'X']).is_err());
    }
}
