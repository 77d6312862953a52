//! One blob from the store to a registry (OCI distribution-spec, "Pushing a blob monolithically").

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use oci_client::errors::{OciDistributionError, Result as OciResult};
use tokio::{fs::File, time::Instant};
use tokio_util::{bytes::Bytes, io::ReaderStream};

use super::{
    failure::{Failure, Retry, status},
    remote::Remote,
};
use crate::{
    digest::Digest,
    error::{Error, Result},
    report::{Reporter, Task},
    store::Store,
};

/// How much is read at once; the most of a blob that is in memory.
const PIECE: usize = 256 * 1024;
/// How long a registry may take no further byte.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a registry may take to answer once it has all: it checks the digest, and those that
/// keep blobs elsewhere move them there.
const ANSWER: Duration = Duration::from_secs(15 * 60);

/// A blob of an image, as the manifest describes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blob {
    pub digest: Digest,
    pub size: u64,
    /// Whether it is a layer of the base image.
    pub base: bool,
}

/// Sends a blob, never more of it in memory than a piece.
///
/// # Errors
/// When it is not in the store, or the registry refuses it, breaks off, or falls silent.
pub(super) async fn upload(
    remote: &Remote,
    blob: &Blob,
    store: &Store,
    reporter: &Reporter,
) -> Result<(), Failure> {
    let path = store.blob_path(&blob.digest);
    let file = File::open(&path).await;
    let file = file.map_err(|e| Error::io("open", &path, e))?;
    let task = reporter.bytes(label(&blob.digest), Some(blob.size));
    let patience = Patience::new(blob.size);
    let body = pieces(file, task, patience.clone());
    let digest = blob.digest.to_string();
    let client = remote.uploads();
    let sent = client.push_blob_stream(remote.reference(), body, &digest, Some(blob.size));
    let place = |error: Error| error.at(format_args!("blob {digest}"));
    match patience.wait(sent).await {
        // A 201 without a Location breaks the specification, but the blob is there.
        Some(Ok(_) | Err(OciDistributionError::RegistryNoLocationError)) => Ok(()),
        Some(Err(e)) => {
            let failure = refused(remote, e, &path);
            Err(Failure {
                error: place(failure.error),
                retry: failure.retry,
            })
        }
        None => Err(Failure {
            error: place(remote.cannot().why("the registry fell silent")),
            retry: Retry::Later,
        }),
    }
}

fn label(digest: &Digest) -> String {
    let hex = digest.hex();
    format!("push {}", hex.get(..12).unwrap_or(&hex))
}

fn pieces(
    file: File,
    task: Task,
    patience: Patience,
) -> impl Stream<Item = OciResult<Bytes>> + Send + 'static {
    ReaderStream::with_capacity(file, PIECE).map(move |piece| {
        let piece = piece?;
        task.add(piece.len() as u64);
        patience.sent(piece.len() as u64);
        Ok(piece)
    })
}

fn refused(remote: &Remote, error: OciDistributionError, path: &std::path::Path) -> Failure {
    let says = |code: &str| match &error {
        OciDistributionError::ServerError { message, .. } => message.contains(code),
        _ => false,
    };
    // The upload session is gone, through a restart for one; another attempt begins another.
    let session_lost = status(&error) == Some(404) && says("BLOB_UPLOAD_UNKNOWN");
    let damaged = says("DIGEST_INVALID");
    let mut failure = remote.failure(error);
    if session_lost {
        failure.retry = Retry::Later;
    }
    if damaged {
        failure.error = failure.error.hint(format!(
            "the file may be damaged; delete it and build again: {}",
            path.display()
        ));
    }
    failure
}

/// How long to wait for the registry, counted from the last byte that it took.
#[derive(Clone)]
struct Patience(Arc<Mutex<Progress>>);

struct Progress {
    last: Instant,
    left: u64,
}

impl Patience {
    fn new(size: u64) -> Self {
        Self(Arc::new(Mutex::new(Progress {
            last: Instant::now(),
            left: size,
        })))
    }

    fn sent(&self, bytes: u64) {
        let mut progress = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        progress.last = Instant::now();
        progress.left = progress.left.saturating_sub(bytes);
    }

    fn end(&self) -> Instant {
        let progress = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        progress.last + if progress.left == 0 { ANSWER } else { SILENCE }
    }

    /// The work's result, or nothing when patience is at its end.
    async fn wait<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let exhausted = async {
            while Instant::now() < self.end() {
                tokio::time::sleep_until(self.end()).await;
            }
        };
        tokio::select! {
            done = work => Some(done),
            () = exhausted => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_counted_from_the_last_byte() {
        let patience = Patience::new(2);
        let long_ago = Instant::now().checked_sub(SILENCE).unwrap();
        patience.0.lock().unwrap().last = long_ago;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let waited = runtime.block_on(patience.wait(std::future::pending::<()>()));
        assert_eq!(waited, None);
        patience.sent(1);
        assert_eq!(runtime.block_on(patience.wait(async { 7 })), Some(7));
        patience.sent(1);
        assert!(patience.end() > Instant::now() + SILENCE);
    }
}
