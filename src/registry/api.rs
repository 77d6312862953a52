//! The requests of the OCI distribution-spec that read and name things; uploads are
//! [`super::upload`].

use std::time::Duration;

use bytes::Bytes;
use reqwest::{
    Method, Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_MATCH, IF_NONE_MATCH},
};
use serde::Deserialize;

use super::{
    body::{Content, Watch},
    failure::Failure,
    login::read_all,
    problem::Problem,
    remote::Remote,
    transport::Call,
};
use crate::{base::media, digest::Digest, error::Error, image::Document};

/// Manifests beyond this size are not read (registries refuse them as well).
const MAX_MANIFEST: usize = 8 << 20;

const MANIFESTS: [&str; 4] = [
    media::OCI_INDEX,
    media::OCI_MANIFEST,
    media::DOCKER_LIST,
    media::DOCKER_MANIFEST,
];

/// On what a name must stand for a manifest is put under it (RFC 9110, 13.1). Registries that do
/// not know conditions put it anyway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// Anything.
    Always,
    /// Nothing.
    Absent,
    /// What has this entity tag.
    Unchanged(HeaderValue),
}

/// What came of putting a manifest.
#[derive(Debug)]
pub(super) enum Put {
    /// The registry took it.
    Taken,
    /// It took it, and lists it under the image that it refers to (OCI distribution-spec 1.1,
    /// "Pushing Manifests with Subject").
    Listed,
    /// The condition did not hold.
    Changed,
    /// The repository lacks a blob that it names.
    Lacking(Error),
}

impl Put {
    /// # Errors
    /// When the repository lacks a blob.
    pub fn taken(self) -> Result<(), Error> {
        match self {
            Self::Taken | Self::Listed | Self::Changed => Ok(()),
            Self::Lacking(error) => Err(error),
        }
    }
}

/// A blob as it comes.
pub struct Incoming {
    answer: Response,
    silence: Duration,
}

impl Incoming {
    /// The next piece; nothing at the end.
    ///
    /// # Errors
    /// When the connection breaks, or nothing comes.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        let piece = Watch::quiet(self.silence).wait(self.answer.chunk()).await;
        piece
            .ok_or(Problem::Silent(self.silence))?
            .map_err(Problem::Broken)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    media_type: Option<String>,
}

impl Remote {
    /// The manifest or the index that a tag or a digest names.
    ///
    /// # Errors
    /// When the registry refuses or has none, or its headers say another digest or kind than what
    /// it sends.
    pub async fn manifest(&self, name: &str) -> Result<Vec<u8>, Failure> {
        let got = self.get_manifest(name).await;
        got.map(|(_, bytes)| bytes).map_err(|p| self.failure(p))
    }

    /// What a name stands for, if for anything, and the condition that it still does.
    pub(super) async fn manifest_to_change(
        &self,
        name: &str,
    ) -> Result<(Option<Vec<u8>>, Condition), Failure> {
        match self.get_manifest(name).await {
            Ok((headers, bytes)) => {
                let tag = headers.get(ETAG);
                // A weak one never matches.
                let tag = tag.filter(|tag| tag.as_bytes().starts_with(b"\""));
                let same = tag.cloned().map_or(Condition::Always, Condition::Unchanged);
                Ok((Some(bytes), same))
            }
            Err(problem) if problem.status() == Some(404) => Ok((None, Condition::Absent)),
            Err(problem) => Err(self.failure(problem)),
        }
    }

    async fn get_manifest(&self, name: &str) -> Result<(HeaderMap, Vec<u8>), Problem> {
        let answer = self.send(&self.manifest_call(Method::GET, name)?).await?;
        let headers = answer.headers().clone();
        let bytes = read_all(answer, MAX_MANIFEST, self.transport()).await?;
        let found = Digest::of(&bytes);
        match digest(&headers) {
            Some(said) if said != found => Err(Problem::Odd(format!(
                "the registry says that the manifest is {said}, and sends {found}"
            ))),
            _ => same_kind(&headers, &bytes).map(|()| (headers, bytes)),
        }
    }

    /// The digest of what a tag or a digest names; nothing when the registry has no such manifest
    /// or does not say.
    ///
    /// # Errors
    /// When the registry cannot be asked.
    pub async fn manifest_digest(&self, name: &str) -> Result<Option<Digest>, Failure> {
        let found = self.head_manifest(name).await;
        Ok(found?.as_ref().and_then(digest))
    }

    /// Whether a tag or a digest names a manifest.
    ///
    /// # Errors
    /// When the registry cannot be asked.
    pub async fn has_manifest(&self, name: &str) -> Result<bool, Failure> {
        self.head_manifest(name).await.map(|found| found.is_some())
    }

    async fn head_manifest(&self, name: &str) -> Result<Option<HeaderMap>, Failure> {
        let head = async { self.send(&self.manifest_call(Method::HEAD, name)?).await };
        match head.await {
            Ok(answer) => Ok(Some(answer.headers().clone())),
            Err(problem) if problem.status() == Some(404) => Ok(None),
            Err(problem) => Err(self.failure(problem)),
        }
    }

    pub(super) fn manifest_call(&self, method: Method, name: &str) -> Result<Call, Problem> {
        let mut call = Call::new(method, self.address(&format!("manifests/{name}"))?);
        for kind in MANIFESTS {
            call.headers.append(ACCEPT, HeaderValue::from_static(kind));
        }
        Ok(call)
    }

    /// Puts a manifest or an index under a tag or its digest.
    ///
    /// # Errors
    /// When the registry refuses it for another reason than what it lacks, or says that it has
    /// another digest.
    pub(super) async fn put_manifest(
        &self,
        name: &str,
        document: &Document,
        condition: &Condition,
    ) -> Result<Put, Failure> {
        let put = async {
            let url = self.address(&format!("manifests/{name}"))?;
            let mut call = Call::new(Method::PUT, url);
            let headers = &mut call.headers;
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(document.media_type));
            match condition {
                Condition::Always => None,
                Condition::Absent => headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*")),
                Condition::Unchanged(tag) => headers.insert(IF_MATCH, tag.clone()),
            };
            call.content = Content::Bytes(Bytes::copy_from_slice(&document.bytes));
            let answer = self.send(&call).await?;
            let ours = document.digest;
            match digest(answer.headers()) {
                Some(said) if said != ours => Err(Problem::Odd(format!(
                    "the registry took the manifest {ours} for {said}"
                ))),
                _ if answer.headers().contains_key("oci-subject") => Ok(Put::Listed),
                _ => Ok(Put::Taken),
            }
        };
        let conditional = *condition != Condition::Always;
        match put.await {
            // Without one it is a refusal: Harbor answers so for a tag that must not move.
            Err(problem) if conditional && problem.status() == Some(412) => Ok(Put::Changed),
            Err(problem) if problem.lacks_blobs() => Ok(Put::Lacking(self.explain(problem))),
            done => done.map_err(|problem| self.failure(problem)),
        }
    }

    /// Whether the repository says that it has a blob.
    ///
    /// # Errors
    /// When the registry cannot be asked.
    pub async fn has_blob(&self, digest: &Digest) -> Result<bool, Failure> {
        let head = async {
            let url = self.address(&format!("blobs/{digest}"))?;
            self.send(&Call::new(Method::HEAD, url)).await
        };
        match head.await {
            Ok(answer) => Ok(answer.status() == StatusCode::OK),
            Err(problem) if problem.status() == Some(404) => Ok(false),
            Err(problem) => Err(self.failure(problem)),
        }
    }

    /// A blob, which is not checked here.
    ///
    /// # Errors
    /// When the registry refuses or has none.
    pub async fn blob(&self, digest: &Digest) -> Result<Incoming, Failure> {
        let get = async {
            let url = self.address(&format!("blobs/{digest}"))?;
            let answer = self.send(&Call::new(Method::GET, url)).await?;
            Ok(Incoming {
                answer,
                silence: self.transport().silence,
            })
        };
        get.await.map_err(|problem| self.failure(problem))
    }
}

/// The digest that an answer says; another algorithm's is not looked at.
fn digest(headers: &HeaderMap) -> Option<Digest> {
    let said = headers.get("docker-content-digest")?.to_str().ok()?;
    said.strip_prefix("sha256:").and(said.parse().ok())
}

/// A manifest that is taken for an index, or the other way round, is another image
/// (CVE-2021-41190): where document and answer both name a kind, it must be the same.
fn same_kind(headers: &HeaderMap, bytes: &[u8]) -> Result<(), Problem> {
    let sent = headers.get(CONTENT_TYPE);
    let sent = sent.and_then(|value| value.to_str().ok());
    let sent = sent.and_then(|text| text.split(';').next()).map(str::trim);
    let named: Option<Named> = serde_json::from_slice(bytes).ok();
    match (sent, named.and_then(|named| named.media_type)) {
        (Some(sent), Some(named)) if MANIFESTS.contains(&sent) && sent != named => {
            Err(Problem::Odd(format!(
                "the registry says that the manifest is {sent}, and it says itself that it is {named}"
            )))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_of_the_kind_that_its_answer_says() {
        let check = |sent: &'static str, document: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(sent));
            same_kind(&headers, document.as_bytes()).is_ok()
        };
        let index = format!("{{\"mediaType\": \"{}\"}}", media::OCI_INDEX);
        assert!(check(media::OCI_INDEX, &index));
        assert!(check("application/json", &index));
        assert!(check(media::OCI_MANIFEST, "{}"));
        assert!(!check(media::OCI_MANIFEST, &index));
        assert!(!check(
            "application/vnd.oci.image.manifest.v1+json; x",
            &index
        ));
    }
}
