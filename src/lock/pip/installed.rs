//! What conda packages bring as Python distributions, which pip finds installed and leaves alone.
//!
//! The truth is in the packages: a conda package's name may be another one's on PyPI
//! (`pytorch` is `torch` there), and one package may bring several distributions.

use std::{collections::BTreeMap, io::Write as _, path::Path};

use pep440_rs::Version;
use pep508_rs::PackageName;
use rattler_conda_types::RepoDataRecord;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use super::PipRequest;
use crate::{
    digest::Digest,
    error::{Error, Exit, Result, chain},
    fetch,
    package::place,
};

/// Changes whenever the same package would give other distributions.
const FORMAT: &str = "imgbuild-distributions-1";

/// A Python distribution that a conda package brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Its version.
    pub version: Version,
    /// The conda package's name.
    pub conda: String,
    /// The conda package, as `name-version-build`.
    pub package: String,
}

/// What the request's conda packages install, by normalised name.
///
/// Only packages that need Python are opened, each once: the answer is kept in the store.
///
/// # Errors
/// When a package cannot be fetched or read.
pub fn installed(request: &PipRequest<'_>) -> Result<BTreeMap<String, Installed>> {
    let records: Vec<&RepoDataRecord> = request.packages.iter().filter(|r| for_python(r)).collect();
    let mut unknown = Vec::new();
    for record in &records {
        if known(record, request)?.is_none() {
            unknown.push(*record);
        }
    }
    if !unknown.is_empty() {
        request.runtime.block_on(fetch::fetch_packages(
            &unknown,
            request.client,
            request.store,
            request.reporter,
        ))?;
    }
    let mut all = BTreeMap::new();
    for record in records {
        let found = match known(record, request)? {
            Some(found) => found,
            None => look_inside(record, request)?,
        };
        for (name, version) in found {
            // An old egg-info may not say the version; the package's is the best guess.
            let version = version.unwrap_or_else(|| record.package_record.version.to_string());
            let (Ok(name), Ok(version)) = (name.parse::<PackageName>(), version.parse()) else {
                continue;
            };
            let conda = &record.package_record;
            let installed = Installed {
                version,
                conda: conda.name.as_normalized().to_owned(),
                package: place(record).replacen("package ", "", 1),
            };
            all.insert(name.to_string(), installed);
        }
    }
    Ok(all)
}

/// Distributions as they are kept: name, and version where it is said.
type Found = Vec<(String, Option<String>)>;

fn for_python(record: &RepoDataRecord) -> bool {
    let record = &record.package_record;
    record.noarch.is_python()
        || record.depends.iter().any(|spec| {
            let name = spec.split_whitespace().next().unwrap_or_default();
            matches!(name, "python" | "python_abi")
        })
}

fn key(record: &RepoDataRecord) -> Result<Digest> {
    let sha256 = fetch::sha256_of(record)?;
    Ok(Digest::of(format!("{FORMAT} {sha256}").as_bytes()))
}

fn known(record: &RepoDataRecord, request: &PipRequest<'_>) -> Result<Option<Found>> {
    Ok(request.store.survey(&key(record)?))
}

fn look_inside(record: &RepoDataRecord, request: &PipRequest<'_>) -> Result<Found> {
    let archive = fetch::archive(record, request.store)?;
    let info = archive.info().map_err(|e| {
        Error::environment("a package archive cannot be read")
            .at(place(record))
            .why(chain(&e))
            .hint("its hash is right, so the package itself is faulty: use another build of it")
    })?;
    let found = distributions(info.paths.iter().map(|entry| entry.relative_path.as_path()));
    request.store.put_survey(&key(record)?, &found)?;
    Ok(found)
}

/// The distributions whose metadata lies in site-packages itself; what a package vendors deeper
/// down is not installed.
fn distributions<'a>(paths: impl Iterator<Item = &'a Path>) -> Found {
    let mut found: Found = Vec::new();
    for path in paths {
        let parts: Vec<&str> = path.iter().filter_map(|part| part.to_str()).collect();
        let folder = match parts.as_slice() {
            ["site-packages", folder, ..] => folder,
            ["lib", _, "site-packages", folder, ..] => folder,
            _ => continue,
        };
        if let Some(distribution) = distribution(folder)
            && !found.contains(&distribution)
        {
            found.push(distribution);
        }
    }
    found
}

/// The name and version of a metadata folder's or file's name (PyPA "Recording installed
/// projects"; setuptools docs, "The Internal Structure of Python Eggs").
fn distribution(name: &str) -> Option<(String, Option<String>)> {
    if let Some(stem) = name.strip_suffix(".dist-info") {
        let (name, version) = stem.rsplit_once('-')?;
        return Some((name.to_owned(), Some(version.to_owned())));
    }
    let stem = name.strip_suffix(".egg-info")?;
    let stem = stem.rsplit_once("-py").map_or(stem, |(stem, _)| stem);
    Some(match stem.split_once('-') {
        Some((name, version)) => (name.to_owned(), Some(version.to_owned())),
        None => (stem.to_owned(), None),
    })
}

/// A wheel that has nothing but a name and a version, and the file name it must have.
///
/// Given to uv as what a constraint points at, it stands for the installed distribution: it meets
/// what others ask of it, cannot be replaced, and needs nothing further, since conda has seen to
/// that.
///
/// # Errors
/// Never in practice: it is written to memory.
pub fn stub(name: &str, version: &Version) -> Result<(String, Vec<u8>)> {
    let failed = |e: &dyn std::error::Error| {
        Error::new(Exit::Internal, "cannot make a stand-in wheel").why(chain(e))
    };
    let stem = format!("{}-{version}", name.replace('-', "_"));
    let metadata = format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n");
    let files = [
        ("METADATA", metadata.as_str()),
        (
            "WHEEL",
            "Wheel-Version: 1.0\nGenerator: imgbuild\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        ),
        ("RECORD", ""),
    ];
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(zip::DateTime::default());
    let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (file, text) in files {
        zip.start_file(format!("{stem}.dist-info/{file}"), options)
            .map_err(|e| failed(&e))?;
        zip.write_all(text.as_bytes()).map_err(|e| failed(&e))?;
    }
    let bytes = zip.finish().map_err(|e| failed(&e))?.into_inner();
    Ok((format!("{stem}-py3-none-any.whl"), bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_in_site_packages_counts() {
        let paths = [
            "site-packages/Jinja2-3.1.6.dist-info/METADATA",
            "site-packages/Jinja2-3.1.6.dist-info/RECORD",
            "lib/python3.11/site-packages/ruamel.yaml-0.18-py3.11-nspkg.pth",
            "lib/python3.11/site-packages/PyYAML-6.0-py3.11.egg-info",
            "lib/python3.11/site-packages/old.egg-info/PKG-INFO",
            "lib/python3.11/site-packages/torch-2.1.0+cu118.dist-info/METADATA",
            "lib/python3.11/site-packages/setuptools/_vendor/wheel-0.43.dist-info/METADATA",
            "share/site-packages/x-1.dist-info/METADATA",
            "lib/python3.11/site-packages/bad.dist-info/METADATA",
        ];
        let found = distributions(paths.iter().map(Path::new));
        let expected = [
            ("Jinja2", Some("3.1.6")),
            ("PyYAML", Some("6.0")),
            ("old", None),
            ("torch", Some("2.1.0+cu118")),
        ];
        let expected: Found = expected
            .map(|(name, version)| (name.to_owned(), version.map(str::to_owned)))
            .into();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_stub_is_the_same_every_time() {
        let version = "1.0+local".parse().unwrap();
        let (name, bytes) = stub("my-pkg", &version).unwrap();
        assert_eq!(name, "my_pkg-1.0+local-py3-none-any.whl");
        assert_eq!(stub("my-pkg", &version).unwrap().1, bytes);
    }
}
