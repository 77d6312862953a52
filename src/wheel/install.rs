//! Installing: one wheel to the entries it puts under a prefix.
//!
//! The rules are those of the specifications "Binary distribution format" and "Recording
//! installed projects", and where they leave a choice, pip's.

use std::{
    collections::BTreeSet,
    io::{self, Cursor, Read},
    path::{Path, PathBuf},
};

use rattler::install::{PythonInfo, python_entry_point_template};

use super::{
    WheelArchive, WheelError, damaged,
    paths::{Placed, relative},
    record::{self, Hash, Row, Verifying, sha256_text},
    zip::{Member, ZIP_EPOCH, Zip},
};
use crate::{
    digest::{Digest, Hashing},
    error::{Result, chain},
    package::{Entry, EntryKind, EntrySink, Prefix, sink_error},
};

/// What `INSTALLER` says.
const INSTALLER: &[u8] = b"imgbuild\n";

/// How the first line of a script begins that wants the environment's Python.
const PYTHON: &[u8] = b"#!python";

/// The longest first line that is replaced.
const LINE_LIMIT: u64 = 4096;

/// Streams a wheel into the sink: its files, its commands, `INSTALLER` and `RECORD`.
///
/// `excluded` holds the targets that another package wins; they are left out of `RECORD` too, so
/// that every file has one owner. Content goes from the archive to the sink and is compared with
/// the wheel's own `RECORD` on the way: after an error, what the sink took is not to be used.
///
/// # Errors
/// When the wheel is damaged or its content is not what its `RECORD` says, when the prefix has no
/// Python, or when the sink fails.
pub fn link(
    archive: &WheelArchive,
    prefix: &Prefix,
    excluded: &BTreeSet<PathBuf>,
    sink: &mut dyn EntrySink,
) -> Result<()> {
    let python = archive.python(prefix)?;
    let plan = archive.plan(python)?;
    let mut zip = archive.zip().map_err(|e| damaged(&archive.place, &e))?;
    let mut installer = Installer {
        archive,
        prefix,
        python,
        excluded,
        sink,
        rows: Vec::with_capacity(plan.files.len() + plan.launchers.len() + 2),
    };
    for placed in &plan.files {
        installer.file(&mut zip, placed)?;
    }
    for (target, entry_point) in &plan.launchers {
        let script = python_entry_point_template(&prefix.path, false, entry_point, python);
        installer.generated(target, 0o755, script.as_bytes())?;
    }
    installer.generated(&plan.dist_info.join("INSTALLER"), 0o644, INSTALLER)?;
    installer.record(&plan.dist_info.join("RECORD"))
}

struct Installer<'a> {
    archive: &'a WheelArchive,
    prefix: &'a Prefix,
    python: &'a PythonInfo,
    excluded: &'a BTreeSet<PathBuf>,
    sink: &'a mut dyn EntrySink,
    rows: Vec<Row>,
}

impl Installer<'_> {
    fn file(&mut self, zip: &mut Zip, placed: &Placed<'_>) -> Result<()> {
        if self.excluded.contains(&placed.target) {
            return Ok(());
        }
        let archive = self.archive;
        let name = &placed.member.name;
        let faulty = |why: String| damaged(&archive.place, &WheelError(format!("{name}: {why}")));
        let listed = archive.record.get(name);
        let hash = listed
            .and_then(|listed| listed.hash.as_ref())
            .ok_or_else(|| faulty("RECORD has no hash of it".into()))?;
        let content = zip
            .by_index(placed.member.index)
            .map_err(|e| faulty(chain(&e)))?;
        let mut content = Verifying::new(content, hash, placed.member.size);
        let done = if placed.script {
            self.script(placed, hash, &mut content)
        } else {
            self.content(placed, hash, &mut content)
        };
        if let Some(fault) = content.fault() {
            return Err(faulty(fault));
        }
        done?;
        content.finish(hash).map_err(faulty)
    }

    /// A file as it is in the archive.
    fn content(&mut self, placed: &Placed<'_>, hash: &Hash, content: &mut dyn Read) -> Result<()> {
        let member = placed.member;
        let mode = if placed.script || member.executable {
            0o755
        } else {
            0o644
        };
        self.emit(&placed.target, mode, time(member), member.size, content)?;
        self.row(&placed.target, hash.to_string(), member.size);
        Ok(())
    }

    /// A script; a first line that begins with `#!python` is replaced, as pip does it.
    fn script(&mut self, placed: &Placed<'_>, hash: &Hash, content: &mut dyn Read) -> Result<()> {
        let member = placed.member;
        let read = |e: io::Error| damaged(&self.archive.place, &e.into());
        let mut first = Vec::new();
        let mut start = content.take(PYTHON.len() as u64);
        start.read_to_end(&mut first).map_err(read)?;
        if first != PYTHON {
            return self.content(placed, hash, &mut first.chain(content));
        }
        let mut line = content.take(LINE_LIMIT);
        let mut byte = [0];
        while first.last() != Some(&b'\n') && line.read(&mut byte).map_err(read)? == 1 {
            first.extend(byte);
        }
        if first.last() != Some(&b'\n') && line.limit() == 0 {
            let why = format!("the first line of {} is too long", member.name);
            return Err(damaged(&self.archive.place, &WheelError(why)));
        }
        let shebang = self.python.shebang(&self.prefix.path) + "\n";
        let size = member.size - first.len() as u64 + shebang.len() as u64;
        let mut replaced = Hashing::new(shebang.as_bytes().chain(content));
        self.emit(&placed.target, 0o755, time(member), size, &mut replaced)?;
        let (_, digest, _) = replaced.finish();
        self.row(&placed.target, sha256_text(&digest), size);
        Ok(())
    }

    /// A file that the wheel does not hold, as old as the newest that it does.
    fn generated(&mut self, target: &Path, mode: u32, content: &[u8]) -> Result<()> {
        if self.excluded.contains(target) {
            return Ok(());
        }
        let size = content.len() as u64;
        let mtime = self.archive.built_at.max(ZIP_EPOCH);
        self.emit(target, mode, mtime, size, &mut Cursor::new(content))?;
        self.row(target, sha256_text(&Digest::of(content)), size);
        Ok(())
    }

    fn record(mut self, target: &Path) -> Result<()> {
        let failed = |e| sink_error(&self.archive.place, e);
        for made in self.sink.complete().map_err(failed)? {
            // pip lists what it compiles without hash and size.
            self.rows.push(Row {
                path: relative(&made, &self.python.site_packages_path),
                hash: String::new(),
                size: None,
            });
        }
        let own = relative(target, &self.python.site_packages_path);
        let rows = std::mem::take(&mut self.rows);
        let bytes = record::render(rows, own).map_err(|e| damaged(&self.archive.place, &e))?;
        self.generated(target, 0o644, &bytes)
    }

    fn row(&mut self, target: &Path, hash: String, size: u64) {
        self.rows.push(Row {
            path: relative(target, &self.python.site_packages_path),
            hash,
            size: Some(size),
        });
    }

    fn emit(
        &mut self,
        target: &Path,
        mode: u32,
        mtime: u64,
        size: u64,
        content: &mut dyn Read,
    ) -> Result<()> {
        let entry = Entry {
            path: self.prefix.entry_path(target),
            kind: EntryKind::File(size),
            mode,
            mtime,
            owner: (0, 0),
        };
        let failed = |e| sink_error(&self.archive.place, e);
        self.sink.entry(&entry, content).map_err(failed)
    }
}

fn time(member: &Member) -> u64 {
    member.mtime.unwrap_or(ZIP_EPOCH)
}
