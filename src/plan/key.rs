//! The key of a layer: everything its bytes depend on, and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use rattler_conda_types::RepoDataRecord;

use crate::{
    digest::Digest,
    error::{Error, Exit, Result},
    package::{Prefix, excluded_of},
};

/// What the bytes of a package layer depend on.
pub struct KeyInput<'a> {
    /// The version of the layer format, codec and level included.
    pub format: &'a str,
    /// Where the packages are linked to.
    pub prefix: &'a Prefix,
    /// The folders of the base image on the way to the prefix, with their attributes.
    pub base_folders: &'a str,
    /// Targets that packages lose to others.
    pub exclusions: &'a BTreeMap<String, BTreeSet<PathBuf>>,
}

/// The key of a layer of these packages, given in the order of the layer.
///
/// # Errors
/// When a record has no sha256.
pub fn layer_key(input: &KeyInput<'_>, packages: &[&RepoDataRecord]) -> Result<Digest> {
    let broken =
        |e: serde_json::Error| Error::new(Exit::Internal, "cannot make a layer key").why(e);
    let mut members = Vec::with_capacity(packages.len());
    for record in packages {
        // The record is part of the layer (conda-meta); it names the archive by its sha256.
        let bytes = serde_json::to_vec(record).map_err(broken)?;
        let lost = excluded_of(input.exclusions, record.package_record.name.as_normalized());
        members.push((Digest::of(&bytes), lost));
    }
    let python = packages
        .iter()
        .any(|record| record.package_record.noarch.is_python())
        .then(|| {
            input.prefix.python.as_ref().map(|python| {
                (
                    python.short_version,
                    &python.site_packages_path,
                    &python.path,
                )
            })
        })
        .flatten();
    let all = (
        input.format,
        &input.prefix.path,
        input.prefix.platform.as_str(),
        input.base_folders,
        python,
        members,
    );
    Ok(Digest::of(&serde_json::to_vec(&all).map_err(broken)?))
}
