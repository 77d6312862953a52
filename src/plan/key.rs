//! The key of a layer: everything its bytes depend on, and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use serde::Serialize;
use url::Url;

use super::Locked;
use crate::{
    digest::Digest,
    error::{Error, Exit, Result},
    fetch::sha256_of,
    layer::DirectoryAttributes,
    package::{Prefix, Survey, excluded_of, origin},
};

/// What the bytes of a package layer depend on.
pub struct KeyInput<'a> {
    /// The version of the layer format, codec and level included.
    pub format: &'a str,
    /// Where the packages are linked to.
    pub prefix: &'a Prefix,
    /// The folders of the base image on the way to the prefix, with their attributes.
    pub base_folders: &'a BTreeMap<Vec<u8>, DirectoryAttributes>,
    /// What the packages mean together.
    pub survey: &'a Survey,
    /// What compiled Python files depend on; none where they are not made.
    pub compile: Option<Digest>,
}

/// What of one package the bytes depend on. What an archive says of itself is in its sha256; a
/// lock's other facts do not reach the layer.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Part<'a> {
    Conda {
        sha256: Digest,
        /// The record in `conda-meta` has both.
        url: Url,
        md5: Option<String>,
        lost: &'a BTreeSet<PathBuf>,
    },
    Wheel {
        sha256: Digest,
        lost: &'a BTreeSet<PathBuf>,
    },
}

/// The key of a layer of these packages, given in the order of the layer.
///
/// # Errors
/// When a record has no sha256.
pub fn layer_key(input: &KeyInput<'_>, packages: &[Locked<'_>]) -> Result<Digest> {
    let ids: Vec<String> = packages.iter().map(Locked::id).collect();
    let parts = packages
        .iter()
        .zip(&ids)
        .map(|(package, id)| part(*package, id, input.survey))
        .collect::<Result<Vec<_>>>()?;
    let python = ids
        .iter()
        .any(|id| input.survey.for_python.contains(id))
        .then_some(input.prefix.python.as_ref())
        .flatten()
        .map(|python| {
            (
                python.short_version,
                &python.path,
                &python.site_packages_path,
                &python.bin_dir,
                input.compile,
            )
        });
    let all = (
        input.format,
        (&input.prefix.path, &input.prefix.root),
        input.prefix.platform.as_str(),
        input.base_folders.iter().collect::<Vec<_>>(),
        python,
        parts,
    );
    serde_json::to_vec(&all)
        .map(|bytes| Digest::of(&bytes))
        .map_err(|e| Error::new(Exit::Internal, "cannot make a layer key").why(e))
}

fn part<'a>(package: Locked<'_>, id: &str, survey: &'a Survey) -> Result<Part<'a>> {
    let lost = excluded_of(&survey.exclusions, id);
    Ok(match package {
        Locked::Conda(record) => Part::Conda {
            sha256: sha256_of(record)?,
            url: origin::public_url(&record.url),
            md5: survey.md5_of(record, id),
            lost,
        },
        Locked::Wheel(wheel) => Part::Wheel {
            sha256: wheel.sha256,
            lost,
        },
    })
}
