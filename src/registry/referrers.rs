//! Documents about an image, beside it in its repository (OCI distribution-spec 1.1, "Listing
//! Referrers", "Pushing Manifests with Subject", "Referrers Tag Schema").
//!
//! A registry that lists referrers finds them by itself. For one that does not, the list is an
//! index under a tag made of the image's digest, which whoever adds one has to write anew. Which
//! of both it is shows after a push: the referrer is listed, or it is not.

use bytes::Bytes;
use reqwest::{
    Method,
    header::{ACCEPT, HeaderValue},
};
use serde_json::{Value, json};

use super::{failure::Failure, login::read_all, problem::Problem, remote::Remote, transport::Call};
use crate::{
    attest::{Attestation, Attested, EMPTY, referrer},
    base::media,
    digest::Digest,
    error::{Error, Result},
    image::{Descriptor, Document},
};

/// How often the list of a registry that has none of its own is written: others may write it at
/// the same time, and the last one wins.
const WRITES: usize = 5;
/// The largest document that is read, in bytes.
const MAX_DOCUMENT: u64 = 256 << 20;
/// The largest list of referrers that is read, in bytes.
const MAX_LIST: usize = 8 << 20;

/// A repository, open for documents.
pub struct Referrers<'a> {
    remote: &'a Remote,
}

impl<'a> Referrers<'a> {
    /// Those of a connected repository.
    pub fn of(remote: &'a Remote) -> Self {
        Self { remote }
    }

    /// Attaches a document to an image; one that is attached already is not sent again. Returns
    /// the digest of the manifest that carries it.
    ///
    /// # Errors
    /// When the registry cannot be reached or refuses, or when others keep writing the list.
    pub async fn attach(&self, subject: &Descriptor, document: &Attestation) -> Result<Digest> {
        let manifest = Document::new(media::OCI_MANIFEST, referrer(subject, document));
        let digest = manifest.digest;
        if self.list(&subject.digest).await?.contains(&digest) {
            return Ok(digest);
        }
        self.put_blob(EMPTY).await?;
        self.put_blob(&document.bytes).await?;
        self.put_manifest(&digest.to_string(), &manifest).await?;
        let entry = json!({
            "mediaType": media::OCI_MANIFEST,
            "digest": digest,
            "size": manifest.bytes.len(),
            "artifactType": document.media_type,
            "annotations": annotations(&manifest.bytes),
        });
        for _ in 0..WRITES {
            if self.list(&subject.digest).await?.contains(&digest) {
                return Ok(digest);
            }
            self.add_to_list(&subject.digest, &entry).await?;
        }
        match self.list(&subject.digest).await?.contains(&digest) {
            true => Ok(digest),
            false => Err(self
                .remote
                .cannot()
                .why("others keep writing its list of referrers")
                .hint("push again")),
        }
    }

    /// Puts statements beside images as BuildKit does, and gives these tags to the index of them
    /// all. The images are there already.
    ///
    /// # Errors
    /// When the registry cannot be reached or refuses.
    pub async fn tag_with(&self, attested: &Attested, tags: &[String]) -> Result<()> {
        let Attested { index, .. } = attested;
        if !self.names(&index.digest.to_string(), &index.digest).await? {
            for blob in &attested.blobs {
                self.put_blob(blob).await?;
            }
            for document in attested.manifests.iter().chain([index]) {
                let name = document.digest.to_string();
                self.put_manifest(&name, document).await?;
            }
        }
        for tag in tags {
            self.put_manifest(tag, index).await?;
        }
        Ok(())
    }

    /// The manifests of a type of artifact that refer to an image.
    ///
    /// # Errors
    /// When the registry cannot be reached or refuses.
    pub async fn of_type(&self, subject: &Digest, artifact_type: &str) -> Result<Vec<Digest>> {
        let listed = self.listed(subject, Some(artifact_type)).await?;
        Ok(listed)
    }

    /// The first document in a manifest for which `wanted` holds, by its annotations.
    ///
    /// # Errors
    /// When it is not there, is not what its digest says, or cannot be fetched.
    pub async fn document(
        &self,
        manifest: &Digest,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Option<Vec<u8>>> {
        let Some(bytes) = self.manifest(&manifest.to_string()).await? else {
            return Ok(None);
        };
        if Digest::of(&bytes) != *manifest {
            return Err(self.damaged(manifest));
        }
        let parsed: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let layers = parsed["layers"].as_array();
        let found = layers.and_then(|layers| layers.iter().find(|layer| wanted(layer)));
        match found {
            Some(layer) => self.blob(layer).await.map(Some),
            None => Ok(None),
        }
    }

    /// The manifest or the index that a tag or a digest names, if it names one.
    ///
    /// # Errors
    /// When the registry cannot be reached or refuses.
    pub async fn manifest(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let fetch = self.remote.retrying(|| async {
            match self.remote.has_manifest(name).await? {
                true => self.remote.manifest(name).await.map(Some),
                false => Ok(None),
            }
        });
        fetch.await
    }

    async fn list(&self, subject: &Digest) -> Result<Vec<Digest>> {
        self.listed(subject, None).await
    }

    /// By the registry's own list, else by the index under the image's tag.
    async fn listed(&self, subject: &Digest, kind: Option<&str>) -> Result<Vec<Digest>> {
        let own = self
            .remote
            .retrying(|| self.own_list(subject, kind))
            .await?;
        let bytes = match own {
            Some(bytes) => Some(bytes),
            None => self.manifest(&list_tag(subject)).await?,
        };
        let index: Value = match bytes {
            Some(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            None => Value::Null,
        };
        let entries = index["manifests"].as_array().into_iter().flatten();
        // Registries need not filter.
        let fits = entries.filter(|entry| kind.is_none() || entry["artifactType"].as_str() == kind);
        Ok(fits
            .filter_map(|entry| entry["digest"].as_str()?.parse().ok())
            .collect())
    }

    /// Nothing from a registry that keeps no list.
    async fn own_list(
        &self,
        subject: &Digest,
        kind: Option<&str>,
    ) -> Result<Option<Vec<u8>>, Failure> {
        let get = async {
            let mut url = self.remote.address(&format!("referrers/{subject}"))?;
            if let Some(kind) = kind {
                url.query_pairs_mut().append_pair("artifactType", kind);
            }
            let mut call = Call::new(Method::GET, url);
            let index = HeaderValue::from_static(media::OCI_INDEX);
            call.headers.insert(ACCEPT, index);
            let answer = self.remote.send(&call).await?;
            read_all(answer, MAX_LIST, self.remote.transport()).await
        };
        match get.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(problem) if matches!(problem.status(), Some(400 | 404 | 405)) => Ok(None),
            Err(problem) => Err(self.remote.failure(problem)),
        }
    }

    /// Adds an entry to the list that the registry does not keep itself.
    async fn add_to_list(&self, subject: &Digest, entry: &Value) -> Result<()> {
        let tag = list_tag(subject);
        let foreign = |why: String| {
            let place = self.place(&tag);
            Error::environment("the list of an image's referrers cannot be written")
                .at(place)
                .why(why)
                .hint("remove the tag, if nobody needs it")
        };
        let mut index = match self.manifest(&tag).await? {
            None => json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": []}),
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|e| foreign(e.to_string()))?,
        };
        let Some(entries) = index["manifests"].as_array_mut() else {
            return Err(foreign("what has its tag is not an image index".into()));
        };
        if entries
            .iter()
            .any(|known| known["digest"] == entry["digest"])
        {
            return Ok(());
        }
        entries.push(entry.clone());
        let index = Document::new(media::OCI_INDEX, index.to_string().into_bytes());
        self.put_manifest(&tag, &index).await
    }

    async fn put_blob(&self, bytes: &[u8]) -> Result<()> {
        let (digest, bytes) = (Digest::of(bytes), Bytes::copy_from_slice(bytes));
        let put = self.remote.retrying(|| async {
            if self.remote.has_blob(&digest).await? {
                return Ok::<(), Failure>(());
            }
            self.remote.put_blob(&digest, &bytes).await
        });
        put.await.map_err(|e| e.at(format!("blob {digest}")))
    }

    /// Puts a manifest under a name, unless that is what the name stands for already.
    async fn put_manifest(&self, name: &str, document: &Document) -> Result<()> {
        let bytes = Bytes::copy_from_slice(&document.bytes);
        let (digest, kind) = (document.digest, document.media_type);
        let put = self.remote.retrying(|| async {
            if self.remote.manifest_digest(name).await? == Some(digest) {
                return Ok::<(), Failure>(());
            }
            self.remote.put_manifest(name, kind, &bytes).await
        });
        put.await.map_err(|e| e.at(self.place(name)))
    }

    async fn names(&self, name: &str, digest: &Digest) -> Result<bool> {
        let asked = self.remote.retrying(|| self.remote.manifest_digest(name));
        Ok(asked.await? == Some(*digest))
    }

    async fn blob(&self, layer: &Value) -> Result<Vec<u8>> {
        let digest = layer["digest"].as_str().and_then(|text| text.parse().ok());
        let size = layer["size"].as_u64().filter(|size| *size <= MAX_DOCUMENT);
        let (Some(digest), Some(size)) = (digest, size) else {
            return Err(self
                .remote
                .cannot()
                .why("an attached document is too large or unnamed"));
        };
        let digest: Digest = digest;
        let bytes = self.remote.retrying(|| self.read_blob(&digest, size));
        let bytes = bytes.await?;
        match Digest::of(&bytes) == digest {
            true => Ok(bytes),
            false => Err(self.damaged(&digest)),
        }
    }

    /// No more of a blob than it should have.
    async fn read_blob(&self, digest: &Digest, size: u64) -> Result<Vec<u8>, Failure> {
        let mut incoming = self.remote.blob(digest).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = incoming.next().await.map_err(|p| self.remote.failure(p))? {
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > size {
                let longer = Problem::Odd(format!("{digest} is longer than it should be"));
                return Err(self.remote.failure(longer));
            }
        }
        Ok(bytes)
    }

    fn damaged(&self, digest: &Digest) -> Error {
        let other = format!("what the registry sends is not {digest}");
        self.remote.cannot().why(other)
    }

    fn place(&self, name: &str) -> String {
        let at = self.remote.reference();
        format!("{}/{}, {name}", at.registry(), at.repository())
    }
}

/// The tag of the list of an image's referrers ("Referrers Tag Schema").
fn list_tag(subject: &Digest) -> String {
    subject.to_string().replace(':', "-")
}

fn annotations(manifest: &[u8]) -> Value {
    let parsed: Value = serde_json::from_slice(manifest).unwrap_or_default();
    match &parsed["annotations"] {
        Value::Null => json!({}),
        annotations => annotations.clone(),
    }
}
