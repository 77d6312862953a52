//! `RECORD`: every file of a wheel with its hash and size ("Recording installed projects").

use std::{
    collections::BTreeMap,
    io::{self, Read},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256, Sha384, Sha512, digest::DynDigest};

use super::{WheelError, zip::Member};
use crate::digest::Digest;

/// What a `RECORD` says of its files, by name.
pub(super) type Record = BTreeMap<String, Listed>;

/// What a `RECORD` says of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    /// The hash; none for `RECORD` itself and its signatures.
    pub hash: Option<Hash>,
    /// The size in bytes, where it is said.
    pub size: Option<u64>,
}

/// The hash of a file, as it is written: `sha256=47DEQpj8...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hash {
    text: String,
    algorithm: Algorithm,
    digest: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Sha256,
    Sha384,
    Sha512,
}

impl Algorithm {
    fn hasher(self) -> Box<dyn DynDigest> {
        match self {
            Self::Sha256 => Box::new(Sha256::new()),
            Self::Sha384 => Box::new(Sha384::new()),
            Self::Sha512 => Box::new(Sha512::new()),
        }
    }
}

impl Hash {
    /// Parses `ALGORITHM=DIGEST`, the digest in URL-safe base64 without padding. Weaker hashes
    /// than sha256 are forbidden by the wheel format.
    fn parse(text: &str) -> Result<Self, String> {
        let (name, digits) = text.split_once('=').unwrap_or((text, ""));
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha384" => Algorithm::Sha384,
            "sha512" => Algorithm::Sha512,
            _ => {
                return Err(format!(
                    "the hash '{text}' is not a sha256, sha384 or sha512"
                ));
            }
        };
        match URL_SAFE_NO_PAD.decode(digits) {
            Ok(digest) if digest.len() == algorithm.hasher().output_size() => Ok(Self {
                text: text.to_owned(),
                algorithm,
                digest,
            }),
            _ => Err(format!(
                "the hash '{text}' is not URL-safe base64 of a digest"
            )),
        }
    }
}

/// A sha256 as `RECORD` writes it.
pub(super) fn sha256_text(digest: &Digest) -> String {
    format!("sha256={}", URL_SAFE_NO_PAD.encode(digest.bytes()))
}

impl Hash {
    /// The digest, when it is a sha256.
    pub fn sha256(&self) -> Option<Digest> {
        (self.algorithm == Algorithm::Sha256)
            .then(|| self.digest.as_slice().try_into().ok())
            .flatten()
            .map(Digest::from_bytes)
    }
}

impl std::fmt::Display for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// Parses a `RECORD`.
pub(super) fn parse(bytes: &[u8]) -> Result<Record, WheelError> {
    let mut record = Record::new();
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .from_reader(bytes);
    for row in reader.records() {
        let row = row.map_err(|e| WheelError(format!("its RECORD cannot be read: {e}")))?;
        let (Some(path), Some(hash), Some(size), 3) =
            (row.get(0), row.get(1), row.get(2), row.len())
        else {
            return Err(WheelError::new(
                "its RECORD has a line without three fields",
            ));
        };
        let listed = listed(hash, size).map_err(|e| WheelError(format!("{path}: {e}")))?;
        // Wheels that list a file twice, in the same words, do exist (pip's issue 5868).
        let before = record.insert(path.to_owned(), listed.clone());
        if before.is_some_and(|before| before != listed) {
            return Err(WheelError(format!(
                "its RECORD contradicts itself on {path}"
            )));
        }
    }
    Ok(record)
}

fn listed(hash: &str, size: &str) -> Result<Listed, String> {
    let hash = (!hash.is_empty()).then(|| Hash::parse(hash)).transpose()?;
    let size = match size {
        "" => None,
        size => Some(
            size.parse()
                .map_err(|_| format!("the size '{size}' is not a number"))?,
        ),
    };
    Ok(Listed { hash, size })
}

/// Checks that a `RECORD` lists the files of the archive and no others, with a hash and the right
/// size; it cannot hash itself, nor be hashed before it is signed.
pub(super) fn check(record: &Record, members: &[Member], own: &str) -> Result<(), WheelError> {
    let signatures = ["", ".jws", ".p7s"].map(|suffix| format!("{own}{suffix}"));
    let free = |name: &String| signatures.contains(name);
    for member in members.iter().filter(|member| !free(&member.name)) {
        let name = &member.name;
        let Some(listed) = record.get(name) else {
            return Err(WheelError(format!("its RECORD does not list {name}")));
        };
        if listed.hash.is_none() {
            return Err(WheelError(format!("its RECORD has no hash of {name}")));
        }
        if listed.size.is_some_and(|size| size != member.size) {
            return Err(WheelError(format!(
                "{name} has {} bytes, its RECORD says otherwise",
                member.size
            )));
        }
    }
    let names: std::collections::HashSet<&str> =
        members.iter().map(|member| member.name.as_str()).collect();
    match record.keys().find(|name| !names.contains(name.as_str())) {
        Some(name) => Err(WheelError(format!(
            "its RECORD lists {name}, which the archive does not hold"
        ))),
        None => Ok(()),
    }
}

/// One line of the `RECORD` of an installed wheel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Row {
    /// The path from `site-packages`.
    pub path: String,
    /// The hash, with its algorithm.
    pub hash: String,
    /// The size in bytes.
    pub size: Option<u64>,
}

/// The `RECORD` of an installed wheel, sorted by path; `own` is its own path, which has neither
/// hash nor size.
pub(super) fn render(mut rows: Vec<Row>, own: String) -> Result<Vec<u8>, WheelError> {
    rows.push(Row {
        path: own,
        hash: String::new(),
        size: None,
    });
    rows.sort();
    let failed = |e: &dyn std::fmt::Display| WheelError(format!("its RECORD: {e}"));
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        let size = row.size.map_or_else(String::new, |size| size.to_string());
        writer
            .write_record([row.path, row.hash, size])
            .map_err(|e| failed(&e))?;
    }
    writer.into_inner().map_err(|e| failed(&e))
}

/// Compares content with its `RECORD` entry while it passes.
pub(super) struct Verifying<R> {
    inner: R,
    hasher: Box<dyn DynDigest>,
    left: u64,
    fault: Option<String>,
}

impl<R: Read> Verifying<R> {
    /// A reader of content of that size, to be compared with `hash` by [`finish`](Self::finish).
    pub fn new(inner: R, hash: &Hash, size: u64) -> Self {
        Self {
            inner,
            hasher: hash.algorithm.hasher(),
            left: size,
            fault: None,
        }
    }

    /// Why reading failed, if it did: what takes the content cannot tell.
    pub fn fault(&mut self) -> Option<String> {
        self.fault.take()
    }

    /// Reads to the end and compares.
    pub fn finish(mut self, hash: &Hash) -> Result<(), String> {
        let rest = io::copy(&mut self, &mut io::sink());
        if let Err(e) = rest {
            return Err(self.fault.unwrap_or_else(|| e.to_string()));
        }
        if *self.hasher.finalize() == *hash.digest {
            Ok(())
        } else {
            Err("it is not what RECORD says: the hash differs".into())
        }
    }

    fn count(&mut self, n: usize, wanted: bool) -> io::Result<()> {
        let left = self.left.checked_sub(n as u64);
        let left = left.ok_or_else(|| io::Error::other("it is longer than announced"))?;
        if n == 0 && wanted && left != 0 {
            return Err(io::Error::other("it is shorter than announced"));
        }
        self.left = left;
        Ok(())
    }
}

impl<R: Read> Read for Verifying<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf).and_then(|n| {
            self.count(n, !buf.is_empty())?;
            self.hasher.update(buf.get(..n).unwrap_or_default());
            Ok(n)
        });
        read.inspect_err(|e| {
            if e.kind() != io::ErrorKind::Interrupted {
                self.fault = Some(e.to_string());
            }
        })
    }
}

#[cfg(test)]
mod tests;
