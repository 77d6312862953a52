//! The compiled files of one package, kept in the store.
//!
//! The file is the `.pyc` files one after another, an index as JSON, and the index's length in 8
//! bytes. What it holds goes by the hash of a source and its path, so that it can be asked for any
//! source and never gives a wrong answer; its key only says where to look. What a package's files
//! were compiled to last, in whatever version, serves the next: few sources differ between two.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::worker::Answer;
use crate::{
    digest::Digest,
    error::{Error, Result},
    store::{Store, note_use},
};

/// The longest index that is read, in bytes.
const LONGEST_INDEX: u64 = 256 << 20;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Known {
    /// Where the `.pyc` is.
    Pyc { at: u64, size: u64 },
    /// Why there is none.
    Refused(String),
}

/// The hash of a source and of its path in the image, by which its compiled form goes.
pub(super) fn source_hash(path: &[u8], source: &[u8]) -> Digest {
    let lengths = [path.len() as u64, source.len() as u64];
    let mut bytes = Vec::with_capacity(16 + path.len() + source.len());
    bytes.extend(lengths.iter().flat_map(|length| length.to_le_bytes()));
    bytes.extend(path);
    bytes.extend(source);
    Digest::of(&bytes)
}

/// Where the compiled files of a package are kept.
#[derive(Clone, Copy)]
pub(super) struct Keys {
    /// Those of this archive.
    pub own: Digest,
    /// Where it is kept which archive's were made last, of all of the package's versions.
    pub last: Digest,
}

/// The compiled files of a package: those kept, and those that were made since.
pub(super) struct PycSet<'a> {
    store: &'a Store,
    keys: Keys,
    kept: Option<Part<File>>,
    /// Those of another version, where none are kept of this one.
    earlier: Option<Part<File>>,
    made: Option<Part<NamedTempFile>>,
}

struct Part<F> {
    file: F,
    index: BTreeMap<Digest, Known>,
    end: u64,
}

impl<'a> PycSet<'a> {
    /// Opens what is kept under the keys; a damaged file is as good as none.
    pub(super) fn open(store: &'a Store, keys: Keys) -> Self {
        let kept = open(store, &keys.own);
        let last = || store.survey::<Digest>(&keys.last);
        let earlier = match &kept {
            Some(_) => None,
            None => last().and_then(|last| open(store, &last)),
        };
        Self {
            store,
            keys,
            kept,
            earlier,
            made: None,
        }
    }

    /// Whether it is known what became of a source; takes over what another version's is known for.
    pub(super) fn knows(&mut self, source: &Digest) -> Result<bool> {
        let kept = self.kept.as_ref().map(|part| &part.index);
        let made = self.made.as_ref().map(|part| &part.index);
        let has = |index: Option<&BTreeMap<_, _>>| index.is_some_and(|it| it.contains_key(source));
        if has(kept) || has(made) {
            return Ok(true);
        }
        // One that cannot be read any more is compiled.
        let earlier = self.earlier.as_mut().map(|part| part.get(source));
        match earlier {
            Some(Ok(Some(answer))) => self.add(*source, answer).map(|()| true),
            _ => Ok(false),
        }
    }

    /// Adds what was compiled.
    pub(super) fn add(&mut self, source: Digest, answer: Answer) -> Result<()> {
        let part = match &mut self.made {
            Some(part) => part,
            None => self.made.insert(Part {
                file: self.store.temp_file()?,
                index: BTreeMap::new(),
                end: 0,
            }),
        };
        let known = match answer {
            Answer::Refused(reason) => Known::Refused(reason),
            Answer::Pyc(bytes) => part.append(&bytes).map_err(|e| cannot(self.store, e))?,
        };
        part.index.insert(source, known);
        Ok(())
    }

    /// What became of a source, if it is known.
    pub(super) fn get(&mut self, source: &Digest) -> Result<Option<Answer>> {
        let found = match (&mut self.made, &mut self.kept) {
            (Some(part), _) if part.index.contains_key(source) => part.get(source),
            (_, Some(part)) => part.get(source),
            _ => Ok(None),
        };
        found.map_err(|e| cannot(self.store, e))
    }

    /// Keeps what was made together with what was kept.
    pub(super) fn save(mut self) -> Result<()> {
        let Some(mut made) = self.made.take() else {
            return Ok(());
        };
        let failed = |e| cannot(self.store, e);
        if let Some(mut kept) = self.kept.take() {
            let old: Vec<Digest> = kept.index.keys().copied().collect();
            for source in old {
                let known = match kept.get(&source).map_err(failed)? {
                    Some(Answer::Pyc(bytes)) => made.append(&bytes).map_err(failed)?,
                    Some(Answer::Refused(reason)) => Known::Refused(reason),
                    None => continue,
                };
                made.index.entry(source).or_insert(known);
            }
        }
        let index = serde_json::to_vec(&made.index).map_err(|e| failed(e.into()))?;
        made.append(&index).map_err(failed)?;
        let size = (index.len() as u64).to_le_bytes();
        made.append(&size).map_err(failed)?;
        self.store.keep_pyc(&self.keys.own, made.file)?;
        self.store.put_survey(&self.keys.last, &self.keys.own)
    }
}

fn open(store: &Store, key: &Digest) -> Option<Part<File>> {
    let path = store.pyc_path(key);
    note_use(&path);
    File::open(path).and_then(read_index).ok()
}

impl<F: Read + Write + Seek> Part<F> {
    fn append(&mut self, bytes: &[u8]) -> io::Result<Known> {
        let (at, size) = (self.end, bytes.len() as u64);
        self.file.seek(SeekFrom::Start(at))?;
        self.file.write_all(bytes)?;
        self.end += size;
        Ok(Known::Pyc { at, size })
    }
}

impl<F: Read + Seek> Part<F> {
    fn get(&mut self, source: &Digest) -> io::Result<Option<Answer>> {
        let (at, size) = match self.index.get(source) {
            Some(Known::Pyc { at, size }) => (*at, *size),
            Some(Known::Refused(reason)) => return Ok(Some(Answer::Refused(reason.clone()))),
            None => return Ok(None),
        };
        self.file.seek(SeekFrom::Start(at))?;
        let mut bytes = Vec::new();
        (&mut self.file).take(size).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Some(Answer::Pyc(bytes)))
    }
}

fn read_index(mut file: File) -> io::Result<Part<File>> {
    let broken = || io::Error::from(io::ErrorKind::InvalidData);
    let length = file.seek(SeekFrom::End(0))?;
    let tail = length.checked_sub(8).ok_or_else(broken)?;
    file.seek(SeekFrom::Start(tail))?;
    let mut size = [0; 8];
    file.read_exact(&mut size)?;
    let size = u64::from_le_bytes(size);
    let end = tail.checked_sub(size).ok_or_else(broken)?;
    if size > LONGEST_INDEX {
        return Err(broken());
    }
    file.seek(SeekFrom::Start(end))?;
    let mut bytes = Vec::new();
    (&mut file).take(size).read_to_end(&mut bytes)?;
    let index: BTreeMap<Digest, Known> = serde_json::from_slice(&bytes)?;
    let inside = |known: &Known| match known {
        Known::Pyc { at, size } => at.checked_add(*size).is_some_and(|last| last <= end),
        Known::Refused(_) => true,
    };
    if !index.values().all(inside) {
        return Err(broken());
    }
    Ok(Part { file, index, end })
}

fn cannot(store: &Store, e: io::Error) -> Error {
    Error::io("use the compiled files in", store.root(), e)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(name: &[u8]) -> Keys {
        Keys {
            own: Digest::of(name),
            last: Digest::of(b"last"),
        }
    }

    fn answers() -> Vec<(Digest, Answer)> {
        vec![
            (source_hash(b"/a.py", b"x"), Answer::Pyc(b"compiled".into())),
            (source_hash(b"/b.py", b"("), Answer::Refused("no".into())),
            (source_hash(b"/c.py", b""), Answer::Pyc(Vec::new())),
        ]
    }

    #[test]
    fn what_was_kept_is_known_and_more_is_added() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let key = keys(b"key");
        for (source, answer) in answers() {
            let mut set = PycSet::open(&store, key);
            assert!(!set.knows(&source).unwrap());
            set.add(source, answer.clone()).unwrap();
            assert_eq!(set.get(&source).unwrap(), Some(answer));
            set.save().unwrap();
        }
        let mut set = PycSet::open(&store, key);
        for (source, answer) in answers() {
            assert!(set.knows(&source).unwrap());
            assert_eq!(set.get(&source).unwrap(), Some(answer));
        }
        let other = source_hash(b"/a.p", b"yx");
        assert!(!set.knows(&other).unwrap());
        assert_eq!(set.get(&other).unwrap(), None);
    }

    #[test]
    fn another_version_serves_the_sources_that_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let [(a, compiled), (b, refused), (c, _)] = answers().try_into().unwrap();
        let mut first = PycSet::open(&store, keys(b"1.0"));
        first.add(a, compiled.clone()).unwrap();
        first.add(b, refused.clone()).unwrap();
        first.save().unwrap();
        let mut second = PycSet::open(&store, keys(b"1.1"));
        assert!(second.knows(&a).unwrap());
        assert!(!second.knows(&c).unwrap());
        assert_eq!(second.get(&a).unwrap(), Some(compiled.clone()));
        second.save().unwrap();
        // The new set is whole by itself, and has nothing that nobody asked it for.
        std::fs::remove_file(store.pyc_path(&keys(b"1.0").own)).unwrap();
        let mut again = PycSet::open(&store, keys(b"1.1"));
        assert_eq!(again.get(&a).unwrap(), Some(compiled));
        assert!(!again.knows(&b).unwrap());
        let third = PycSet::open(&store, keys(b"1.2"));
        assert!(third.earlier.is_some());
        std::fs::write(store.pyc_path(&keys(b"1.1").own), "damaged").unwrap();
        assert!(!PycSet::open(&store, keys(b"1.2")).knows(&a).unwrap());
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let key = keys(b"key");
        let mut set = PycSet::open(&store, key);
        for (source, answer) in answers() {
            set.add(source, answer).unwrap();
        }
        set.save().unwrap();
        let whole = std::fs::read(store.pyc_path(&key.own)).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(store.pyc_path(&key.own), &whole[..cut]).unwrap();
            let mut set = PycSet::open(&store, key);
            for (source, _) in answers() {
                assert!(!set.knows(&source).unwrap());
            }
        }
        let known = Known::Pyc {
            at: u64::MAX,
            size: 9,
        };
        let index = BTreeMap::from([(Digest::from_bytes([0; 32]), known)]);
        let beyond = serde_json::to_vec(&index).unwrap();
        let size = (beyond.len() as u64).to_le_bytes();
        std::fs::write(store.pyc_path(&key.own), [&beyond[..], &size].concat()).unwrap();
        let mut set = PycSet::open(&store, key);
        assert!(!set.knows(&Digest::from_bytes([0; 32])).unwrap());
    }
}
