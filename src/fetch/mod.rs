//! Downloads: package archives into the store, verified before a byte is used.

use std::{io::Write, path::PathBuf, time::Duration};

use futures_util::{StreamExt, TryStreamExt, stream};
use rattler_conda_types::RepoDataRecord;
use reqwest_middleware::ClientWithMiddleware;
use tokio::io::AsyncReadExt;
use url::Url;

use crate::{
    digest::Digest,
    error::{Error, Result, chain},
    package::{ArchiveKind, PackageArchive, place},
    report::{Reporter, Task, human_bytes},
    store::{BlobWriter, Store},
};

/// Downloads under way at once; more do not help one host, and hurt small ones.
const CONCURRENT: usize = 8;
/// Tries of one download, the first included.
const TRIES: u32 = 4;
/// The pause before the second try; each further one is four times as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Brings every package into the store; those that are there are not asked for again.
///
/// # Errors
/// The first package that cannot be had, or whose hash is wrong; nothing of it is kept.
pub async fn fetch_packages(
    records: &[&RepoDataRecord],
    client: &ClientWithMiddleware,
    store: &Store,
    reporter: &Reporter,
) -> Result<()> {
    let mut missing = Vec::new();
    for record in records {
        if !store.package_path(&sha256_of(record)?).exists() {
            missing.push(*record);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let total: u64 = missing.iter().filter_map(|r| r.package_record.size).sum();
    reporter.step(format!(
        "Fetching {} of {} packages, {}",
        missing.len(),
        records.len(),
        human_bytes(total)
    ));
    let all = reporter.bytes("all packages", Some(total));
    stream::iter(missing)
        .map(|record| fetch(record, client, store, reporter, &all))
        .buffer_unordered(CONCURRENT)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(())
}

/// The archive of a package that [`fetch_packages`] brought.
///
/// # Errors
/// When the record's file name is of no known format.
pub fn archive(record: &RepoDataRecord, store: &Store) -> Result<PackageArchive> {
    let kind = ArchiveKind::from_file_name(record.url.path()).ok_or_else(|| {
        Error::input("a package is neither .conda nor .tar.bz2")
            .at(place(record))
            .why(&record.url)
    })?;
    Ok(PackageArchive {
        path: store.package_path(&sha256_of(record)?),
        kind,
    })
}

/// The sha256 of a package's archive.
///
/// # Errors
/// When the channel's index does not say it.
pub fn sha256_of(record: &RepoDataRecord) -> Result<Digest> {
    let hash = record.package_record.sha256.ok_or_else(|| {
        Error::input("a package has no sha256")
            .at(place(record))
            .hint("the channel's index lacks it: re-index the channel")
    })?;
    Ok(Digest::from_bytes(hash.into()))
}

async fn fetch(
    record: &RepoDataRecord,
    client: &ClientWithMiddleware,
    store: &Store,
    reporter: &Reporter,
    all: &Task,
) -> Result<()> {
    let name = record.package_record.name.as_normalized();
    let task = reporter.bytes(name, record.package_record.size);
    let expected = sha256_of(record)?;
    let mut attempt = 1;
    let writer = loop {
        let writer = store.blob_writer()?;
        match download(&record.url, client, writer, &task, all).await {
            Ok(writer) => break writer,
            Err(Failure::Final(e)) => return Err(e),
            Err(Failure::Passing(passing)) if attempt < TRIES => {
                for progress in [&task, all] {
                    progress.take_back(passing.received);
                }
                let pause = passing.pause.unwrap_or(FIRST_PAUSE * 4u32.pow(attempt - 1));
                reporter.step(format_args!(
                    "{name}: trying again in {} ms ({})",
                    pause.as_millis(),
                    passing.why
                ));
                tokio::time::sleep(pause).await;
                attempt += 1;
            }
            Err(Failure::Passing(passing)) => {
                return Err(unreachable(record, &passing.why, attempt));
            }
        }
    };
    match writer.finish_expecting(&expected, |store| store.package_path(&expected))? {
        Ok(_) => Ok(()),
        Err((found, size)) => Err(wrong_hash(record, &expected, &found, size)),
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

/// What a middleware refuses, such as that of `--offline`, it refuses again.
fn unsent(url: &Url, error: &reqwest_middleware::Error) -> Failure {
    match error {
        reqwest_middleware::Error::Middleware(_) => Failure::Final(refused(url, &chain(error))),
        reqwest_middleware::Error::Reqwest(_) => Failure::Passing(Passing::new(chain(error))),
    }
}

async fn download(
    url: &Url,
    client: &ClientWithMiddleware,
    mut writer: BlobWriter,
    task: &Task,
    all: &Task,
) -> std::result::Result<BlobWriter, Failure> {
    let mut write = |bytes: &[u8]| {
        task.add(bytes.len() as u64);
        all.add(bytes.len() as u64);
        writer
            .write_all(bytes)
            .map_err(|e| Failure::Final(Error::environment("cannot write to the cache").why(e)))
    };
    if let Some(path) = local_path(url) {
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
        return Ok(writer);
    }
    let response = client
        .get(url.clone())
        .send()
        .await
        .map_err(|e| unsent(url, &e))?;
    let status = response.status();
    if !status.is_success() {
        let text = format!("the server answered {status}");
        return Err(if status.is_server_error() || status.as_u16() == 429 {
            Failure::Passing(Passing {
                pause: retry_after(&response),
                ..Passing::new(text)
            })
        } else {
            Failure::Final(refused(url, &text))
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
    Ok(writer)
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

fn refused(url: &Url, text: &str) -> Error {
    Error::environment("a package cannot be downloaded")
        .at(url)
        .why(text)
        .hint("if the channel moved on since the lock was made, run `imgbuild lock` again")
}

fn unreachable(record: &RepoDataRecord, why: &str, tries: u32) -> Error {
    Error::environment("a package cannot be downloaded")
        .at(&record.url)
        .why(format!("{why} (tried {tries} times)"))
        .hint("check the network or a proxy (HTTPS_PROXY) and run the command again")
}

fn wrong_hash(record: &RepoDataRecord, expected: &Digest, found: &Digest, size: u64) -> Error {
    Error::environment("a package is not what its hash says; nothing of it was kept")
        .at(place(record))
        .why(format!("from {}", record.url))
        .why(format!("expected {expected}"))
        .why(format!("received {found} ({size} bytes)"))
        .hint("a stale index or a proxy that changes files: run `imgbuild lock` again, or report it to the channel")
}
