//! The OCI documents that carry attestations: as a referrer each (OCI image-spec, manifest.md,
//! "Guidelines for Artifact Usage"), or together in an index as BuildKit writes it (Docker docs,
//! "Image attestation storage").

use serde_json::json;

use crate::{
    base::media,
    digest::Digest,
    image::{Annotations, Descriptor, Document},
};

/// The media type of an in-toto statement.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";
/// The media type of an SPDX document as JSON.
pub const SPDX_JSON: &str = "application/spdx+json";
/// The config of an artifact that needs none (OCI image-spec, manifest.md, "Guidance for an Empty
/// Descriptor").
pub const EMPTY: &[u8] = b"{}";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// Says which kind of statement a blob is.
pub const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// Says which image of an index an attestation is about.
pub const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";

/// A document about an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attestation {
    /// Its media type, which is the artifact's type as well.
    pub media_type: &'static str,
    /// The kind of statement, of an in-toto statement.
    pub predicate_type: Option<&'static str>,
    /// What the artifact's manifest says of it, so that a list of referrers tells it too.
    pub annotations: Annotations,
    /// The document itself.
    pub bytes: Vec<u8>,
}

impl Attestation {
    fn kind(&self) -> Annotations {
        let kind = self.predicate_type.iter();
        kind.map(|kind| (PREDICATE_TYPE.to_owned(), (*kind).to_owned()))
            .collect()
    }

    fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: self.media_type.to_owned(),
            digest: Digest::of(&self.bytes),
            size: self.bytes.len() as u64,
            annotations: self.kind(),
            platform: None,
        }
    }
}

/// The manifest that makes a document a referrer of an image; its config is [`EMPTY`].
pub fn referrer(subject: &Descriptor, attestation: &Attestation) -> Vec<u8> {
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": media::OCI_MANIFEST,
        "artifactType": attestation.media_type,
        "config": {"mediaType": EMPTY_TYPE, "digest": Digest::of(EMPTY), "size": EMPTY.len()},
        "layers": [attestation.descriptor()],
        "subject": subject,
    });
    let mut annotations = attestation.annotations.clone();
    annotations.append(&mut attestation.kind());
    if !annotations.is_empty() {
        manifest["annotations"] = json!(annotations);
    }
    manifest.to_string().into_bytes()
}

/// Images and what is said of them under one index, as BuildKit has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested {
    /// The statements, and a config for each of their manifests.
    pub blobs: Vec<Vec<u8>>,
    /// The manifests of the statements, one an image.
    pub manifests: Vec<Document>,
    /// The index of the images and these manifests.
    pub index: Document,
}

impl Attested {
    /// Of images whose descriptors say their platforms.
    pub fn of(images: &[(Descriptor, Vec<Attestation>)]) -> Self {
        let (mut blobs, mut entries) = (Vec::new(), Vec::new());
        for (image, statements) in images {
            let (config, manifest) = attestation_manifest(statements);
            blobs.extend(statements.iter().map(|statement| statement.bytes.clone()));
            blobs.push(config);
            let manifest = Document::new(media::OCI_MANIFEST, manifest);
            entries.push((image.clone(), manifest));
        }
        Self {
            index: Document::new(media::OCI_INDEX, index(&entries)),
            manifests: entries.into_iter().map(|(_, manifest)| manifest).collect(),
            blobs,
        }
    }
}

/// The config and the manifest of statements, as BuildKit has them in an index.
fn attestation_manifest(statements: &[Attestation]) -> (Vec<u8>, Vec<u8>) {
    let blobs: Vec<Descriptor> = statements.iter().map(Attestation::descriptor).collect();
    let ids: Vec<Digest> = blobs.iter().map(|blob| blob.digest).collect();
    let config = json!({
        "architecture": "unknown",
        "os": "unknown",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": ids},
    });
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media::OCI_MANIFEST,
        "config": {
            "mediaType": media::OCI_CONFIG,
            "digest": Digest::of(&config),
            "size": config.len(),
        },
        "layers": blobs,
    });
    (config, manifest.to_string().into_bytes())
}

/// The index of images and the manifest of each one's statements.
fn index(images: &[(Descriptor, Document)]) -> Vec<u8> {
    let about = |(image, statements): &(Descriptor, Document)| Descriptor {
        annotations: Annotations::from([
            (REFERENCE_DIGEST.to_owned(), image.digest.to_string()),
            (REFERENCE_TYPE.to_owned(), "attestation-manifest".to_owned()),
        ]),
        platform: Some(json!({"architecture": "unknown", "os": "unknown"})),
        ..statements.descriptor()
    };
    let statements = images.iter().map(about);
    let images = images.iter().map(|(image, _)| image.clone());
    let index = json!({
        "schemaVersion": 2,
        "mediaType": media::OCI_INDEX,
        "manifests": images.chain(statements).collect::<Vec<_>>(),
    });
    index.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn an_index_names_image_and_statements() {
        let image = Descriptor {
            media_type: media::OCI_MANIFEST.into(),
            digest: Digest::of(b"image"),
            size: 5,
            annotations: Annotations::new(),
            platform: None,
        };
        let statement = Attestation {
            media_type: IN_TOTO,
            predicate_type: Some("kind"),
            annotations: Annotations::from([("said".to_owned(), "so".to_owned())]),
            bytes: b"{}".to_vec(),
        };
        let attested = Attested::of(&[(image.clone(), vec![statement.clone()])]);
        let parsed: Value = serde_json::from_slice(&attested.manifests[0].bytes).unwrap();
        assert_eq!(attested.blobs[0], statement.bytes);
        let config = Digest::of(&attested.blobs[1]);
        assert_eq!(parsed["config"]["digest"], json!(config));
        assert_eq!(parsed["layers"][0]["annotations"][PREDICATE_TYPE], "kind");
        let index: Value = serde_json::from_slice(&attested.index.bytes).unwrap();
        let manifests = index["manifests"].as_array().unwrap();
        assert_eq!(manifests[0]["digest"], json!(image.digest));
        assert_eq!(
            manifests[1]["annotations"][REFERENCE_DIGEST],
            json!(image.digest)
        );
        let referrer: Value = serde_json::from_slice(&referrer(&image, &statement)).unwrap();
        assert_eq!(referrer["subject"]["digest"], json!(image.digest));
        assert_eq!(referrer["artifactType"], IN_TOTO);
        let told = json!({PREDICATE_TYPE: "kind", "said": "so"});
        assert_eq!(referrer["annotations"], told);
    }
}
