//! Certificate authorities that the user trusts for one registry.
//!
//! `certs.d/HOST[:PORT]/*.crt`, as Docker and podman read them (Docker docs, "Verify repository
//! client with certificates"; containers-certs.d(5)).

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use rustls::pki_types::{CertificateDer, pem::PemObject};

use crate::error::{Error, Result};

/// The folders of folders, a user's first.
pub(super) fn folders() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    let own = home.map(|home| Path::new(&home).join(".config/containers/certs.d"));
    let machine = ["/etc/containers/certs.d", "/etc/docker/certs.d"];
    own.into_iter().chain(machine.map(PathBuf::from)).collect()
}

/// The authorities for a host as DER: of all folders, in the order of their names.
///
/// # Errors
/// When a file cannot be read or holds no certificate.
pub(super) fn authorities(folders: &[PathBuf], host: &str) -> Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    for file in folders.iter().map(|folder| files(&folder.join(host))) {
        for path in file? {
            found.append(&mut certificates(&path)?);
        }
    }
    Ok(found)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        // Docker's folder is often root's alone.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
            return Ok(Vec::new());
        }
        Err(e) => return Err(Error::io("read", folder, e)),
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let paths: Result<Vec<PathBuf>, _> = paths.collect();
    let mut paths = paths.map_err(|e| Error::io("read", folder, e))?;
    paths.retain(|path| path.extension().is_some_and(|end| end == "crt"));
    paths.sort();
    Ok(paths)
}

fn certificates(path: &Path) -> Result<Vec<Vec<u8>>> {
    let text = fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let wrong = |why: String| {
        Error::environment("cannot use a registry's CA certificate")
            .at(path.display())
            .why(why)
            .hint("it must be PEM: -----BEGIN CERTIFICATE-----")
    };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(wrong("there is no certificate in it".into())),
        Ok(found) => Ok(found.iter().map(|der| der.to_vec()).collect()),
        Err(e) => Err(wrong(e.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_certificates_of_a_hosts_folders_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let pem = |body: &str| {
            format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
        };
        let host = dir.path().join("h:1");
        fs::create_dir(&host).unwrap();
        fs::write(host.join("b.crt"), pem("Yg==") + &pem("Yw==")).unwrap();
        fs::write(host.join("a.crt"), pem("YQ==")).unwrap();
        fs::write(host.join("client.cert"), "not this").unwrap();
        let folders = [dir.path().join("absent"), dir.path().to_owned()];
        let found = authorities(&folders, "h:1").unwrap();
        assert_eq!(found, [b"a", b"b", b"c"]);
        assert!(authorities(&folders, "h:2").unwrap().is_empty());
        fs::write(host.join("a.crt"), "x").unwrap();
        let error = authorities(&folders, "h:1").unwrap_err().to_string();
        assert!(
            error.contains("a.crt") && error.contains("no certificate"),
            "{error}"
        );
    }
}
