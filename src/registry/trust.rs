//! Certificate authorities that the user trusts for one registry, and the certificate that it is
//! shown.
//!
//! `certs.d/HOST[:PORT]/*.crt`, and `*.cert` with `*.key`, as Docker and podman read them (Docker
//! docs, "Verify repository client with certificates"; containers-certs.d(5)).

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

/// What the user has for one host.
#[derive(Default)]
pub(super) struct Trust {
    /// The authorities as DER.
    pub authorities: Vec<Vec<u8>>,
    /// The certificate to show.
    pub identity: Option<Identity>,
}

/// A certificate with its key.
pub(super) struct Identity {
    /// Where the certificate is.
    pub path: PathBuf,
    /// Both, as PEM.
    pub pem: Vec<u8>,
}

impl Trust {
    /// Of all folders, in the order of their files' names; of more than one client certificate the
    /// first.
    ///
    /// # Errors
    /// When a file cannot be read or holds no certificate, or a client certificate has no key.
    pub fn of(folders: &[PathBuf], host: &str) -> Result<Self> {
        let mut trust = Self::default();
        for folder in folders {
            for path in files(&folder.join(host))? {
                match path.extension().and_then(|end| end.to_str()) {
                    Some("crt") => trust.authorities.append(&mut certificates(&path)?),
                    Some("cert") if trust.identity.is_none() => {
                        trust.identity = Some(identity(path)?);
                    }
                    _ => {}
                }
            }
        }
        Ok(trust)
    }
}

fn identity(path: PathBuf) -> Result<Identity> {
    let key = path.with_extension("key");
    if !key.exists() {
        return Err(Error::environment("a client certificate has no key")
            .at(path.display())
            .why(format!("there is no {}", key.display()))
            .hint("put the key there; the file of a certificate authority ends in .crt"));
    }
    let read = |path: &Path| fs::read(path).map_err(|e| Error::io("read", path, e));
    let mut pem = read(&key)?;
    pem.push(b'\n');
    pem.append(&mut read(&path)?);
    Ok(Identity { path, pem })
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
        let folders = [dir.path().join("absent"), dir.path().to_owned()];
        let authorities = |host| Trust::of(&folders, host).map(|trust| trust.authorities);
        assert_eq!(authorities("h:1").unwrap(), [b"a", b"b", b"c"]);
        assert!(authorities("h:2").unwrap().is_empty());
        fs::write(host.join("a.crt"), "x").unwrap();
        let error = authorities("h:1").unwrap_err().to_string();
        assert!(
            error.contains("a.crt") && error.contains("no certificate"),
            "{error}"
        );
    }

    #[test]
    fn a_client_certificate_comes_with_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().join("h");
        fs::create_dir(&host).unwrap();
        let folders = [dir.path().to_owned()];
        let identity = || Trust::of(&folders, "h").map(|trust| trust.identity);
        assert!(identity().unwrap().is_none());
        for (file, text) in [("b.cert", "B"), ("b.key", "b"), ("c.cert", "C")] {
            fs::write(host.join(file), text).unwrap();
        }
        let found = identity().unwrap().unwrap();
        assert_eq!(
            (found.path, found.pem),
            (host.join("b.cert"), b"b\nB".into())
        );
        fs::write(host.join("a.cert"), "A").unwrap();
        let error = identity().err().unwrap().to_string();
        assert!(error.contains("a.key") && error.contains(".crt"), "{error}");
    }
}
