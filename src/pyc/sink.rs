//! A sink between a linker and a layer that compiles what passes through.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io::{self, Cursor, Read},
    path::{Path, PathBuf},
};

use crossbeam_channel::{Receiver, Sender, unbounded};
use rattler::install::PythonInfo;

use super::{
    folder::below,
    pool::{Job, Pool, Ticketed},
    set::{PycSet, source_hash},
    worker::Answer,
};
use crate::{
    digest::Digest,
    error::{Error, Exit, Result},
    frames::Tape,
    package::{Entry, EntryKind, EntrySink, Prefix, pyc_target},
};

/// The largest source that is compiled, in bytes: CPython takes a hundred times as much memory.
const LARGEST: u64 = 16 << 20;

/// Starts the pool when there is something to compile.
pub(super) type Start<'a> = dyn Fn() -> Result<std::sync::Arc<Pool>> + 'a;

/// What the sink needs beside the one it writes to.
pub(super) struct Settings<'a> {
    pub prefix: &'a Prefix,
    pub python: &'a PythonInfo,
    /// Targets that the package loses to others.
    pub excluded: &'a BTreeSet<PathBuf>,
    pub start: &'a Start<'a>,
}

/// Passes entries through, and compiles the Python sources among them.
pub(super) struct CompilingSink<'a> {
    inner: &'a mut dyn EntrySink,
    settings: Settings<'a>,
    set: PycSet<'a>,
    /// The sources, by where their `.pyc` goes.
    sources: BTreeMap<PathBuf, Source>,
    /// The hashes of the sources that were handed in, by ticket.
    tickets: Vec<Digest>,
    answered: usize,
    done: Sender<Ticketed>,
    answers: Receiver<Ticketed>,
    /// `.pyc` files that the package ships.
    shipped: HashSet<PathBuf>,
    /// Sources without a `.pyc`, and why.
    refused: Vec<(PathBuf, String)>,
}

struct Source {
    path: PathBuf,
    hash: Digest,
    mtime: u64,
}

impl<'a> CompilingSink<'a> {
    pub(super) fn new(
        inner: &'a mut dyn EntrySink,
        settings: Settings<'a>,
        set: PycSet<'a>,
    ) -> Self {
        let (done, answers) = unbounded();
        Self {
            inner,
            settings,
            set,
            sources: BTreeMap::new(),
            tickets: Vec::new(),
            answered: 0,
            done,
            answers,
            shipped: HashSet::new(),
            refused: Vec::new(),
        }
    }

    /// Keeps what was compiled; returns the sources that were not, and why.
    pub(super) fn finish(self) -> Result<Vec<(PathBuf, String)>> {
        self.set.save()?;
        Ok(self.refused)
    }

    fn source(&mut self, path: PathBuf, pyc: PathBuf, mtime: u64, source: Vec<u8>) -> Result<()> {
        let prefix = Path::new(&self.settings.prefix.path);
        let shown = prefix.join(&path).into_os_string().into_encoded_bytes();
        let hash = source_hash(&shown, &source);
        self.sources.insert(pyc, Source { path, hash, mtime });
        if self.set.knows(&hash)? {
            return Ok(());
        }
        (self.settings.start)()?.submit(Job {
            path: shown,
            source,
            ticket: self.tickets.len(),
            done: self.done.clone(),
        })?;
        self.tickets.push(hash);
        // What is ready goes to the disk now: a large package's would fill the memory.
        while let Ok(answer) = self.answers.try_recv() {
            self.take(answer)?;
        }
        Ok(())
    }

    fn take(&mut self, (ticket, answer): Ticketed) -> Result<()> {
        self.answered += 1;
        let hash = self.tickets.get(ticket).copied().ok_or_else(lost)?;
        self.set.add(hash, answer?)
    }

    fn wait(&mut self) -> Result<()> {
        while self.answered < self.tickets.len() {
            let answer = self.answers.recv().map_err(|_| lost())?;
            self.take(answer)?;
        }
        Ok(())
    }

    fn emit(&mut self) -> io::Result<Vec<PathBuf>> {
        self.wait().map_err(io::Error::other)?;
        let mut made = Vec::new();
        for (pyc, source) in std::mem::take(&mut self.sources) {
            if self.shipped.contains(&pyc) || self.settings.excluded.contains(&pyc) {
                continue;
            }
            let found = self.set.get(&source.hash).map_err(io::Error::other)?;
            match found.ok_or_else(|| io::Error::other(lost()))? {
                Answer::Pyc(bytes) => {
                    let entry = Entry {
                        path: self.settings.prefix.entry_path(&pyc),
                        kind: EntryKind::File(bytes.len() as u64),
                        mode: 0o644,
                        mtime: source.mtime,
                        owner: (0, 0),
                    };
                    self.inner.entry(&entry, &mut Cursor::new(bytes))?;
                    made.push(pyc);
                }
                Answer::Refused(reason) => self.refused.push((source.path, reason)),
            }
        }
        Ok(made)
    }
}

impl EntrySink for CompilingSink<'_> {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Read) -> io::Result<()> {
        let path = below(&entry.path, self.settings.prefix.root.as_bytes());
        if let Some(path) = path.filter(|path| path.extension().is_some_and(|e| e == "pyc")) {
            self.shipped.insert(path.to_owned());
        }
        let pyc = path.and_then(|path| pyc_target(path, self.settings.python));
        let (Some(path), Some(pyc), EntryKind::File(size)) = (path, pyc, &entry.kind) else {
            return self.inner.entry(entry, content);
        };
        if *size > LARGEST {
            let reason = format!("it is larger than {} MiB", LARGEST >> 20);
            self.refused.push((path.to_owned(), reason));
            return self.inner.entry(entry, content);
        }
        let mut source = Vec::new();
        content.take(*size).read_to_end(&mut source)?;
        self.inner.entry(entry, &mut Cursor::new(&source))?;
        self.source(path.to_owned(), pyc, entry.mtime, source)
            .map_err(io::Error::other)
    }

    fn entry_in_blocks(
        &mut self,
        entry: &Entry,
        content: &mut dyn Read,
        tape: &Tape,
    ) -> io::Result<()> {
        match below(&entry.path, self.settings.prefix.root.as_bytes()) {
            Some(path) if path.extension().is_some_and(|e| e == "py" || e == "pyc") => {
                self.entry(entry, content)
            }
            _ => self.inner.entry_in_blocks(entry, content, tape),
        }
    }

    fn complete(&mut self) -> io::Result<Vec<PathBuf>> {
        let mut made = self.inner.complete()?;
        made.extend(self.emit()?);
        made.sort();
        Ok(made)
    }
}

fn lost() -> Error {
    Error::new(Exit::Internal, "a compiled file is lost")
}
