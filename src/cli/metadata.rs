//! What a build or push made, in files for the programs that go on with it.

use std::{
    env,
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use clap::Args as Group;
use serde_json::json;

use crate::{
    digest::Digest,
    error::{Error, Result},
    image::ImageSet,
};

/// Where an image's digests are written beside stdout.
#[derive(Clone, Debug, Group)]
#[command(next_help_heading = "For scripts")]
pub(super) struct MetadataArgs {
    /// Write the image's digests and names as JSON, with the keys of docker buildx.
    #[arg(long, value_name = "FILE", value_parser = file)]
    pub metadata_file: Option<PathBuf>,
    /// Write the image ID, the digest of its config, as docker build does; of several platforms,
    /// the index's digest.
    #[arg(long, value_name = "FILE", value_parser = file)]
    pub iidfile: Option<PathBuf>,
}

fn file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let folder = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    match folder {
        _ if path.is_dir() => Err("it is a folder".into()),
        Some(folder) if !folder.is_dir() => Err(format!("{} is not a folder", folder.display())),
        _ => Ok(path),
    }
}

impl MetadataArgs {
    /// Writes the files that were asked for, and adds to those of a GitHub Actions step
    /// (GitHub docs, "Workflow commands": `GITHUB_OUTPUT`, `GITHUB_STEP_SUMMARY`).
    ///
    /// # Errors
    /// When one cannot be written.
    pub(super) fn write(&self, set: &ImageSet, names: &[String]) -> Result<()> {
        let (digest, id) = (set.digest(), id(set));
        if let Some(path) = &self.metadata_file {
            write(path, &metadata(set, names))?;
        }
        if let Some(path) = &self.iidfile {
            write(path, &id.to_string())?;
        }
        let actions = [
            ("GITHUB_OUTPUT", outputs(&digest, &id)),
            ("GITHUB_STEP_SUMMARY", summary(&digest, names)),
        ];
        for (variable, text) in actions {
            if let Some(path) = env::var_os(variable).filter(|path| !path.is_empty()) {
                append(Path::new(&path), &text)
                    .map_err(|e| e.hint(format!("{variable} names this file")))?;
            }
        }
        Ok(())
    }
}

/// The digest of the config; an index has none and stands for itself, as buildx has it.
fn id(set: &ImageSet) -> Digest {
    set.single()
        .map_or_else(|| set.digest(), |image| image.config_digest)
}

/// The keys that `docker buildx build --metadata-file` writes (Docker CLI reference).
fn metadata(set: &ImageSet, names: &[String]) -> String {
    let mut json = json!({"containerimage.digest": set.digest()});
    if let Some(image) = set.single() {
        json["containerimage.config.digest"] = image.config_digest.to_string().into();
    }
    if let Some(index) = set.index() {
        json["containerimage.descriptor"] = json!(index.descriptor());
    }
    if !names.is_empty() {
        json["image.name"] = names.join(",").into();
    }
    format!("{json:#}\n")
}

fn outputs(digest: &Digest, id: &Digest) -> String {
    format!("digest={digest}\nimageid={id}\n")
}

fn summary(digest: &Digest, names: &[String]) -> String {
    let names = match names {
        [] => String::new(),
        names => format!("`{}` ", names.join("`, `")),
    };
    format!("Image {names}`{digest}`\n\n")
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|e| Error::io("write", path, e))
}

fn append(path: &Path, text: &str) -> Result<()> {
    let file = OpenOptions::new().append(true).create(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|e| Error::io("write", path, e))
}
