//! Documents about an image, beside it in its repository (OCI distribution-spec 1.1, "Listing
//! Referrers", "Pushing Manifests with Subject", "Referrers Tag Schema").
//!
//! A registry that lists referrers finds them by itself. For one that does not, the list is an
//! index under a tag made of the image's digest, which whoever adds one has to write anew. Which
//! of both it is says the answer to a push (`OCI-Subject`).

use bytes::Bytes;
use reqwest::{
    Method,
    header::{ACCEPT, HeaderValue},
};
use serde_json::{Value, json};

use super::{
    api::{Condition, Put},
    failure::Failure,
    login::read_all,
    problem::Problem,
    remote::Remote,
    transport::{Call, next_page},
};
use crate::{
    attest::{Attestation, Attested, EMPTY, referrer},
    base::media,
    digest::Digest,
    error::{Error, Result},
    image::{Descriptor, Document},
};

/// How often the list of a registry that has none of its own is written: others may write it at
/// the same time, and only one of them gets through, or the last one wins.
const WRITES: usize = 20;
/// The largest document that is read, in bytes.
const MAX_DOCUMENT: u64 = 256 << 20;
/// The largest list of referrers that is read, in bytes.
const MAX_LIST: usize = 8 << 20;
/// The most pages of such a list.
const MAX_PAGES: usize = 100;

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
        if matches!(self.put_referrer(&manifest).await?, Put::Listed) {
            return Ok(digest);
        }
        let entry = json!({
            "mediaType": media::OCI_MANIFEST,
            "digest": digest,
            "size": manifest.bytes.len(),
            "artifactType": document.media_type,
            "annotations": annotations(&manifest.bytes),
        });
        for _ in 0..WRITES {
            // Also after a write: registries that know no conditions let others overwrite it.
            if self.list(&subject.digest).await?.contains(&digest) {
                return Ok(digest);
            }
            self.add_to_list(&subject.digest, &entry).await?;
        }
        Err(self
            .remote
            .cannot()
            .why("others keep writing its list of referrers")
            .hint("push again"))
    }

    /// Puts it even where it is already: the answer says whether the registry lists it.
    async fn put_referrer(&self, manifest: &Document) -> Result<Put> {
        let name = manifest.digest.to_string();
        let put = || {
            self.remote
                .put_manifest(&name, manifest, &Condition::Always)
        };
        let put = self.remote.retrying(put).await;
        put.map_err(|e| e.at(self.place(&name)))
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
        let parsed = self.artifact(manifest).await?.unwrap_or_default();
        let layers = parsed["layers"].as_array();
        let found = layers.and_then(|layers| layers.iter().find(|layer| wanted(layer)));
        match found {
            Some(layer) => self.blob(layer).await.map(Some),
            None => Ok(None),
        }
    }

    /// The manifest of that digest, if it is there.
    ///
    /// # Errors
    /// When it is not what its digest says, or cannot be fetched.
    pub async fn artifact(&self, manifest: &Digest) -> Result<Option<Value>> {
        match self.manifest(&manifest.to_string()).await? {
            Some(bytes) if Digest::of(&bytes) != *manifest => Err(self.damaged(manifest)),
            Some(bytes) => Ok(Some(serde_json::from_slice(&bytes).unwrap_or_default())),
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
        let entries = match own {
            Some(entries) => entries,
            None => entries(self.manifest(&list_tag(subject)).await?.as_deref()),
        };
        // Registries need not filter.
        let fits = |entry: &&Value| kind.is_none() || entry["artifactType"].as_str() == kind;
        let digest = |entry: &Value| entry["digest"].as_str()?.parse().ok();
        Ok(entries.iter().filter(fits).filter_map(digest).collect())
    }

    /// All pages of it; nothing from a registry that keeps no list.
    async fn own_list(
        &self,
        subject: &Digest,
        kind: Option<&str>,
    ) -> Result<Option<Vec<Value>>, Failure> {
        let get = async {
            let mut url = self.remote.address(&format!("referrers/{subject}"))?;
            if let Some(kind) = kind {
                url.query_pairs_mut().append_pair("artifactType", kind);
            }
            let (mut all, mut next) = (Vec::new(), Some(url));
            for _ in 0..MAX_PAGES {
                let Some(url) = next else { break };
                let mut call = Call::new(Method::GET, url);
                let index = HeaderValue::from_static(media::OCI_INDEX);
                call.headers.insert(ACCEPT, index);
                let answer = self.remote.send(&call).await?;
                next = next_page(&answer);
                let bytes = read_all(answer, MAX_LIST, self.remote.transport()).await?;
                all.append(&mut entries(Some(&bytes)));
            }
            Ok::<_, Problem>(all)
        };
        match get.await {
            Ok(all) => Ok(Some(all)),
            Err(problem) if matches!(problem.status(), Some(400 | 404 | 405)) => Ok(None),
            Err(problem) => Err(self.remote.failure(problem)),
        }
    }

    /// Adds an entry to the list that the registry does not keep itself; not when another writer
    /// came between reading and writing it, where the registry can tell.
    async fn add_to_list(&self, subject: &Digest, entry: &Value) -> Result<()> {
        let tag = list_tag(subject);
        let read = || self.remote.manifest_to_change(&tag);
        let (list, condition) = self.remote.retrying(read).await?;
        let list = with_entry(list.as_deref(), entry).map_err(|why| {
            Error::environment("the list of an image's referrers cannot be written")
                .at(self.place(&tag))
                .why(why)
                .hint("remove the tag, if nobody needs it")
        })?;
        let list = Document::new(media::OCI_INDEX, list);
        let write = || self.remote.put_manifest(&tag, &list, &condition);
        let written = self.remote.retrying(write).await;
        let written = written.and_then(Put::taken);
        written.map_err(|e| e.at(self.place(&tag)))
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
        let put = self.remote.retrying(|| async {
            if self.remote.manifest_digest(name).await? == Some(document.digest) {
                return Ok::<Put, Failure>(Put::Taken);
            }
            let put = self.remote.put_manifest(name, document, &Condition::Always);
            put.await
        });
        let put = put.await.and_then(Put::taken);
        put.map_err(|e| e.at(self.place(name)))
    }

    async fn names(&self, name: &str, digest: &Digest) -> Result<bool> {
        let asked = self.remote.retrying(|| self.remote.manifest_digest(name));
        Ok(asked.await? == Some(*digest))
    }

    /// The document that a layer of a manifest stands for.
    ///
    /// # Errors
    /// When it is too large, is not what its digest says, or cannot be fetched.
    pub async fn blob(&self, layer: &Value) -> Result<Vec<u8>> {
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

fn entries(index: Option<&[u8]>) -> Vec<Value> {
    let index: Value = index
        .and_then(|bytes| serde_json::from_slice(bytes).ok())
        .unwrap_or_default();
    index["manifests"].as_array().cloned().unwrap_or_default()
}

/// A list of referrers, or a new one, with an entry more.
fn with_entry(list: Option<&[u8]>, entry: &Value) -> Result<Vec<u8>, String> {
    let mut index = match list {
        None => json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": []}),
        Some(bytes) => serde_json::from_slice::<Value>(bytes).map_err(|e| e.to_string())?,
    };
    let Some(entries) = index["manifests"].as_array_mut() else {
        return Err("what has its tag is not an image index".into());
    };
    if entries
        .iter()
        .all(|known| known["digest"] != entry["digest"])
    {
        entries.push(entry.clone());
    }
    Ok(index.to_string().into_bytes())
}

fn annotations(manifest: &[u8]) -> Value {
    let parsed: Value = serde_json::from_slice(manifest).unwrap_or_default();
    match &parsed["annotations"] {
        Value::Null => json!({}),
        annotations => annotations.clone(),
    }
}
