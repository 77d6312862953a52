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
use download::{Download, Expected, fetch_all};

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
    let downloads = records
        .iter()
        .map(|record| {
            Ok(Download {
                label: record.package_record.name.as_normalized().to_owned(),
                place: place(record),
                url: record.url.clone(),
                hash: expected(record)?,
                size: record.package_record.size,
                place_in: Store::package_path,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    fetch_all("packages", downloads, client, store, reporter).await
}

/// Brings every wheel into the store; those that are there are not asked for again.
///
/// A lock has no credentials; `section`, the environment file's, has those of its indexes.
///
/// # Errors
/// The first wheel that cannot be had, or whose hash is wrong; nothing of it is kept.
pub async fn fetch_wheels(
    wheels: &[LockedWheel],
    section: &PipSection,
    client: &ClientWithMiddleware,
    store: &Store,
    reporter: &Reporter,
) -> Result<()> {
    let downloads = wheels
        .iter()
        .map(|wheel| Download {
            label: wheel.name.clone(),
            place: wheel.file_name(),
            url: section.with_credentials(&wheel.url),
            hash: Expected::Sha256(wheel.sha256),
            size: wheel.size,
            place_in: Store::wheel_path,
        })
        .collect();
    fetch_all("wheels", downloads, client, store, reporter).await
}

/// The sha256, else the md5: an `@EXPLICIT` list may have no other.
fn expected(record: &RepoDataRecord) -> Result<Expected> {
    let package = &record.package_record;
    match (package.sha256, package.md5) {
        (None, Some(md5)) => Ok(Expected::Md5(md5)),
        _ => sha256_of(record).map(Expected::Sha256),
    }
}

/// Where a wheel that [`fetch_wheels`] brought lies.
pub fn wheel_path(wheel: &LockedWheel, store: &Store) -> PathBuf {
    store.wheel_path(&wheel.sha256)
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
            let fetching = fetch_wheels(&wheels, &section, &client, &store, &reporter);
            let fetched = runtime.block_on(fetching).map_err(|e| e.to_string());
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
