//! One blob from the store to a registry (OCI distribution-spec 1.1, "Pushing Blobs").
//!
//! A blob goes up in one PUT. Where that is not taken (its status says that requests of this size,
//! or without parts, are not wanted) it goes in parts of 16, then 4, then 1 MiB. When the
//! connection breaks, the registry is asked how much it has and gets the rest; one that does not
//! know any more gets the blob from its start.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use reqwest::{
    Method, Response, StatusCode,
    header::{CONTENT_RANGE, CONTENT_TYPE, HeaderValue, RANGE},
};
use url::Url;

use super::{
    body::{Content, Meter, Part},
    failure::{Failure, Retry},
    problem::Problem,
    remote::Remote,
    transport::{Call, location},
};
use crate::{
    digest::Digest,
    error::{Error, Result},
    report::{Activity, Reporter, Step},
    store::Store,
};

/// The sizes of parts, in the order in which they are tried. The last is what nginx takes when
/// nobody has told it otherwise.
const PARTS: [u64; 3] = [16 << 20, 4 << 20, 1 << 20];

/// A blob of an image, as the manifest describes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blob {
    pub digest: Digest,
    pub size: u64,
    /// Whether it is a layer of the base image.
    pub base: bool,
}

impl Blob {
    /// Sending it, as progress shows that.
    pub fn activity(&self) -> Activity {
        let hex = self.digest.hex();
        let label = format!("push {}", hex.get(..12).unwrap_or(&hex));
        Activity::new(Step::Push, label).of(self.digest)
    }
}

/// An upload that a registry has begun.
pub(super) struct Session {
    at: Url,
    /// How many bytes the registry has.
    offset: u64,
    /// The least size of a part but the last.
    least: u64,
}

/// A registry's answer to the wish to upload.
pub(super) enum Begun {
    /// It took the blob over from the other repository.
    Mounted,
    /// It waits for the blob.
    Session(Session),
}

/// Begins an upload; with `mount`, unless the registry takes the blob over from that repository
/// ("Mounting a blob from another repository").
///
/// # Errors
/// When the registry refuses both.
pub(super) async fn begin(
    remote: &Remote,
    mount: Option<(&Digest, &str)>,
) -> Result<Begun, Problem> {
    let mut url = remote.address("blobs/uploads/")?;
    if let Some((digest, from)) = mount {
        let mut query = url.query_pairs_mut();
        query.append_pair("mount", &digest.to_string());
        query.append_pair("from", from);
    }
    let answer = remote.send(&Call::new(Method::POST, url)).await?;
    match answer.status() {
        StatusCode::CREATED if mount.is_some() => Ok(Begun::Mounted),
        StatusCode::ACCEPTED => Session::new(remote, &answer).map(Begun::Session),
        status => Err(odd(status)),
    }
}

impl Remote {
    /// Sends a small blob in one piece.
    ///
    /// # Errors
    /// When the registry refuses it.
    pub async fn put_blob(&self, digest: &Digest, bytes: &Bytes) -> Result<(), Failure> {
        let put = async {
            let Begun::Session(session) = begin(self, None).await? else {
                return Ok(());
            };
            let mut call = Call::new(Method::PUT, session.at);
            let kind = HeaderValue::from_static("application/octet-stream");
            call.headers.insert(CONTENT_TYPE, kind);
            call.content = Content::Bytes(bytes.clone());
            let digest = digest.to_string();
            call.url.query_pairs_mut().append_pair("digest", &digest);
            let answer = self.send(&call).await?;
            match answer.status() {
                status if status.is_success() => Ok(()),
                status => Err(odd(status)),
            }
        };
        put.await.map_err(|problem| self.failure(problem))
    }
}

fn odd(status: StatusCode) -> Problem {
    Problem::Odd(format!("an unexpected HTTP status: {}", status.as_u16()))
}

impl Session {
    /// Where it goes on.
    pub fn into_address(self) -> Url {
        self.at
    }

    fn new(remote: &Remote, answer: &Response) -> Result<Self, Problem> {
        let at = next_address(remote, answer)?;
        let least = answer.headers().get("oci-chunk-min-length");
        let least = least.and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(Self {
            at: at.ok_or_else(|| Problem::Odd("it begins an upload without a Location".into()))?,
            offset: 0,
            least: least.unwrap_or(0),
        })
    }
}

fn next_address(remote: &Remote, answer: &Response) -> Result<Option<Url>, Problem> {
    let to = |text: String| remote.transport().target(answer.url(), &text);
    location(answer).map(to).transpose()
}

/// How many bytes the registry has, by the `Range` of an answer. `0-0` is what docker-registry says
/// when it has none, and counts as that.
fn received(answer: &Response) -> Option<u64> {
    let text = answer.headers().get(RANGE)?.to_str().ok()?;
    let text = text.trim_start_matches("bytes=");
    let end: u64 = text.strip_prefix("0-")?.parse().ok()?;
    (end > 0).then_some(end.saturating_add(1))
}

/// An upload until it is done.
pub(super) struct Upload<'a> {
    remote: &'a Remote,
    blob: &'a Blob,
    path: PathBuf,
    meter: Arc<Meter>,
    /// Which of [`PARTS`] the blob is cut into.
    part: Option<usize>,
}

impl<'a> Upload<'a> {
    pub fn new(remote: &'a Remote, blob: &'a Blob, store: &Store, reporter: &Reporter) -> Self {
        Self {
            remote,
            blob,
            path: store.blob_path(&blob.digest),
            meter: Arc::new(Meter::new(reporter, blob.activity(), blob.size)),
            part: None,
        }
    }

    /// Sends the blob, never more of it in memory than a piece.
    ///
    /// # Errors
    /// When it is not in the store, or the registry refuses it, or breaks off or falls silent time
    /// and again.
    pub async fn run(mut self, mut session: Option<Session>) -> Result<()> {
        let place = |error: Error| error.at(format_args!("blob {}", self.blob.digest));
        let mut attempts = self.remote.attempts();
        loop {
            let before = session.as_ref().map_or(0, |session| session.offset);
            let Err(problem) = self.go_on(&mut session).await else {
                return Ok(());
            };
            if session.as_ref().is_some_and(|now| now.offset > before) {
                attempts.succeeded();
            }
            if self.wants_parts(&problem, session.as_ref()) {
                self.part = Some(self.part.map_or(0, |part| part + 1));
            } else {
                if is_damaged(&problem) {
                    session = session.filter(|_| before == 0);
                }
                let failure = self.failure(problem, session.is_some(), before > 0);
                attempts.wait(failure).await.map_err(place)?;
            }
            while let Some(lost) = session.take() {
                match self.ask(&lost).await {
                    Ok(found) => {
                        session = found;
                        break;
                    }
                    Err(problem) => {
                        let failure = self.remote.failure(problem);
                        attempts.wait(failure).await.map_err(place)?;
                        session = Some(lost);
                    }
                }
            }
        }
    }

    /// Begins if need be, and sends what the registry does not have.
    async fn go_on(&self, session: &mut Option<Session>) -> Result<(), Problem> {
        let session = match session {
            Some(session) => session,
            None => match begin(self.remote, None).await? {
                Begun::Session(begun) => session.insert(begun),
                Begun::Mounted => return Ok(()),
            },
        };
        if session.offset == 0 && self.part.is_none() {
            return self.close(session, self.part(0, self.blob.size)).await;
        }
        while session.offset < self.blob.size {
            self.send_part(session).await?;
        }
        self.close(session, Content::Empty).await
    }

    fn part(&self, from: u64, length: u64) -> Content {
        self.meter.is_at(from);
        Content::Part(Part {
            path: self.path.clone(),
            from,
            length,
            sent: self.meter.clone(),
        })
    }

    async fn send_part(&self, session: &mut Session) -> Result<(), Problem> {
        let left = self.blob.size - session.offset;
        let most = self.part.and_then(|part| PARTS.get(part).copied());
        let length = most.map_or(left, |most| most.max(session.least).min(left));
        let end = session.offset + length;
        let range = format!("{}-{}", session.offset, end.saturating_sub(1));
        let mut call = self.call(Method::PATCH, session, self.part(session.offset, length));
        let range = HeaderValue::from_str(&range);
        let range = range.map_err(|e| Problem::Odd(e.to_string()))?;
        call.headers.insert(CONTENT_RANGE, range);
        let answer = self.remote.send(&call).await?;
        if !answer.status().is_success() {
            return Err(odd(answer.status()));
        }
        if let Some(at) = next_address(self.remote, &answer)? {
            session.at = at;
        }
        let taken = received(&answer).filter(|taken| *taken > session.offset && *taken < end);
        session.offset = taken.unwrap_or(end);
        Ok(())
    }

    /// Sends the last part and says which digest the whole has.
    async fn close(&self, session: &Session, content: Content) -> Result<(), Problem> {
        let mut call = self.call(Method::PUT, session, content);
        let digest = self.blob.digest.to_string();
        call.url.query_pairs_mut().append_pair("digest", &digest);
        let answer = self.remote.send(&call).await?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            status => Err(odd(status)),
        }
    }

    fn call(&self, method: Method, session: &Session, content: Content) -> Call {
        let mut call = Call::new(method, session.at.clone());
        let bytes = HeaderValue::from_static("application/octet-stream");
        call.headers.insert(CONTENT_TYPE, bytes);
        call.content = content;
        call
    }

    /// The upload as the registry knows it, if it knows how much it has of it.
    async fn ask(&self, session: &Session) -> Result<Option<Session>, Problem> {
        let call = Call::new(Method::GET, session.at.clone());
        let answer = match self.remote.send(&call).await {
            Ok(answer) => answer,
            Err(Problem::Refused(r)) if r.status.is_client_error() && r.retry_after.is_none() => {
                return Ok(None);
            }
            Err(problem) => return Err(problem),
        };
        let known = received(&answer).filter(|offset| *offset <= self.blob.size);
        let at = next_address(self.remote, &answer)?;
        Ok(known.map(|offset| Session {
            at: at.unwrap_or_else(|| session.at.clone()),
            offset,
            least: session.least,
        }))
    }

    /// Whether a refusal means that the blob should come in smaller parts, and can.
    fn wants_parts(&self, problem: &Problem, session: Option<&Session>) -> bool {
        let Some(session) = session else {
            return false;
        };
        let size = |part: usize| PARTS.get(part).map(|size| (*size).max(session.least));
        let smaller = match self.part {
            None => true,
            Some(now) => size(now + 1).is_some_and(|next| Some(next) < size(now)),
        };
        match problem.status() {
            Some(405 | 411 | 413 | 501) => smaller,
            // To a whole blob; to a part it means that the registry has another number of bytes.
            Some(416) => smaller && self.part.is_none() && session.offset == 0,
            _ => false,
        }
    }

    fn failure(&self, problem: Problem, in_session: bool, resumed: bool) -> Failure {
        let lost = match &problem {
            Problem::Refused(refusal) => {
                refusal.says("BLOB_UPLOAD_UNKNOWN")
                    || refusal.says("BLOB_UPLOAD_INVALID")
                    || (in_session && matches!(refusal.status.as_u16(), 404 | 410 | 416))
            }
            _ => false,
        };
        let damaged = is_damaged(&problem);
        let mut failure = self.remote.failure(problem);
        if lost || (damaged && resumed) {
            failure.retry = Retry::Later;
        }
        if damaged && !resumed {
            failure.error = failure.error.hint(format!(
                "the file may be damaged; delete it and build again: {}",
                self.path.display()
            ));
        }
        failure
    }
}

fn is_damaged(problem: &Problem) -> bool {
    matches!(problem, Problem::Refused(refusal) if refusal.says("DIGEST_INVALID"))
}
