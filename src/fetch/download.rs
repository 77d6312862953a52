//! One file into the store: tried again where that helps, verified before it gets its name.

use std::{
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use rattler_digest::{Md5, Md5Hash, digest::Digest as _};
use reqwest_middleware::ClientWithMiddleware;
use tokio::io::AsyncReadExt;
use url::Url;

use super::Fetcher;
use crate::{
    digest::Digest,
    error::{Error, Result, chain},
    report::{Activity, Step, Task, human_bytes},
    store::{BlobWriter, Store, note_use},
};

/// Downloads under way at once; more do not help one host, and hurt small ones.
const CONCURRENT: usize = 8;
/// Tries of one download, the first included.
const TRIES: u32 = 4;
/// The pause before the second try; each further one is four times as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A file to bring into the store.
#[derive(Clone, Debug)]
pub(super) struct Download {
    /// Its name beside a progress bar.
    pub label: String,
    /// What it is, in errors.
    pub place: String,
    /// Where it is; credentials in it are used, and shown nowhere.
    pub url: Url,
    /// The hash that it must have.
    pub hash: Expected,
    /// Its size in bytes, where that is known.
    pub size: Option<u64>,
    /// What it is, and so where it goes in the store.
    pub kind: Kind,
}

/// What there is to download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A conda package.
    Package,
    /// A wheel.
    Wheel,
}

impl Kind {
    /// Several of them, in messages.
    fn plural(self) -> &'static str {
        match self {
            Self::Package => "packages",
            Self::Wheel => "wheels",
        }
    }

    /// Where one goes in the store.
    fn place_in(self, store: &Store, sha256: &Digest) -> PathBuf {
        match self {
            Self::Package => store.package_path(sha256),
            Self::Wheel => store.wheel_path(sha256),
        }
    }
}

/// The hash that a download must have.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expected {
    /// Of its bytes.
    Sha256(Digest),
    /// Where a lock has no better one; the sha256 that was found for it is kept in the store.
    Md5(Md5Hash),
}

impl Expected {
    fn hex(&self) -> String {
        match self {
            Self::Sha256(sha256) => sha256.hex(),
            Self::Md5(md5) => hex::encode(md5),
        }
    }
}

impl Fetcher<'_> {
    /// Brings files into the store, begun in this order; those that are there are not asked for
    /// again. `arrived` hears the position of each as soon as the store has it.
    ///
    /// # Errors
    /// The first that cannot be had, or whose hash is wrong; nothing of it is kept.
    pub(super) async fn fetch_all(
        &self,
        downloads: &[Download],
        arrived: impl Fn(usize),
    ) -> Result<()> {
        let (here, missing): (Vec<_>, Vec<_>) = downloads
            .iter()
            .enumerate()
            .partition(|(_, download)| download.is_in(self.store));
        here.iter().for_each(|(position, _)| arrived(*position));
        let begin = |kind| self.begin(kind, downloads, &missing);
        let (packages, wheels) = (begin(Kind::Package), begin(Kind::Wheel));
        let total = |kind| match kind {
            Kind::Package => packages.as_ref(),
            Kind::Wheel => wheels.as_ref(),
        };
        let (total, arrived) = (&total, &arrived);
        stream::iter(missing)
            .map(|(position, download)| async move {
                download.fetch(self, total(download.kind)).await?;
                arrived(position);
                Ok(())
            })
            .buffer_unordered(CONCURRENT)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(())
    }

    /// Says how many of a kind will come; what counts their bytes.
    fn begin(&self, kind: Kind, all: &[Download], missing: &[(usize, &Download)]) -> Option<Task> {
        let count = all.iter().filter(|d| d.kind == kind).count();
        let missing = missing.iter().map(|(_, download)| download);
        let missing: Vec<_> = missing.filter(|d| d.kind == kind).collect();
        if missing.is_empty() {
            return None;
        }
        let what = kind.plural();
        let total: u64 = missing.iter().filter_map(|d| d.size).sum();
        let size = match missing.iter().all(|d| d.size.is_some()) {
            true => format!(", {}", human_bytes(total)),
            false => String::new(),
        };
        self.reporter.step(format!(
            "Fetching {} of {count} {what}{size}",
            missing.len()
        ));
        let all = Activity::new(Step::Fetch, format!("all {what}"));
        Some(self.reporter.bytes(all, Some(total)))
    }
}

impl Download {
    fn is_in(&self, store: &Store) -> bool {
        let sha256 = match self.hash {
            Expected::Sha256(sha256) => Some(sha256),
            Expected::Md5(md5) => store.sha256_of_md5(&hex::encode(md5)),
        };
        sha256.is_some_and(|sha256| note_use(&self.kind.place_in(store, &sha256)))
    }

    /// Downloads the file, unless another build does so meanwhile.
    async fn fetch(&self, fetcher: &Fetcher<'_>, total: Option<&Task>) -> Result<()> {
        let Fetcher {
            client,
            store,
            reporter,
        } = fetcher;
        let waiting = || {
            reporter.step(format_args!(
                "Waiting for another build that downloads {}",
                self.label
            ));
        };
        let _made_once = store.lock_download(&self.hash.hex(), waiting).await?;
        if self.is_in(store) {
            return Ok(());
        }
        let task = reporter.bytes(self.activity(), self.size);
        let counting: Vec<&Task> = total.into_iter().chain([&task]).collect();
        let mut attempt = 1;
        let sink = loop {
            let sink = Sink {
                writer: store.blob_writer_of(self.size)?,
                md5: matches!(self.hash, Expected::Md5(_)).then(Md5::default),
            };
            match self.stream(client, sink, store, &counting).await {
                Ok(sink) => break sink,
                Err(Failure::Final(e)) => return Err(e),
                Err(Failure::Passing(passing)) if attempt < TRIES => {
                    for progress in &counting {
                        progress.take_back(passing.received);
                    }
                    let pause = passing.pause.unwrap_or(FIRST_PAUSE * 4u32.pow(attempt - 1));
                    reporter.step(format_args!(
                        "{}: trying again in {} ms ({})",
                        self.label,
                        pause.as_millis(),
                        passing.why
                    ));
                    tokio::time::sleep(pause).await;
                    attempt += 1;
                }
                Err(Failure::Passing(passing)) => {
                    return Err(self.unreachable(&passing.why, attempt));
                }
            }
        };
        self.keep(sink, store)
    }

    fn activity(&self) -> Activity {
        let activity = Activity::new(Step::Fetch, &self.label);
        match self.hash {
            Expected::Sha256(sha256) => activity.of(sha256),
            Expected::Md5(_) => activity,
        }
    }

    /// Gives the file its name if its hash is right.
    fn keep(&self, sink: Sink, store: &Store) -> Result<()> {
        let (sha256, md5) = match (self.hash, sink.md5) {
            (Expected::Sha256(sha256), _) => (sha256, None),
            (Expected::Md5(expected), md5) => {
                let found = md5.map(Md5::finalize).unwrap_or_default();
                if found != expected {
                    let (expected, found) = (hex::encode(expected), hex::encode(found));
                    return Err(
                        self.wrong_hash(&format!("md5:{expected}"), &format!("md5:{found}"))
                    );
                }
                (sink.writer.digest(), Some(expected))
            }
        };
        let place = |store: &Store| self.kind.place_in(store, &sha256);
        if let Err((found, size)) = sink.writer.finish_expecting(&sha256, place)? {
            let found = format!("{found} ({size} bytes)");
            return Err(self.wrong_hash(&sha256.to_string(), &found));
        }
        match md5 {
            Some(md5) => store.put_md5_alias(&hex::encode(md5), &sha256),
            None => Ok(()),
        }
    }

    async fn stream(
        &self,
        client: &ClientWithMiddleware,
        mut sink: Sink,
        store: &Store,
        progress: &[&Task],
    ) -> std::result::Result<Sink, Failure> {
        let mut write = |bytes: &[u8]| {
            for task in progress {
                task.add(bytes.len() as u64);
            }
            sink.write(bytes)
                .map_err(|e| Failure::Final(Error::io("write in", store.tmp_dir(), e)))
        };
        if let Some(path) = local_path(&self.url) {
            let cannot = |e| Failure::Final(Error::io("read", &path, e));
            let mut file = tokio::fs::File::open(&path).await.map_err(cannot)?;
            let mut buffer = vec![0; 1 << 20];
            loop {
                let n = file.read(&mut buffer).await.map_err(cannot)?;
                if n == 0 {
                    break;
                }
                write(&buffer[..n])?;
            }
            return Ok(sink);
        }
        let response = client
            .get(self.url.clone())
            .send()
            .await
            .map_err(|e| self.unsent(&e))?;
        let status = response.status();
        if !status.is_success() {
            let text = format!("the server answered {status}");
            return Err(if status.is_server_error() || status.as_u16() == 429 {
                Failure::Passing(Passing {
                    pause: retry_after(&response),
                    ..Passing::new(text)
                })
            } else {
                Failure::Final(self.refused(&text))
            });
        }
        let mut body = response.bytes_stream();
        let mut received = 0;
        while let Some(bytes) = body.next().await {
            let bytes = bytes.map_err(|e| {
                Failure::Passing(Passing {
                    received,
                    ..Passing::new(chain(&e))
                })
            })?;
            received += bytes.len() as u64;
            write(&bytes)?;
        }
        Ok(sink)
    }

    /// The URL as it may be shown.
    fn shown(&self) -> Url {
        crate::secret::without_credentials(&self.url)
    }

    /// What a middleware refuses, such as that of `--offline`, it refuses again.
    fn unsent(&self, error: &reqwest_middleware::Error) -> Failure {
        match error {
            reqwest_middleware::Error::Middleware(_) => Failure::Final(self.refused(&chain(error))),
            reqwest_middleware::Error::Reqwest(_) => Failure::Passing(Passing::new(chain(error))),
        }
    }

    fn refused(&self, text: &str) -> Error {
        Error::environment("a package cannot be downloaded")
            .at(self.shown())
            .why(text)
            .hint("if the channel moved on since the lock was made, run `imgbuild lock` again")
    }

    fn unreachable(&self, why: &str, tries: u32) -> Error {
        Error::environment("a package cannot be downloaded")
            .at(self.shown())
            .why(format!("{why} (tried {tries} times)"))
            .hint("check the network or a proxy (HTTPS_PROXY) and run the command again")
    }

    fn wrong_hash(&self, expected: &str, found: &str) -> Error {
        Error::environment("a package is not what its hash says; nothing of it was kept")
            .at(&self.place)
            .why(format!("from {}", self.shown()))
            .why(format!("expected {expected}"))
            .why(format!("received {found}"))
            .hint("a stale index or a proxy that changes files: run `imgbuild lock` again, or report it to the channel")
    }
}

/// Where the bytes go.
struct Sink {
    writer: BlobWriter,
    md5: Option<Md5>,
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        self.writer.write_all(bytes)
    }
}

enum Failure {
    /// Worth another try.
    Passing(Passing),
    /// It will not get better.
    Final(Error),
}

#[derive(Default)]
struct Passing {
    why: String,
    /// The bytes that came before it.
    received: u64,
    /// How long the server asks to wait.
    pause: Option<Duration>,
}

impl Passing {
    fn new(why: String) -> Self {
        Self {
            why,
            ..Self::default()
        }
    }
}

/// `Retry-After` in seconds (RFC 9110, 10.2.3), within reason; the form with a date is rare.
fn retry_after(response: &reqwest::Response) -> Option<Duration> {
    let value = response.headers().get(reqwest::header::RETRY_AFTER)?;
    let seconds: u64 = value.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_PAUSE))
}

fn local_path(url: &Url) -> Option<PathBuf> {
    (url.scheme() == "file").then(|| url.to_file_path().ok())?
}
