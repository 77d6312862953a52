//! OCI image layouts, in a folder or in one tar (OCI image-spec, image-layout.md).

use super::{
    BaseImage, Platform,
    files::{Files, blob_document, blob_name, document, import},
    manifest::{self, Descriptor, Document, MAX_DEPTH, Manifest},
    media,
};
use crate::{
    digest::Digest,
    error::{Error, Result},
    report::Reporter,
    store::Store,
};

/// Loads an image of a layout: by tag, or the only one that fits the platform.
///
/// # Errors
/// When the layout is damaged, or holds no such image or several.
pub(super) fn load(
    files: &dyn Files,
    tag: Option<&str>,
    store: &Store,
    reporter: &Reporter,
    platform: &Platform,
) -> Result<BaseImage> {
    let place = |error: Error| error.at(files.place());
    let (digest, manifest, document) = find(files, tag, platform).map_err(place)?;
    let mut layers = manifest.layers().map_err(place)?;
    let config = blob_document(files, &manifest.config.digest()?)?;
    let (config, diff_ids) = manifest::read_config(&config, platform).map_err(place)?;
    for layer in &layers {
        let name = blob_name(&layer.digest);
        import(files, &name, (&layer.digest, layer.size), store, reporter)?;
    }
    // Kept, for its annotations say what the layers were made of.
    store.put_blob(&document)?;
    media::correct(&mut layers, store, reporter).map_err(place)?;
    manifest::assemble(config, layers, diff_ids, digest).map_err(place)
}

/// The manifest of an image: its digest, itself, and its bytes.
fn find(
    files: &dyn Files,
    tag: Option<&str>,
    platform: &Platform,
) -> Result<(Digest, Manifest, Vec<u8>)> {
    let index = document(files, "index.json")
        .map_err(|e| e.hint("an OCI image layout has an index.json: is this one?"))?;
    let Document::Index(mut entries) = Document::parse(&index)? else {
        return Err(Error::input("index.json is not an image index"));
    };
    let mut tag = tag;
    for depth in 0..MAX_DEPTH {
        let chosen: &Descriptor = manifest::choose(&entries, platform, tag, depth == 0)?;
        let digest = chosen.digest()?;
        let bytes = blob_document(files, &digest)?;
        match Document::parse(&bytes)? {
            Document::Manifest(manifest) => return Ok((digest, manifest, bytes)),
            Document::Index(nested) => entries = nested,
        }
        // Names stand in the top index only.
        tag = None;
    }
    Err(Error::input(
        "image indexes point to each other without end",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::testing::{Fixture, gzip, layer_tar};
    use serde_json::json;

    #[test]
    fn loads_a_layout_by_tag_and_platform() {
        let fixture = Fixture::new();
        let layer = layer_tar(&["etc/", "etc/hostname"]);
        let image = fixture.image(&[layer.as_slice()], "amd64");
        let other = fixture.image(&[layer.as_slice()], "arm64");
        let nested = fixture.index(json!([
            fixture.descriptor(
                &other,
                json!({"platform": {"os": "linux", "architecture": "arm64"}})
            ),
            fixture.descriptor(
                &image,
                json!({"platform": {"os": "linux", "architecture": "amd64"}})
            ),
        ]));
        let name = json!({"annotations": {"org.opencontainers.image.ref.name": "v1"}});
        fixture.write_index(json!([fixture.descriptor(&nested, name)]));

        let base = fixture.load_layout(Some("v1")).unwrap();
        assert_eq!(base.digest, Some(image.digest));
        assert_eq!(base.layers.len(), 1);
        assert_eq!(base.layers[0].media_type, media::OCI_GZIP);
        assert_eq!(base.layers[0].diff_id.0, Digest::of(&layer));
        assert!(
            fixture
                .store
                .has_blob(&base.layers[0].digest, base.layers[0].size)
        );
        assert_eq!(base.config["architecture"], "amd64");
        assert!(fixture.load_layout(None).is_ok());
        let error = fixture.load_layout(Some("v2")).unwrap_err().to_string();
        assert!(error.contains("no image named 'v2'"), "{error}");

        let archive = fixture.archive();
        let mut fresh = Fixture::new();
        fresh.dir = fixture.dir;
        for compressed in [false, true] {
            let path = fresh.store.root().join("a.tar");
            let bytes = if compressed {
                gzip(&archive)
            } else {
                archive.clone()
            };
            std::fs::write(&path, bytes).unwrap();
            let files =
                crate::base::archive::Archive::open(&path, &fresh.store, &fresh.reporter).unwrap();
            let again = load(
                &files,
                Some("v1"),
                &fresh.store,
                &fresh.reporter,
                &Platform::linux_amd64(),
            )
            .unwrap();
            assert_eq!(again.layers, base.layers);
        }
    }

    #[test]
    fn damage_is_named_and_not_kept() {
        let fixture = Fixture::new();
        let image = fixture.image(&[&layer_tar(&["a"])], "amd64");
        fixture.write_index(json!([fixture.descriptor(&image, json!({}))]));
        let layer = image.layers[0];
        let path = fixture.blob(&layer);
        let good = std::fs::read(&path).unwrap();

        let mut bad = good.clone();
        *bad.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &bad).unwrap();
        let error = fixture.load_layout(None).unwrap_err().to_string();
        assert!(error.contains(&layer.to_string()), "{error}");
        assert!(error.contains(&Digest::of(&bad).to_string()), "{error}");
        assert!(!fixture.store.blob_path(&layer).exists());

        std::fs::write(&path, &good[1..]).unwrap();
        let error = fixture.load_layout(None).unwrap_err().to_string();
        assert!(error.contains("the manifest says"), "{error}");
        std::fs::remove_file(&path).unwrap();
        let error = fixture.load_layout(None).unwrap_err().to_string();
        assert!(error.contains("is not there"), "{error}");
        std::fs::write(&path, &good).unwrap();
        fixture.load_layout(None).unwrap();
    }

    #[test]
    fn wrong_media_types_are_corrected() {
        let fixture = Fixture::new();
        let image = fixture.image_declared(&[&layer_tar(&["a"])], "amd64", media::OCI_TAR);
        fixture.write_index(json!([fixture.descriptor(&image, json!({}))]));
        assert_eq!(
            fixture.load_layout(None).unwrap().layers[0].media_type,
            media::OCI_GZIP
        );
    }
}
