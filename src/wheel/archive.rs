//! A wheel on disk, and what it says of itself.

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
};

use rattler::install::PythonInfo;
use rattler_conda_types::package::EntryPoint;
use serde::{Deserialize, Serialize};

use super::{
    WheelError, damaged, entry_points, metadata,
    paths::{Plan, Source},
    place,
    record::{self, Hash, Record, Verifying},
    zip::{self, Member, Zip},
};
use crate::{
    digest::Digest,
    error::{Error, Result},
    lock::LockedWheel,
    package::Prefix,
};

/// The most bytes of a file that is held in memory; torch's `RECORD` has 1.3 MB.
const SMALL: u64 = 16 << 20;

/// A wheel on disk whose structure is checked: one reading of its zip, one `*.dist-info` of the
/// locked project, and a `RECORD` that lists exactly its files.
///
/// The content of its files is compared with `RECORD` when [`link`](super::link) reads it.
#[derive(Clone, Debug)]
pub struct WheelArchive {
    path: PathBuf,
    /// How messages name the wheel.
    pub(super) place: String,
    project: String,
    stem: String,
    members: Vec<Member>,
    pub(super) record: Record,
    commands: Vec<EntryPoint>,
    /// The newest believable time of a file in seconds since the epoch, 0 when there is none.
    pub(super) built_at: u64,
}

/// What a wheel writes into a prefix, found without reading its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WheelInfo {
    /// Every path in the prefix that it writes, generated ones included, sorted.
    pub targets: Vec<PathBuf>,
    /// What is written at a path, where that is what `RECORD` says and has as a sha256.
    pub hashes: BTreeMap<PathBuf, Digest>,
    /// The newest believable time of its files in seconds since the epoch, 0 when there is none.
    pub built_at: u64,
}

impl WheelArchive {
    /// Opens the wheel that lies at `path` and checks its structure.
    ///
    /// # Errors
    /// When it is no wheel of the locked project, or can be read in more than one way.
    pub fn open(path: &Path, wheel: &LockedWheel) -> Result<Self> {
        let place = place(wheel);
        Self::read(path, wheel, &place).map_err(|e| damaged(&place, &e))
    }

    /// What the wheel writes into this prefix.
    ///
    /// # Errors
    /// When a path leaves the prefix, when two files become one, or when the prefix has no Python.
    pub fn info(&self, prefix: &Prefix) -> Result<WheelInfo> {
        let plan = self.plan(self.python(prefix)?)?;
        let mut targets: Vec<PathBuf> = plan.targets().collect();
        targets.sort();
        let unchanged = plan.files.iter().filter(|placed| !placed.script);
        let hashes = unchanged.filter_map(|placed| {
            let listed = self.record.get(&placed.member.name)?;
            Some((placed.target.clone(), listed.hash.as_ref()?.sha256()?))
        });
        Ok(WheelInfo {
            targets,
            hashes: hashes.collect(),
            built_at: self.built_at,
        })
    }

    /// Its `METADATA` (PyPA, "Core metadata specifications").
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn metadata(&self) -> Result<String> {
        let read = || {
            let mut files = DistInfo {
                zip: zip::open(&self.path)?,
                members: &self.members,
                folder: format!("{}.dist-info", self.stem),
                record: self.record.clone(),
            };
            files.required("METADATA")
        };
        read().map_err(|e| damaged(&self.place, &e))
    }

    pub(super) fn python<'a>(&self, prefix: &'a Prefix) -> Result<&'a PythonInfo> {
        prefix.python.as_ref().ok_or_else(|| {
            Error::input("pip packages need a Python in the environment")
                .at(&self.place)
                .hint("add python to the dependencies")
        })
    }

    pub(super) fn plan(&self, python: &PythonInfo) -> Result<Plan<'_>> {
        let source = Source {
            project: &self.project,
            stem: &self.stem,
            members: &self.members,
            commands: &self.commands,
        };
        Plan::new(&source, python).map_err(|e| damaged(&self.place, &e))
    }

    pub(super) fn zip(&self) -> Result<Zip, WheelError> {
        zip::open(&self.path)
    }

    fn read(path: &Path, wheel: &LockedWheel, place: &str) -> Result<Self, WheelError> {
        metadata::check_file_name(&wheel.file_name(), wheel)?;
        let members = zip::read(path)?;
        let folders = members
            .iter()
            .filter_map(|member| member.name.split_once('/'));
        let stem = metadata::stem(folders.map(|(top, _)| top), wheel)?.to_owned();
        let mut files = DistInfo {
            zip: zip::open(path)?,
            members: &members,
            folder: format!("{stem}.dist-info"),
            record: Record::new(),
        };
        files.read_record()?;
        metadata::check_wheel(&files.required("WHEEL")?)?;
        metadata::check_metadata(&files.required("METADATA")?, wheel)?;
        let commands = match files.text("entry_points.txt")? {
            Some(text) => entry_points::parse(&text)?,
            None => Vec::new(),
        };
        let record = files.record;
        let times = members.iter().filter_map(|member| member.mtime);
        Ok(Self {
            path: path.to_path_buf(),
            place: place.to_owned(),
            project: wheel.name.clone(),
            stem,
            built_at: times.max().unwrap_or(0),
            record,
            commands,
            members,
        })
    }
}

/// Reads small files of `*.dist-info`, compared with `RECORD` as soon as that is known.
struct DistInfo<'a> {
    zip: Zip,
    members: &'a [Member],
    folder: String,
    record: Record,
}

impl DistInfo<'_> {
    fn read_record(&mut self) -> Result<(), WheelError> {
        let bytes = self
            .bytes("RECORD")?
            .ok_or_else(|| WheelError::new("it has no RECORD"))?;
        self.record = record::parse(&bytes)?;
        record::check(
            &self.record,
            self.members,
            &format!("{}/RECORD", self.folder),
        )
    }

    fn required(&mut self, name: &str) -> Result<String, WheelError> {
        self.text(name)?
            .ok_or_else(|| WheelError(format!("it has no {name} in {}", self.folder)))
    }

    /// The text of a file; what is not UTF-8 in it is none of what is looked for.
    fn text(&mut self, name: &str) -> Result<Option<String>, WheelError> {
        let bytes = self.bytes(name)?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn bytes(&mut self, name: &str) -> Result<Option<Vec<u8>>, WheelError> {
        let name = format!("{}/{name}", self.folder);
        let Some(member) = self.members.iter().find(|member| member.name == name) else {
            return Ok(None);
        };
        if member.size > SMALL {
            return Err(WheelError(format!("{name} has {} bytes", member.size)));
        }
        let listed = self.record.get(&name);
        let content = self.zip.by_index(member.index)?;
        read_small(
            content,
            member.size,
            listed.and_then(|listed| listed.hash.as_ref()),
        )
        .map(Some)
        .map_err(|e| WheelError(format!("{name}: {e}")))
    }
}

/// Reads content that is small, and compares it where its hash is known.
fn read_small(
    mut content: impl Read,
    size: u64,
    hash: Option<&Hash>,
) -> Result<Vec<u8>, WheelError> {
    let mut bytes = Vec::new();
    match hash {
        None => {
            content.read_to_end(&mut bytes)?;
        }
        Some(hash) => {
            let mut content = Verifying::new(content, hash, size);
            content.read_to_end(&mut bytes)?;
            content.finish(hash).map_err(WheelError)?;
        }
    }
    Ok(bytes)
}
