//! Where a finished image goes: a layout folder, an archive, or the Docker daemon.

mod archive;
mod layout;

use std::{path::PathBuf, str::FromStr};

pub use archive::{ArchiveKind, archive_size, stream, write_archive};
pub use layout::write_layout;

use crate::error::{Error, Result};

/// An output as `-o type=...,dest=...` says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The form.
    pub kind: OutputKind,
    /// The folder or file.
    pub dest: PathBuf,
}

/// The forms of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// An OCI image layout folder.
    Oci,
    /// One tar.
    Archive(ArchiveKind),
}

impl FromStr for Output {
    type Err = Error;

    /// Takes buildx's syntax: `type=oci,dest=out/`.
    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: String| {
            Error::input(format!("'{text}' is not an output"))
                .why(why)
                .hint("use type=oci,dest=DIR, type=oci-archive,dest=FILE or type=docker-archive,dest=FILE")
        };
        let (mut kind, mut dest) = (None, None);
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("type", value)) => {
                    kind = Some(match value {
                        "oci" => OutputKind::Oci,
                        "oci-archive" => OutputKind::Archive(ArchiveKind::Oci),
                        "docker-archive" => OutputKind::Archive(ArchiveKind::Docker),
                        _ => return Err(bad(format!("unknown type '{value}'"))),
                    });
                }
                Some(("dest", value)) if !value.is_empty() => dest = Some(PathBuf::from(value)),
                _ => return Err(bad(format!("'{part}' is not understood"))),
            }
        }
        Ok(Self {
            kind: kind.ok_or_else(|| bad("type= is missing".into()))?,
            dest: dest.ok_or_else(|| bad("dest= is missing".into()))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_parse() {
        let output: Output = "type=oci-archive,dest=a.tar".parse().unwrap();
        assert_eq!(output.kind, OutputKind::Archive(ArchiveKind::Oci));
        assert_eq!(output.dest, PathBuf::from("a.tar"));
        for bad in [
            "",
            "type=oci",
            "dest=x",
            "type=zip,dest=x",
            "type=oci,dest=",
        ] {
            assert!(bad.parse::<Output>().is_err(), "{bad}");
        }
    }
}
