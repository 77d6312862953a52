//! Wheels to entries: reading the archive, checking it, and installing it as a stream.
//!
//! A wheel is a zip with a list of its own files (PyPA specification "Binary distribution
//! format", PEP 427). Nothing is ever unpacked by path, and nothing that the archive says is
//! believed twice: [`zip`] makes sure that there is one way to read it, `RECORD` names every
//! file and its hash, and [`link()`] compares each one while it passes.

mod archive;
mod entry_points;
mod install;
mod metadata;
mod paths;
mod record;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod zip;

use std::io;

pub use archive::{WheelArchive, WheelInfo};
pub use install::link;

use crate::{
    error::{Error, chain},
    lock::LockedWheel,
};

/// Why a wheel cannot be read or installed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct WheelError(String);

impl WheelError {
    fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl From<io::Error> for WheelError {
    fn from(e: io::Error) -> Self {
        Self(chain(&e))
    }
}

impl From<::zip::result::ZipError> for WheelError {
    fn from(e: ::zip::result::ZipError) -> Self {
        Self(chain(&e))
    }
}

/// How messages name a wheel.
fn place(wheel: &LockedWheel) -> String {
    format!("wheel {}", wheel.file_name())
}

/// A wheel that contradicts itself; `place` says which.
fn damaged(place: &str, why: &WheelError) -> Error {
    Error::environment("a wheel cannot be installed")
        .at(place)
        .why(why)
        .hint("its hash is right, so the wheel itself is faulty: use another version of it")
}
