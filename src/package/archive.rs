//! The two archive formats of conda packages, read as streams.
//!
//! `.conda` is a zip holding `info-*.tar.zst` and `pkg-*.tar.zst`, stored uncompressed (conda
//! package format 2); `.tar.bz2` is one tar with both. Nothing is ever unpacked by path.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use rattler_conda_types::package::EntryPoint;
use rattler_conda_types::package::{
    Files, HasPrefix, IndexJson, LinkJson, NoArchLinks, NoLink, PackageFile, PathType, PathsEntry,
    PathsJson,
};
use rattler_package_streaming::seek;

use zip::{CompressionMethod, ZipArchive};

use super::bzip2::{Decoders, Reader};
use crate::{
    error::chain,
    frames::{BlockReader, Tape},
};

/// The format of a package archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveKind {
    /// `.conda`
    Conda,
    /// `.tar.bz2`
    TarBz2,
}

impl ArchiveKind {
    /// The format that a file name or a URL's last segment says.
    pub fn from_file_name(name: &str) -> Option<Self> {
        if name.ends_with(".conda") {
            Some(Self::Conda)
        } else if name.ends_with(".tar.bz2") {
            Some(Self::TarBz2)
        } else {
            None
        }
    }

    /// The extension of its files, dot included.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Conda => ".conda",
            Self::TarBz2 => ".tar.bz2",
        }
    }
}

/// A package archive on disk.
#[derive(Clone, Debug)]
pub struct PackageArchive {
    /// Where the archive lies.
    pub path: PathBuf,
    /// Its format.
    pub kind: ArchiveKind,
    /// Threads that help to decode a `.tar.bz2`.
    pub decoders: Decoders,
}

/// Why an archive cannot be read as a conda package.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ArchiveError(pub String);

impl From<io::Error> for ArchiveError {
    fn from(e: io::Error) -> Self {
        Self(chain(&e))
    }
}

impl From<rattler_package_streaming::ExtractError> for ArchiveError {
    fn from(e: rattler_package_streaming::ExtractError) -> Self {
        Self(chain(&e))
    }
}

/// What `info/` says about linking a package.
#[derive(Clone, Debug)]
pub struct PackageInfo {
    /// What the package says of itself: the one source of its facts, whatever a lock repeats.
    pub index: IndexJson,
    /// Every path of the package.
    pub paths: Vec<PathsEntry>,
    /// Commands to generate, for `noarch: python`.
    pub entry_points: Vec<EntryPoint>,
}

/// Files of `info/` by name, as the package has them.
pub type InfoFiles = BTreeMap<String, Vec<u8>>;

impl PackageInfo {
    /// What these files say.
    ///
    /// # Errors
    /// When one of them cannot be read, or `index.json` is not there.
    pub fn parse(files: &InfoFiles) -> Result<Self, ArchiveError> {
        let index = files
            .get(INDEX)
            .ok_or_else(|| ArchiveError("it holds no info/index.json".into()))?;
        let index = IndexJson::from_slice(index).map_err(|e| named("info/index.json", &e))?;
        let paths = match files.get("paths.json") {
            Some(bytes) => {
                PathsJson::from_slice(bytes).map_err(|e| named("info/paths.json", &e))?
            }
            None => legacy_paths(files)?,
        };
        let link = files
            .get("link.json")
            .map(|bytes| LinkJson::from_slice(bytes).map_err(|e| named("info/link.json", &e)))
            .transpose()?;
        let entry_points = match link.map(|link| link.noarch) {
            Some(NoArchLinks::Python(python)) => python.entry_points,
            _ => Vec::new(),
        };
        Ok(Self {
            index,
            paths: paths.paths,
            entry_points,
        })
    }

    /// When the package was built, in seconds since the epoch; 0 when it does not say.
    pub fn built_at(&self) -> u64 {
        let millis = self.index.timestamp.map_or(0, |at| at.timestamp_millis());
        u64::try_from(millis / 1000).unwrap_or(0)
    }
}

const INDEX: &str = "index.json";

type TarStream = tar::Archive<Box<dyn Read>>;

impl PackageArchive {
    /// The same archive, decoded with the help of these threads.
    #[must_use]
    pub fn with(self, decoders: &Decoders) -> Self {
        Self {
            decoders: decoders.clone(),
            ..self
        }
    }

    /// Reads what linking needs from `info/`.
    ///
    /// # Errors
    /// When the archive is damaged or lacks `info/index.json`.
    pub fn info(&self) -> Result<PackageInfo, ArchiveError> {
        PackageInfo::parse(&self.info_files()?)
    }

    /// Reads the files of `info/` that [`PackageInfo::parse`] takes.
    ///
    /// # Errors
    /// When the archive is damaged.
    pub fn info_files(&self) -> Result<InfoFiles, ArchiveError> {
        let mut files = BTreeMap::new();
        let mut archive = self.info_stream()?;
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = entry.path()?.into_owned();
            let Some(name) = wanted_info(&path) else {
                if self.kind == ArchiveKind::TarBz2 && info_suffices(&files) {
                    break;
                }
                continue;
            };
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            files.insert(name.to_owned(), bytes);
        }
        Ok(files)
    }

    /// Reads `info/index.json` alone: what the package says of itself.
    ///
    /// # Errors
    /// When the archive is damaged or has no such file.
    pub fn index(&self) -> Result<IndexJson, ArchiveError> {
        for entry in self.info_stream()?.entries()? {
            let mut entry = entry?;
            if wanted_info(&entry.path()?) == Some(INDEX) {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes)?;
                return IndexJson::from_slice(&bytes).map_err(|e| named("info/index.json", &e));
            }
        }
        Err(ArchiveError("it holds no info/index.json".into()))
    }

    /// The size of the archive in bytes.
    ///
    /// # Errors
    /// When it is not there any more.
    pub fn size(&self) -> Result<u64, ArchiveError> {
        Ok(std::fs::metadata(&self.path)?.len())
    }

    /// Calls `each` with every entry of the package's content, `info/` left out, in archive order,
    /// and with what tells the blocks it is read from.
    ///
    /// # Errors
    /// When the archive is damaged, or with the error of `each`.
    pub fn for_each_content<E: From<ArchiveError>>(
        &self,
        mut each: impl FnMut(&Path, &mut tar::Entry<'_, Box<dyn Read>>, Option<&Tape>) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut archive, tape) = self.content_stream()?;
        for entry in archive.entries().map_err(ArchiveError::from)? {
            let mut entry = entry.map_err(ArchiveError::from)?;
            let path = entry.path().map_err(ArchiveError::from)?.into_owned();
            let path = path.strip_prefix(".").unwrap_or(&path);
            if !path.starts_with("info") {
                each(path, &mut entry, tape.as_ref())?;
            }
        }
        if self.kind == ArchiveKind::TarBz2 {
            // Behind the tar's end: the checksum of the whole.
            io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(ArchiveError::from)?;
        }
        Ok(())
    }

    fn open(&self) -> Result<BufReader<File>, ArchiveError> {
        Ok(BufReader::with_capacity(1 << 16, File::open(&self.path)?))
    }

    fn tar_bz2(&self) -> Result<TarStream, ArchiveError> {
        let reader = Reader::new(File::open(&self.path)?, &self.decoders)?;
        Ok(tar::Archive::new(Box::new(reader)))
    }

    fn info_stream(&self) -> Result<TarStream, ArchiveError> {
        match self.kind {
            ArchiveKind::Conda => Ok(boxed(seek::stream_conda_info(self.open()?)?)),
            ArchiveKind::TarBz2 => self.tar_bz2(),
        }
    }

    fn content_stream(&self) -> Result<(TarStream, Option<Tape>), ArchiveError> {
        match self.kind {
            ArchiveKind::Conda => {
                let reader = BlockReader::new(self.packed_content()?)?;
                let tape = reader.tape();
                Ok((tar::Archive::new(Box::new(reader)), Some(tape)))
            }
            ArchiveKind::TarBz2 => Ok((self.tar_bz2()?, None)),
        }
    }

    /// The compressed tar of a `.conda`'s content, where it lies in the archive.
    fn packed_content(&self) -> Result<io::Take<BufReader<File>>, ArchiveError> {
        let mut zip = ZipArchive::new(self.open()?).map_err(|e| ArchiveError(chain(&e)))?;
        let name = zip
            .file_names()
            .flatten()
            .find(|name| name.starts_with("pkg-") && name.ends_with(".tar.zst"))
            .ok_or_else(|| ArchiveError("it holds no pkg-*.tar.zst".into()))?
            .into_owned();
        let (start, size) = {
            let member = zip.by_name(&name).map_err(|e| ArchiveError(chain(&e)))?;
            if member.compression() != CompressionMethod::Stored {
                return Err(ArchiveError(format!("{name} in it is compressed twice")));
            }
            let start = member.data_start();
            (
                start.ok_or_else(|| ArchiveError(format!("{name} in it has no place")))?,
                member.size(),
            )
        };
        let mut file = zip.into_inner();
        file.seek(SeekFrom::Start(start))?;
        Ok(file.take(size))
    }
}

fn boxed(archive: tar::Archive<impl Read + 'static>) -> TarStream {
    tar::Archive::new(Box::new(archive.into_inner()))
}

/// The name under `info/` of a file that linking needs.
fn wanted_info(path: &Path) -> Option<&'static str> {
    const WANTED: [&str; 6] = [
        INDEX,
        "paths.json",
        "link.json",
        "files",
        "has_prefix",
        "no_link",
    ];
    let path = path.strip_prefix(".").unwrap_or(path);
    let name = path.strip_prefix("info").ok()?.to_str()?;
    WANTED.into_iter().find(|wanted| *wanted == name)
}

/// Whether a `.tar.bz2` need not be decoded further: `link.json` matters to `noarch: python`
/// only, and the older files only where there is no `paths.json`.
fn info_suffices(files: &InfoFiles) -> bool {
    let Some(Ok(index)) = files
        .get("index.json")
        .map(|bytes| IndexJson::from_slice(bytes))
    else {
        return false;
    };
    files.contains_key("paths.json")
        && (!index.noarch.is_python() || files.contains_key("link.json"))
}

/// Packages from before `paths.json` (conda-build < 2) say the same in three text files. The
/// path types are not among it; the tar entries tell them when the content is streamed.
fn legacy_paths(files: &InfoFiles) -> Result<PathsJson, ArchiveError> {
    fn parse<T: PackageFile>(files: &InfoFiles, name: &str) -> Result<Option<T>, ArchiveError> {
        files
            .get(name)
            .map(|bytes| T::from_slice(bytes).map_err(|e| named(name, &e)))
            .transpose()
    }
    let list = parse::<Files>(files, "files")?
        .ok_or_else(|| ArchiveError("it holds neither info/paths.json nor info/files".into()))?;
    PathsJson::from_deprecated(
        list,
        parse::<HasPrefix>(files, "has_prefix")?,
        parse::<NoLink>(files, "no_link")?,
        None,
        |_| Ok(PathType::HardLink),
    )
}

fn named(what: &str, error: &dyn std::error::Error) -> ArchiveError {
    ArchiveError(format!("{what} cannot be read: {}", chain(error)))
}
