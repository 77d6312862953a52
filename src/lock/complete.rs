//! What a thin lock leaves out, taken from the archives.
//!
//! conda-lock files have neither sizes nor build times, `@EXPLICIT` lists nothing but URLs and
//! hashes. Both are made whole from each archive's own `info/index.json`, which is kept in the
//! store as a fact of the archive's sha256: the same lock needs no network the next time.

use std::thread;

use futures_util::{StreamExt, TryStreamExt, stream};
use rattler_conda_types::{PackageRecord, RepoDataRecord, package::IndexJson};
use reqwest_middleware::ClientWithMiddleware;
use serde::{Deserialize, Serialize};

use super::{Lock, LockedEnv};
use crate::{
    digest::Digest,
    error::{Error, Exit, Result, chain},
    fetch,
    package::{PackageArchive, place},
    report::Reporter,
    store::Store,
};

/// What an archive says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The size of the archive in bytes.
    pub size: u64,
    /// Its `info/index.json`.
    pub index: IndexJson,
}

impl Facts {
    /// Reads them from an archive.
    ///
    /// # Errors
    /// When it cannot be read as a package.
    fn read(archive: &PackageArchive, package: &str) -> Result<Self> {
        let size = std::fs::metadata(&archive.path)
            .map_err(|e| Error::io("read", &archive.path, e))?
            .len();
        let index = archive.index().map_err(|e| {
            Error::environment("a package archive cannot be read")
                .at(package)
                .why(chain(&e))
                .hint("its hash is right, so the package itself is faulty: use another build of it")
        })?;
        Ok(Self { size, index })
    }
}

/// Whether a record lacks what only the archive tells.
pub fn is_thin(record: &RepoDataRecord) -> bool {
    let package = &record.package_record;
    package.size.is_none() || package.sha256.is_none()
}

/// A thin record made whole. What it needs is kept where it says that, for a channel may have
/// corrected the archive's word; all else is the archive's.
///
/// # Errors
/// When the archive is of another package than the lock says.
pub fn merge(record: &RepoDataRecord, sha256: Digest, facts: &Facts) -> Result<RepoDataRecord> {
    let (said, index) = (&record.package_record, &facts.index);
    if (&said.name, &said.version, &said.build) != (&index.name, &index.version, &index.build) {
        let itself = (index.name.as_normalized(), &index.version, &index.build);
        return Err(
            Error::environment("a package is not what its file name says")
                .at(place(record))
                .why(format!(
                    "it says that it is {}-{}-{}",
                    itself.0, itself.1, itself.2
                ))
                .hint("lock the environment again, or report it to the channel"),
        );
    }
    let index = IndexJson {
        subdir: Some(said.subdir.clone()),
        ..index.clone()
    };
    let sha256 = Some((*sha256.bytes()).into());
    let whole = PackageRecord::from_index_json(index, Some(facts.size), sha256, said.md5)
        .map_err(|e| Error::new(Exit::Internal, "a record cannot be completed").why(chain(&e)))?;
    Ok(RepoDataRecord {
        package_record: PackageRecord {
            depends: match said.depends.is_empty() {
                true => whole.depends.clone(),
                false => said.depends.clone(),
            },
            ..whole
        },
        ..record.clone()
    })
}

/// The lock with all that the store knows of its packages; asks no network. Those of which it
/// knows nothing stay thin.
///
/// # Errors
/// As [`merge`].
pub fn from_store(lock: &Lock, store: &Store) -> Result<Lock> {
    Ok(Lock {
        env: env_from_store(&lock.env, store)?,
        miniconda: match &lock.miniconda {
            Some(miniconda) => Some(env_from_store(miniconda, store)?),
            None => None,
        },
        ..lock.clone()
    })
}

fn env_from_store(env: &LockedEnv, store: &Store) -> Result<LockedEnv> {
    let packages = env
        .packages()
        .iter()
        .map(|record| {
            let known = sha256(record, store).filter(|_| is_thin(record));
            match known.and_then(|sha256| Some((sha256, store.facts(&sha256)?))) {
                Some((sha256, facts)) => merge(record, sha256, &facts),
                None => Ok(record.clone()),
            }
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(LockedEnv::new(env.channels.clone(), packages).with_wheels(env.wheels().to_vec()))
}

/// The record's sha256; by its md5, if that was seen before.
fn sha256(record: &RepoDataRecord, store: &Store) -> Option<Digest> {
    let package = &record.package_record;
    let md5 = || store.sha256_of_md5(&hex::encode(package.md5?));
    package
        .sha256
        .map(|hash| Digest::from_bytes(hash.into()))
        .or_else(md5)
}

/// The whole lock: downloads the archives of packages of which the store knows nothing.
///
/// # Errors
/// When an archive cannot be had or read, or is of another package than the lock says.
pub async fn complete(
    lock: &Lock,
    client: &ClientWithMiddleware,
    store: &Store,
    reporter: &Reporter,
) -> Result<Lock> {
    let known = from_store(lock, store)?;
    let environments = [Some(&known.env), known.miniconda.as_ref()];
    let missing: Vec<&RepoDataRecord> = environments
        .into_iter()
        .flatten()
        .flat_map(LockedEnv::packages)
        .filter(|record| is_thin(record))
        .collect();
    if missing.is_empty() {
        return Ok(known);
    }
    reporter.step(format!(
        "The lock does not say enough of {} packages: reading their archives",
        missing.len()
    ));
    fetch::fetch_packages(&missing, client, store, reporter).await?;
    learn(&missing, store).await?;
    from_store(&known, store)
}

/// Reads the archives of packages and keeps what they say.
async fn learn(packages: &[&RepoDataRecord], store: &Store) -> Result<()> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let readings = packages.iter().map(|record| {
        let (record, store) = ((*record).clone(), store.clone());
        tokio::task::spawn_blocking(move || {
            let Some(sha256) = sha256(&record, &store) else {
                return fetch::sha256_of(&record).map(drop);
            };
            let mut named = record;
            named.package_record.sha256 = Some((*sha256.bytes()).into());
            let archive = fetch::archive(&named, &store)?;
            store.put_facts(&sha256, &Facts::read(&archive, &place(&named))?)
        })
    });
    stream::iter(readings)
        .map(|reading| async {
            let lost = |e| Error::new(Exit::Internal, "a reading thread ended early").why(e);
            reading.await.map_err(lost)?
        })
        .buffered(threads)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(())
}
