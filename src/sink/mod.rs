//! Where a finished image goes: a layout folder, an archive, or the Docker daemon.

mod archive;
mod contents;
mod layout;

use std::{
    fs,
    path::{Path, PathBuf},
    str::FromStr,
};

pub use archive::{Archive, ArchiveKind, write_archive};
pub use contents::{Blob, Contents, Packed};
pub use layout::write_layout;

use crate::{
    attest::Attested,
    error::{Error, Result},
    image::{Document, ImageSet},
};

/// What is written out.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The images.
    pub set: &'a ImageSet,
    /// What an OCI layout has beside them.
    pub attested: Option<&'a Attested>,
    /// What they are called.
    pub names: &'a [String],
}

impl Outgoing<'_> {
    /// What the names stand for.
    fn top(&self) -> Option<&Document> {
        match self.attested {
            Some(attested) => Some(&attested.index),
            None => self.set.index(),
        }
    }

    /// The blobs and manifests of what is said of the images.
    fn statements(&self) -> impl Iterator<Item = &[u8]> {
        self.attested.into_iter().flat_map(|attested| {
            let manifests = attested.manifests.iter().map(|manifest| &manifest.bytes);
            attested.blobs.iter().chain(manifests).map(Vec::as_slice)
        })
    }
}

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

impl Output {
    /// Whether it is an OCI layout, which can hold more than images.
    pub fn holds_attestations(&self) -> bool {
        matches!(
            self.kind,
            OutputKind::Oci | OutputKind::Archive(ArchiveKind::Oci)
        )
    }

    /// Refuses a destination that cannot be written to, before anything is built.
    ///
    /// # Errors
    /// When something else is there, or the folder of an archive is missing.
    pub fn check(&self) -> Result<()> {
        let dest = self.dest.display();
        match self.kind {
            OutputKind::Oci => layout::refuse_foreign(&self.dest),
            OutputKind::Archive(_) if self.dest.is_dir() => Err(Error::input(format!(
                "{dest} is a folder, the archive is a file"
            ))
            .hint("name the file: dest=out/image.tar")),
            OutputKind::Archive(_) if !folder_of(&self.dest).is_dir() => {
                Err(Error::input(format!("cannot write {dest}"))
                    .why(format!(
                        "there is no folder {}",
                        folder_of(&self.dest).display()
                    ))
                    .hint("make the folder first"))
            }
            OutputKind::Archive(_) => Ok(()),
        }
    }
}

/// The start of the names of files that this process is writing.
fn unfinished_prefix() -> String {
    format!(".imgbuild-{}-", std::process::id())
}

/// Removes what this process has not finished writing of an output.
pub fn sweep_unfinished(output: &Output) {
    let folders = match output.kind {
        OutputKind::Oci => vec![output.dest.clone(), output.dest.join("blobs/sha256")],
        OutputKind::Archive(_) => vec![folder_of(&output.dest).to_owned()],
    };
    for entry in folders.iter().flat_map(fs::read_dir).flatten().flatten() {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with(&unfinished_prefix()) {
            // The process ends: nobody could act on a failure.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The folder that a file lies in.
fn folder_of(file: &Path) -> &Path {
    file.parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
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
