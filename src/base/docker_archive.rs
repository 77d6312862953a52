//! What `docker save`, podman and skopeo write: `manifest.json` over layers in one tar.
//!
//! The format is Docker's image specification v1.2 (moby, image/spec/v1.2.md, "Combined Image JSON
//! and Filesystem Changeset Format"). Layers are plain tars there, but writers differ: they may be
//! compressed, links to other layers, or blobs of an OCI layout that the archive holds as well.

use serde::Deserialize;

use super::{
    BaseImage, Platform,
    archive::Archive,
    files::{Files, copy, damaged, document, import},
    layout,
    manifest::{self, LayerBlob},
    media::{self, Packing},
};
use crate::{
    digest::{DiffId, Digest},
    error::{Error, Result},
    reference,
    report::{Activity, Reporter, Step},
    store::Store,
};

/// One image of the archive.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Loads an image of an archive: by reference, or the only one.
///
/// # Errors
/// When the archive is damaged, or holds no such image or several.
pub(super) fn load(
    archive: &Archive,
    reference: Option<&str>,
    store: &Store,
    reporter: &Reporter,
    platform: &Platform,
) -> Result<BaseImage> {
    if !archive.has("manifest.json") && archive.has("index.json") {
        return layout::load(archive, reference, store, reporter, platform);
    }
    let place = |error: Error| error.at(archive.place());
    let listed: Vec<Listed> = serde_json::from_slice(&document(archive, "manifest.json")?)
        .map_err(|e| place(Error::input("manifest.json cannot be read").why(e)))?;
    let image = pick(&listed, reference).map_err(place)?;
    let config = document(archive, &image.config)?;
    let digest = Digest::of(&config);
    check_config_name(archive, &image.config, &config).map_err(place)?;
    let (config, diff_ids) = manifest::read_config(&config, platform).map_err(place)?;
    if diff_ids.len() != image.layers.len() {
        return manifest::assemble(config, Vec::new(), diff_ids, digest).map_err(place);
    }
    let layers = image
        .layers
        .iter()
        .zip(&diff_ids)
        .map(|(name, diff_id)| take_layer(archive, name, diff_id, store, reporter).map_err(place))
        .collect::<Result<_>>()?;
    manifest::assemble(config, layers, diff_ids, digest).map_err(place)
}

/// A config whose file name is a digest must have that digest: it is the image's identity.
fn check_config_name(archive: &Archive, name: &str, bytes: &[u8]) -> Result<()> {
    let target = archive.target(name).unwrap_or(name);
    let found = Digest::of(bytes);
    match named_digest(target.trim_end_matches(".json")) {
        Some(expected) if expected != found => Err(damaged(&expected, &found, bytes.len() as u64)),
        _ => Ok(()),
    }
}

fn pick<'a>(listed: &'a [Listed], reference: Option<&str>) -> Result<&'a Listed> {
    let tags = || {
        let tags = listed
            .iter()
            .flat_map(|image| image.repo_tags.iter().flatten());
        format!("it holds: {}", tags.cloned().collect::<Vec<_>>().join(", "))
    };
    match (listed, reference) {
        ([], _) => Err(Error::input("the archive holds no image")),
        ([one], None) => Ok(one),
        (_, None) => Err(Error::input("more than one image there")
            .why(tags())
            .hint("name one: docker-archive:FILE:REFERENCE")),
        (_, Some(wanted)) => listed
            .iter()
            .find(|image| {
                image
                    .repo_tags
                    .iter()
                    .flatten()
                    .any(|tag| same_reference(tag, wanted))
            })
            .ok_or_else(|| Error::input(format!("no image named '{wanted}' there")).why(tags())),
    }
}

/// Whether two references name one image, with Docker's defaults filled in.
fn same_reference(a: &str, b: &str) -> bool {
    let whole = |text: &str| reference::parse(text).map(|r| r.whole());
    a == b || matches!((whole(a), whole(b)), (Ok(a), Ok(b)) if a == b)
}

fn take_layer(
    archive: &Archive,
    name: &str,
    diff_id: &DiffId,
    store: &Store,
    reporter: &Reporter,
) -> Result<LayerBlob> {
    let missing = || Error::input(format!("{name}, a layer, is not there"));
    let (reader, size) = archive.open(name)?.ok_or_else(missing)?;
    let packing = media::sniff(reader)
        .map_err(|e| Error::environment(format!("cannot read {name}")).why(e))?
        .map_err(|e| e.at(name))?;
    let known = match packing {
        // The blob is the tar, so its digest is the diff id.
        Packing::Plain => Some(diff_id.0),
        _ => archive.target(name).and_then(named_digest),
    };
    let digest = match known {
        Some(digest) => {
            import(archive, name, (&digest, size), store, reporter)?;
            digest
        }
        None => hash_in(archive, name, store, reporter)?,
    };
    Ok(LayerBlob {
        digest,
        size,
        media_type: packing.media_type().into(),
    })
}

/// Stores a compressed layer whose digest nothing names; its diff id is checked when it is read.
fn hash_in(archive: &Archive, name: &str, store: &Store, reporter: &Reporter) -> Result<Digest> {
    let missing = || Error::input(format!("{name}, a layer, is not there"));
    let (reader, size) = archive.open(name)?.ok_or_else(missing)?;
    let mut writer = store.blob_writer()?;
    let task = reporter.bytes(
        Activity::new(Step::Base, format!("base layer {name}")),
        Some(size),
    );
    copy(reader, &mut writer, &task)?;
    Ok(writer.finish()?.0)
}

/// The digest in a name such as `blobs/sha256/<hex>` or `<hex>`.
fn named_digest(name: &str) -> Option<Digest> {
    let last = name.strip_prefix("blobs/sha256/").unwrap_or(name);
    (last.len() == 64).then(|| last.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::testing::{Fixture, TarBuilder, gzip, layer_tar};
    use serde_json::json;
    use tar::EntryType;

    fn load_tar(fixture: &Fixture, tar: &[u8], reference: Option<&str>) -> Result<BaseImage> {
        let archive = Archive::spool("x.tar".into(), tar, &fixture.store, &fixture.reporter)?;
        let platform = Platform::linux_amd64();
        load(
            &archive,
            reference,
            &fixture.store,
            &fixture.reporter,
            &platform,
        )
    }

    fn config(layers: &[&[u8]]) -> Vec<u8> {
        let ids: Vec<_> = layers.iter().map(|l| Digest::of(l).to_string()).collect();
        json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ids}})
            .to_string()
            .into_bytes()
    }

    #[test]
    fn loads_plain_compressed_and_linked_layers_in_any_order() {
        let fixture = Fixture::new();
        let (one, two) = (layer_tar(&["a"]), layer_tar(&["b"]));
        let packed = zstd::encode_all(&two[..], 1).unwrap();
        let config = config(&[&one, &one, &two, &one]);
        let config_name = format!("{}.json", Digest::of(&config).hex());
        let list = json!([{"Config": config_name, "RepoTags": ["debian:12"],
            "Layers": ["1/layer.tar", "2/layer.tar", "3/layer.tar", "4/layer.tar"]}]);
        let tar = TarBuilder::new()
            .link("2/layer.tar", "../1/layer.tar", EntryType::Symlink)
            .file("manifest.json", list.to_string().as_bytes())
            .file("3/layer.tar", &packed)
            .file("4/layer.tar", &gzip(&one))
            .file(&config_name, &config)
            .file("../evil", b"x")
            .file("./1/layer.tar", &one)
            .done();
        let base = load_tar(&fixture, &tar, None).unwrap();
        let types: Vec<_> = base.layers.iter().map(|l| l.media_type.as_str()).collect();
        assert_eq!(
            types,
            [
                media::OCI_TAR,
                media::OCI_TAR,
                media::OCI_ZSTD,
                media::OCI_GZIP
            ]
        );
        assert_eq!(base.layers[0].digest, Digest::of(&one));
        assert_eq!(base.layers[1], base.layers[0]);
        assert_eq!(base.layers[2].digest, Digest::of(&packed));
        assert_eq!(base.digest, Some(Digest::of(&config)));
        for layer in &base.layers {
            assert!(fixture.store.has_blob(&layer.digest, layer.size));
        }
        assert!(load_tar(&fixture, &tar, Some("docker.io/library/debian:12")).is_ok());
        let error = load_tar(&fixture, &tar, Some("debian:13"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("it holds: debian:12"), "{error}");
    }

    #[test]
    fn damage_and_escapes_are_errors() {
        let fixture = Fixture::new();
        let (one, two) = (layer_tar(&["a"]), layer_tar(&["b"]));
        let config = config(&[&one]);
        let list = |layer: &str| json!([{"Config": "c.json", "Layers": [layer]}]).to_string();
        let with = |layer: &str| {
            TarBuilder::new()
                .file("manifest.json", list(layer).as_bytes())
                .file("c.json", &config)
        };
        let read = |tar: TarBuilder| {
            load_tar(&fixture, &tar.done(), None)
                .unwrap_err()
                .to_string()
        };
        // Another tar than the config's diff id says.
        let error = read(with("l.tar").file("l.tar", &two));
        assert!(
            error.contains("damaged") && error.contains(&Digest::of(&two).to_string()),
            "{error}"
        );
        assert!(!fixture.store.blob_path(&Digest::of(&two)).exists());
        let error = read(with("../../etc/passwd"));
        assert!(error.contains("is not there"), "{error}");
        let error = read(with("l.tar").link("l.tar", "../../etc/passwd", EntryType::Symlink));
        assert!(error.contains("not a plain file"), "{error}");
        let error = read(with("l.tar").link("l.tar", "l.tar", EntryType::Symlink));
        assert!(error.contains("is not there"), "{error}");
        let error = read(TarBuilder::new().file("x", b""));
        assert!(error.contains("no manifest.json"), "{error}");
        let name = Digest::of(b"other").hex();
        let list = json!([{"Config": name, "Layers": ["l.tar"]}]).to_string();
        let error = read(
            TarBuilder::new()
                .file("manifest.json", list.as_bytes())
                .file(&name, &config),
        );
        assert!(error.contains("damaged"), "{error}");
    }

    #[test]
    fn blobs_of_a_combined_archive_are_checked_by_name() {
        let fixture = Fixture::new();
        let layer = layer_tar(&["a"]);
        let (config, packed) = (config(&[&layer]), gzip(&layer));
        let blob = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
        let list = json!([{"Config": blob(&config), "Layers": [blob(&packed)]}]).to_string();
        let with = |content: &[u8]| {
            TarBuilder::new()
                .file("index.json", b"{}")
                .file("manifest.json", list.as_bytes())
                .file(&blob(&config), &config)
                .file(&blob(&packed), content)
                .done()
        };
        let error = load_tar(&fixture, &with(&gzip(b"")), None)
            .unwrap_err()
            .to_string();
        assert!(error.contains("damaged"), "{error}");
        let base = load_tar(&fixture, &with(&packed), None).unwrap();
        assert_eq!(base.layers[0].digest, Digest::of(&packed));
        assert_eq!(base.layers[0].media_type, media::OCI_GZIP);
    }
}
