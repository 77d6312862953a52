//! A wheel as a lock has it.

use url::Url;

use crate::digest::Digest;

/// One pip package, locked: always a wheel, never a source distribution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockedWheel {
    /// The project's name, normalised (PEP 503).
    pub name: String,
    /// The version as the index writes it (PEP 440), local part such as `+cu118` included.
    pub version: String,
    /// Where the wheel is, without credentials; `file://` for one on this machine.
    pub url: Url,
    /// The sha256 of the wheel.
    pub sha256: Digest,
    /// The size of the wheel in bytes, where the lock says it.
    pub size: Option<u64>,
}

impl LockedWheel {
    /// The wheel's file name (PEP 427): the last segment of its URL, percent-decoded.
    pub fn file_name(&self) -> String {
        file_name(&self.url)
    }
}

/// The last segment of a URL, percent-decoded.
pub(super) fn file_name(url: &Url) -> String {
    let last = url.path_segments().and_then(Iterator::last);
    percent_encoding::percent_decode_str(last.unwrap_or_default())
        .decode_utf8_lossy()
        .into_owned()
}
