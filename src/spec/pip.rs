//! The `pip:` section of an environment file.
//!
//! conda gives its lines to pip as a requirements file, so they follow pip's "Requirements File
//! Format"; see [`reader`].

mod options;
mod reader;
#[cfg(test)]
#[path = "pip/reader_tests.rs"]
mod reader_tests;

use std::{fmt, io, path::Path};

use pep508_rs::{Requirement, VersionOrUrl};
use url::Url;

use crate::digest::Digest;

/// What a `pip:` section asks for.
#[derive(Clone, Debug, Default)]
pub struct PipSection {
    /// The packages, in file order, those of `-r` files in the place of their line.
    pub requirements: Vec<PipRequirement>,
    /// What limits versions without asking for a package (`-c`).
    pub constraints: Vec<PipRequirement>,
    /// Where they may come from.
    pub sources: PipSources,
    /// `--require-hashes`: every package must have its hash in the file.
    pub require_hashes: bool,
}

/// One requirement (PEP 508).
#[derive(Clone, Debug)]
pub struct PipRequirement {
    /// The line as the user wrote it, less its comment; may hold `${VARIABLE}` but no value of one.
    pub text: String,
    /// The file it stands in: the environment file, or one named by `-r` or `-c`.
    pub file: String,
    /// The line in the file, from 1.
    pub line: usize,
    /// The column in the file, from 1.
    pub column: usize,
    /// Whether that is a file named by `-r` or `-c`.
    pub included: bool,
    /// The same in PEP 508's form, variables replaced, a bare URL or path given its name. It may
    /// hold credentials.
    pub pep508: String,
    /// The same, parsed; its URL, if it has one, is a wheel's.
    pub parsed: Requirement<Url>,
    /// `--hash=sha256:...`: what a wheel may have; any when there is none.
    pub hashes: Vec<Digest>,
}

/// Package indexes, as pip's options of the same names say.
#[derive(Clone, Debug, Default)]
pub struct PipSources {
    /// `--index-url`: instead of the default index.
    pub index_url: Option<Url>,
    /// `--extra-index-url`, in order.
    pub extra_index_urls: Vec<Url>,
    /// `--find-links`: URLs or absolute paths, in order.
    pub find_links: Vec<String>,
    /// `--no-index`.
    pub no_index: bool,
    /// `--pre`.
    pub prereleases: bool,
}

/// What reading a section needs of the machine.
#[derive(Clone, Copy)]
pub struct Host<'a> {
    /// Reads a file whole.
    pub read: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
    /// The value of an environment variable.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
}

impl Host<'static> {
    /// This machine.
    pub fn real() -> Self {
        Self {
            read: &read_small_file,
            variable: &|name| std::env::var(name).ok(),
        }
    }
}

/// A file of at most [`super::yaml::Limits::BY_HAND`]; no pipe or device, which may never end.
fn read_small_file(path: &Path) -> io::Result<Vec<u8>> {
    let meta = std::fs::metadata(path)?;
    if !meta.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    if meta.len() > super::yaml::Limits::BY_HAND.bytes as u64 {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    std::fs::read(path)
}

impl PipRequirement {
    /// `file:line:column`, for errors.
    pub fn place(&self) -> impl fmt::Display + '_ {
        format!("{}:{}:{}", self.file, self.line, self.column)
    }

    /// The project's name, normalised (PEP 503).
    pub fn name(&self) -> &str {
        self.parsed.name.as_ref()
    }

    /// The wheel's URL, when the line names one.
    pub fn url(&self) -> Option<&Url> {
        match &self.parsed.version_or_url {
            Some(VersionOrUrl::Url(url)) => Some(url),
            _ => None,
        }
    }
}

impl PipSection {
    /// Whether it asks for nothing.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// A URL with the credentials that the section has for its host, if there are any: a lock
    /// and everything that is shown go without.
    #[must_use]
    pub fn with_credentials(&self, url: &Url) -> Url {
        let mut url = url.clone();
        let known = self.urls();
        let found = known
            .iter()
            .find(|known| known.origin().is_tuple() && known.origin() == url.origin());
        if let Some(known) = found {
            // Neither can fail: the URL has a host, since its origin is a tuple.
            let _ = url.set_username(known.username());
            let _ = url.set_password(known.password());
        }
        url
    }

    /// A text without the secrets of the section's URLs.
    pub fn redacted(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for url in self.urls() {
            let secrets = [url.password().unwrap_or_default(), url.username()];
            for secret in secrets.into_iter().filter(|secret| !secret.is_empty()) {
                let plain = percent_encoding::percent_decode_str(secret).decode_utf8_lossy();
                // A user's name may be an ordinary word, which is only secret before its '@'.
                text = text.replace(&format!("{secret}@"), "****@");
                if url.password() == Some(secret) || url.password().is_none() {
                    text = text.replace(secret, "****").replace(&*plain, "****");
                }
            }
        }
        text
    }

    /// Every URL of the section that has credentials.
    fn urls(&self) -> Vec<Url> {
        let sources = &self.sources;
        let indexes = sources.index_url.iter().chain(&sources.extra_index_urls);
        let links = sources.find_links.iter().filter_map(|l| l.parse().ok());
        let lines = self.requirements.iter().chain(&self.constraints);
        indexes
            .cloned()
            .chain(links)
            .chain(lines.filter_map(|line| line.url().cloned()))
            .filter(|url| !url.username().is_empty() || url.password().is_some())
            .collect()
    }
}
