//! Linking: one package archive to the entries it puts under a prefix.
//!
//! This does what conda's linking step means (conda docs, "Link and unlink scripts" and
//! conda-build's `paths.json`), as rattler's installer does it on a disk, but as a stream: content
//! goes from the archive to the sink, and only files whose prefix is replaced are held in memory.

use std::{
    collections::{BTreeSet, HashMap},
    ffi::OsStr,
    io::{self, Cursor, Read, Seek, SeekFrom},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use rattler::install::{
    PythonInfo, link::copy_and_replace_placeholders, python_entry_point_template,
};
use rattler_conda_types::{
    RepoDataRecord,
    package::{FileMode, PathsEntry, PrefixPlaceholder},
    prefix_record,
};

use super::{
    archive::{ArchiveError, PackageArchive, PackageInfo},
    entry::{Entry, EntryKind, EntrySink},
    placed::{Held, Outcome, Placed, Stat},
    prefix::{Prefix, damaged, place, python_for, target_path},
    record::{self, PathRecord},
};
use crate::{
    digest::{Digest, Hashing},
    error::{Error, Result},
    frames::Tape,
    space,
};

/// A package to link: its locked record, its archive, and what its `info/` says.
pub struct Package<'a> {
    /// The record as the lock has it.
    pub record: &'a RepoDataRecord,
    /// The verified archive.
    pub archive: &'a PackageArchive,
    /// The archive's `info/`.
    pub info: &'a PackageInfo,
}

/// Streams a package into the sink: its files, its entry points, and its `conda-meta` record.
///
/// `excluded` holds the targets that another package wins; they are left out of the record too,
/// so that every file has one owner.
///
/// # Errors
/// When the archive is damaged or disagrees with its `paths.json`, when the prefix is too long
/// for a binary placeholder, or when the sink fails.
pub fn link(
    package: &Package<'_>,
    prefix: &Prefix,
    excluded: &BTreeSet<PathBuf>,
    sink: &mut dyn EntrySink,
) -> Result<()> {
    let python = python_for(package.record, package.info, prefix)?;
    let commands = python.map_or_else(BTreeSet::new, |python| {
        let commands = package.info.entry_points.iter();
        commands.map(|e| python.bin_dir.join(&e.command)).collect()
    });
    let mut linker = Linker {
        commands,
        python,
        pending: package
            .info
            .paths
            .iter()
            .map(|entry| (entry.relative_path.as_path(), entry))
            .collect(),
        package,
        prefix,
        excluded,
        sink,
        records: Vec::with_capacity(package.info.paths.len()),
        placed: HashMap::new(),
        held: HashMap::new(),
        newest: 0,
    };
    package
        .archive
        .for_each_content(|path, entry, tape| {
            linker.content(path, entry, tape).map_err(Broken::Link)
        })
        .map_err(|e| match e {
            Broken::Archive(e) => damaged(package.record, &e.0),
            Broken::Link(e) => e,
        })?;
    linker.finish()
}

enum Broken {
    Archive(ArchiveError),
    Link(Error),
}

impl From<ArchiveError> for Broken {
    fn from(e: ArchiveError) -> Self {
        Self::Archive(e)
    }
}

struct Linker<'a> {
    package: &'a Package<'a>,
    prefix: &'a Prefix,
    python: Option<&'a PythonInfo>,
    excluded: &'a BTreeSet<PathBuf>,
    /// Targets of the commands to generate; they replace files of the package.
    commands: BTreeSet<PathBuf>,
    sink: &'a mut dyn EntrySink,
    /// Paths of `paths.json` that the archive has not shown yet.
    pending: HashMap<&'a Path, &'a PathsEntry>,
    records: Vec<prefix_record::PathsEntry>,
    /// Archive path -> target of the regular files so far, for hard links to them.
    placed: HashMap<PathBuf, Placed>,
    /// Contents of excluded files: a later hard link may need them.
    held: HashMap<PathBuf, Held>,
    newest: u64,
}

impl<'a> Linker<'a> {
    fn content(
        &mut self,
        path: &Path,
        entry: &mut tar::Entry<'_, Box<dyn Read>>,
        tape: Option<&Tape>,
    ) -> Result<()> {
        // What paths.json does not list is not linked: directories mostly.
        let Some(listed) = self.pending.remove(path) else {
            return Ok(());
        };
        let target = target_path(self.package.record, path, self.python)?;
        let stat = self.stat(entry)?;
        self.newest = self.newest.max(stat.mtime);
        let kind = entry.header().entry_type();
        match kind {
            tar::EntryType::Regular => self.file(listed, target, stat, entry, tape),
            tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                self.file(listed, target, stat, entry, None)
            }
            tar::EntryType::Symlink => self.symlink(listed, target, stat, entry),
            tar::EntryType::Link => self.hardlink(listed, target, entry),
            tar::EntryType::Directory => self.directory(listed, target, stat),
            other => Err(self.damaged(format!(
                "{} is neither a file, a link nor a directory ({other:?})",
                path.display()
            ))),
        }
    }

    fn lost(&self, target: &Path) -> bool {
        self.excluded.contains(target) || self.commands.contains(target)
    }

    fn stat(&self, entry: &tar::Entry<'_, Box<dyn Read>>) -> Result<Stat> {
        let header = entry.header();
        let read = || -> io::Result<Stat> {
            Ok(Stat {
                // Set-id bits never come from a package: rattler and conda drop them as well.
                mode: header.mode()? & 0o777,
                mtime: header.mtime()?,
                size: entry.size(),
            })
        };
        read().map_err(|e| self.damaged(e))
    }

    fn file(
        &mut self,
        listed: &PathsEntry,
        target: PathBuf,
        stat: Stat,
        content: &mut dyn Read,
        tape: Option<&Tape>,
    ) -> Result<()> {
        let source = listed.relative_path.clone();
        if self.lost(&target) {
            let mut held = tempfile::SpooledTempFile::new(1 << 20);
            io::copy(content, &mut held).map_err(|e| match space::is_full(&e) {
                true => Error::io("write in", std::env::temp_dir(), e),
                false => self.damaged(e),
            })?;
            let header = stat;
            self.held.insert(
                source,
                Held {
                    content: held,
                    header,
                },
            );
            return Ok(());
        }
        let outcome = match &listed.prefix_placeholder {
            Some(placeholder) => {
                let bytes = self.replaced(listed, placeholder, content)?;
                let size = bytes.len() as u64;
                let stat = Stat { size, ..stat };
                self.emit_file(&target, stat, &mut Cursor::new(bytes))?
            }
            None => match known_digest(listed) {
                Some(sha256) => self.emit_known(&target, stat, content, sha256, tape)?,
                None => self.emit_file(&target, stat, content)?,
            },
        };
        self.record(listed, &target, Some(&outcome));
        let placed = Placed {
            target,
            outcome,
            stat,
        };
        self.placed.insert(source, placed);
        Ok(())
    }

    fn replaced(
        &self,
        listed: &PathsEntry,
        placeholder: &PrefixPlaceholder,
        content: &mut dyn Read,
    ) -> Result<Vec<u8>> {
        let (old, new) = (&placeholder.placeholder, &self.prefix.path);
        if placeholder.file_mode == FileMode::Binary && new.len() > old.len() {
            return Err(Error::input(format!(
                "the prefix {new} is too long for {}",
                listed.relative_path.display()
            ))
            .at(place(self.package.record))
            .why(format!(
                "the binary has room for {} bytes, the prefix has {}",
                old.len(),
                new.len()
            ))
            .hint("choose a shorter prefix with --prefix"));
        }
        let mut source = Vec::new();
        content
            .read_to_end(&mut source)
            .map_err(|e| self.damaged(e))?;
        let mut replaced = Vec::with_capacity(source.len());
        copy_and_replace_placeholders(
            &source,
            &mut replaced,
            old,
            new,
            &self.prefix.platform,
            placeholder.file_mode,
        )
        .map_err(|e| self.damaged(e))?;
        Ok(replaced)
    }

    /// Emits a file that the package has as it is and with its hash.
    fn emit_known(
        &mut self,
        target: &Path,
        stat: Stat,
        content: &mut dyn Read,
        sha256: Digest,
        tape: Option<&Tape>,
    ) -> Result<Outcome> {
        let entry = self.entry(target, EntryKind::File(stat.size), stat);
        match tape {
            Some(tape) => {
                let sink = self.sink.entry_in_blocks(&entry, content, tape);
                sink.map_err(|e| sink_failed(self.package.record, e))?;
            }
            None => self.emit(&entry, content)?,
        }
        let size = stat.size;
        Ok(Outcome { sha256, size })
    }

    /// Emits a file and hashes it.
    fn emit_file(&mut self, target: &Path, stat: Stat, content: &mut dyn Read) -> Result<Outcome> {
        let entry = self.entry(target, EntryKind::File(stat.size), stat);
        let size = stat.size;
        let mut hashing = Hashing::new(content);
        self.emit(&entry, &mut hashing)?;
        let (_, sha256, _) = hashing.finish();
        Ok(Outcome { sha256, size })
    }

    fn symlink(
        &mut self,
        listed: &PathsEntry,
        target: PathBuf,
        stat: Stat,
        entry: &tar::Entry<'_, Box<dyn Read>>,
    ) -> Result<()> {
        let link = self.link_name(entry)?;
        if self.lost(&target) {
            return Ok(());
        }
        let stat = Stat {
            mode: 0o777,
            ..stat
        };
        let made = self.entry(&target, EntryKind::Symlink(link), stat);
        self.emit(&made, &mut io::empty())?;
        // Size and hash in the record are the package's: those of what the link leads to.
        self.record(listed, &target, None);
        Ok(())
    }

    fn hardlink(
        &mut self,
        listed: &PathsEntry,
        target: PathBuf,
        entry: &tar::Entry<'_, Box<dyn Read>>,
    ) -> Result<()> {
        if self.lost(&target) {
            return Ok(());
        }
        let name = self.link_name(entry)?;
        let name = Path::new(OsStr::from_bytes(&name));
        let source = name.strip_prefix(".").unwrap_or(name);
        if let Some(mut held) = self.held.remove(source) {
            // The file itself lost its path to another package; the link becomes the file.
            held.content
                .seek(SeekFrom::Start(0))
                .map_err(|e| self.damaged(e))?;
            self.file(listed, target, held.header, &mut held.content, None)?;
            if let Some(placed) = self.placed.get(&listed.relative_path).cloned() {
                self.placed.insert(source.to_path_buf(), placed);
            }
            return Ok(());
        }
        let Some(placed) = self.placed.get(source).cloned() else {
            return Err(self.damaged(format!(
                "{} is a hard link to {}, which the archive does not hold",
                listed.relative_path.display(),
                source.display()
            )));
        };
        // One file has one mode: Docker applies the link's own header to the file.
        let link = self.prefix.entry_path(&placed.target);
        let made = self.entry(&target, EntryKind::Hardlink(link), placed.stat);
        self.emit(&made, &mut io::empty())?;
        self.record(listed, &target, Some(&placed.outcome));
        Ok(())
    }

    fn directory(&mut self, listed: &PathsEntry, target: PathBuf, stat: Stat) -> Result<()> {
        if self.lost(&target) {
            return Ok(());
        }
        let entry = self.entry(
            &target,
            EntryKind::Directory,
            Stat {
                mode: 0o755,
                mtime: 0,
                ..stat
            },
        );
        self.emit(&entry, &mut io::empty())?;
        self.record(listed, &target, None);
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        if let Some(missing) = self.pending.keys().min() {
            return Err(self.damaged(format!(
                "info/paths.json lists {}, which the archive does not hold",
                missing.display()
            )));
        }
        self.entry_points()?;
        self.derived()?;
        let Package {
            record,
            archive,
            info,
        } = self.package;
        let size = archive.size().map_err(|e| self.damaged(e))?;
        let facts = record::facts(record, info, size)?;
        let path = PathBuf::from(record::file_name(&facts));
        let bytes = record::prefix_record_json(facts, self.records)?;
        let stat = Stat {
            mode: 0o644,
            mtime: self.newest,
            size: bytes.len() as u64,
        };
        let entry = Entry {
            path: self.prefix.entry_path(&path),
            kind: EntryKind::File(stat.size),
            mode: stat.mode,
            mtime: stat.mtime,
            owner: (0, 0),
        };
        self.sink
            .entry(&entry, &mut Cursor::new(bytes))
            .map_err(|e| sink_failed(record, e))
    }

    /// Lists what the sink made of the files; conda gives such files neither hash nor size.
    fn derived(&mut self) -> Result<()> {
        let record = self.package.record;
        let made = self.sink.complete().map_err(|e| sink_failed(record, e))?;
        let listed = made.iter().map(|target| {
            record::path_record(PathRecord {
                target,
                kind: prefix_record::PathType::PycFile,
                original: None,
                linked: None,
                size: None,
                placeholder: None,
                no_link: false,
            })
        });
        self.records.extend(listed);
        Ok(())
    }

    fn entry_points(&mut self) -> Result<()> {
        let Some(python) = self.python else {
            return Ok(());
        };
        for entry_point in &self.package.info.entry_points {
            let target = python.bin_dir.join(&entry_point.command);
            if self.excluded.contains(&target) {
                continue;
            }
            let script = python_entry_point_template(&self.prefix.path, false, entry_point, python);
            let stat = Stat {
                mode: 0o775,
                mtime: self.newest,
                size: script.len() as u64,
            };
            let outcome = self.emit_file(&target, stat, &mut script.as_bytes())?;
            self.records.push(record::path_record(PathRecord {
                target: &target,
                kind: prefix_record::PathType::UnixPythonEntryPoint,
                original: Some(outcome.sha256),
                linked: Some(outcome.sha256),
                size: Some(outcome.size),
                placeholder: None,
                no_link: false,
            }));
        }
        Ok(())
    }

    fn record(&mut self, listed: &PathsEntry, target: &Path, outcome: Option<&Outcome>) {
        let file = listed.path_type == rattler_conda_types::package::PathType::HardLink;
        self.records.push(record::path_record(PathRecord {
            target,
            kind: listed.path_type.into(),
            original: known_digest(listed),
            linked: outcome.filter(|_| file).map(|outcome| outcome.sha256),
            size: outcome.map(|outcome| outcome.size).or(listed.size_in_bytes),
            placeholder: listed.prefix_placeholder.as_ref(),
            no_link: listed.no_link,
        }));
    }

    fn entry(&self, target: &Path, kind: EntryKind, stat: Stat) -> Entry {
        Entry {
            path: self.prefix.entry_path(target),
            kind,
            mode: stat.mode,
            mtime: stat.mtime,
            owner: (0, 0),
        }
    }

    fn emit(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<()> {
        let record = self.package.record;
        self.sink
            .entry(entry, content)
            .map_err(|e| sink_failed(record, e))
    }

    fn link_name(&self, entry: &tar::Entry<'_, Box<dyn Read>>) -> Result<Vec<u8>> {
        entry
            .link_name_bytes()
            .map(|name| name.into_owned())
            .ok_or_else(|| self.damaged("a link without a target"))
    }

    fn damaged(&self, why: impl std::fmt::Display) -> Error {
        damaged(self.package.record, &why.to_string())
    }
}

fn known_digest(listed: &PathsEntry) -> Option<Digest> {
    listed.sha256.map(|hash| Digest::from_bytes(hash.into()))
}

fn sink_failed(record: &RepoDataRecord, e: io::Error) -> Error {
    super::entry::sink_error(&place(record), e)
}
