//! Downloads: package archives and wheels into the store, verified before a byte is used.

mod download;

use std::path::PathBuf;

use rattler_conda_types::RepoDataRecord;
use reqwest_middleware::ClientWithMiddleware;

use crate::{
    digest::Digest,
    error::{Error, Result},
    lock::LockedWheel,
    package::{ArchiveKind, Decoders, PackageArchive, place},
    report::Reporter,
    spec::PipSection,
    store::Store,
};
use download::{Download, Expected, Kind};

/// What brings packages into the store.
#[derive(Clone, Copy)]
pub struct Fetcher<'a> {
    /// The channels' HTTP client.
    pub client: &'a ClientWithMiddleware,
    /// Where they go.
    pub store: &'a Store,
    /// Progress.
    pub reporter: &'a Reporter,
}

/// A package to bring into the store.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// A conda package.
    Conda(&'a RepoDataRecord),
    /// A wheel. A lock has no credentials; the section, the environment file's, has those of its
    /// indexes.
    Wheel(&'a LockedWheel, &'a PipSection),
}

impl Fetcher<'_> {
    /// Brings packages into the store, begun in this order; those that are there are not asked
    /// for again. `arrived` hears the position of each as soon as the store has it.
    ///
    /// # Errors
    /// The first package that cannot be had, or whose hash is wrong; nothing of it is kept.
    pub async fn fetch(&self, wanted: &[Wanted<'_>], arrived: impl Fn(usize)) -> Result<()> {
        let downloads = wanted.iter().map(Wanted::download);
        let downloads = downloads.collect::<Result<Vec<_>>>()?;
        self.fetch_all(&downloads, arrived).await
    }
}

impl Wanted<'_> {
    fn download(&self) -> Result<Download> {
        Ok(match self {
            Self::Conda(record) => Download {
                label: record.package_record.name.as_normalized().to_owned(),
                place: place(record),
                url: record.url.clone(),
                hash: expected(record)?,
                size: record.package_record.size,
                kind: Kind::Package,
            },
            Self::Wheel(wheel, section) => Download {
                label: wheel.name.clone(),
                place: wheel.file_name(),
                url: section.with_credentials(&wheel.url),
                hash: Expected::Sha256(wheel.sha256),
                size: wheel.size,
                kind: Kind::Wheel,
            },
        })
    }
}

/// As [`Fetcher::fetch`] for conda packages that are waited for.
///
/// # Errors
/// As [`Fetcher::fetch`].
pub async fn fetch_packages(
    records: &[&RepoDataRecord],
    client: &ClientWithMiddleware,
    store: &Store,
    reporter: &Reporter,
) -> Result<()> {
    let fetcher = Fetcher {
        client,
        store,
        reporter,
    };
    let wanted: Vec<_> = records.iter().map(|record| Wanted::Conda(record)).collect();
    fetcher.fetch(&wanted, |_| {}).await
}

/// The sha256, else the md5: an `@EXPLICIT` list may have no other.
fn expected(record: &RepoDataRecord) -> Result<Expected> {
    let package = &record.package_record;
    match (package.sha256, package.md5) {
        (None, Some(md5)) => Ok(Expected::Md5(md5)),
        _ => sha256_of(record).map(Expected::Sha256),
    }
}

/// Where a wheel that was fetched lies.
pub fn wheel_path(wheel: &LockedWheel, store: &Store) -> PathBuf {
    store.wheel_path(&wheel.sha256)
}

/// The archive of a package that was fetched.
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
        decoders: Decoders::default(),
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

#[cfg(test)]
mod tests {
    use std::{
        cell::RefCell,
        io::{BufRead, BufReader, Write},
        net::TcpListener,
        thread,
    };

    use super::*;
    use crate::spec::PipSources;

    /// Serves these bytes to whoever signs in as me with the password pw.
    fn serve(bytes: &'static [u8]) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let head: Vec<String> = lines
                    .map(Result::unwrap)
                    .take_while(|line| !line.is_empty())
                    .collect();
                // base64 of me:pw
                let known = head.iter().any(|line| line.ends_with("Basic bWU6cHc="));
                let (status, body) = match known {
                    true => ("200 OK", bytes),
                    false => ("401 Unauthorized", &b""[..]),
                };
                let length = body.len();
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
                );
                stream.write_all(head.as_bytes()).unwrap();
                stream.write_all(body).unwrap();
            }
        });
        port
    }

    #[test]
    fn a_wheel_is_asked_for_with_the_login_of_its_index() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let port = serve(b"wheel");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let client = ClientWithMiddleware::from(reqwest::Client::new());
        let fetch = |login: &str, sha256| {
            let index = format!("http://{login}127.0.0.1:{port}/simple").parse();
            let section = PipSection {
                sources: PipSources {
                    index_url: Some(index.unwrap()),
                    ..PipSources::default()
                },
                ..PipSection::default()
            };
            let wheel = LockedWheel {
                name: "a".into(),
                version: "1".into(),
                url: format!("http://127.0.0.1:{port}/files/a-1-py3-none-any.whl")
                    .parse()
                    .unwrap(),
                sha256,
                size: None,
            };
            let wheels = [wheel];
            let reporter = Reporter::stderr(true);
            let fetcher = Fetcher {
                client: &client,
                store: &store,
                reporter: &reporter,
            };
            let wanted = [Wanted::Wheel(&wheels[0], &section)];
            let came = RefCell::new(Vec::new());
            let fetching = fetcher.fetch(&wanted, |position| came.borrow_mut().push(position));
            let fetched = runtime.block_on(fetching).map_err(|e| e.to_string());
            assert_eq!(came.take().len(), usize::from(fetched.is_ok()));
            fetched.map(|()| std::fs::read(wheel_path(&wheels[0], &store)).unwrap())
        };
        let sha256 = Digest::of(b"wheel");
        let refused = fetch("", sha256).unwrap_err();
        assert!(refused.contains("401 Unauthorized"), "{refused}");
        let wrong = fetch("me:pw@", Digest::of(b"other")).unwrap_err();
        assert!(wrong.contains("not what its hash says"), "{wrong}");
        assert!(!wrong.contains("pw"), "{wrong}");
        assert_eq!(fetch("me:pw@", sha256).unwrap(), b"wheel");
        // It is in the store by now.
        assert_eq!(fetch("", sha256).unwrap(), b"wheel");
    }
}
