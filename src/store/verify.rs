//! Whether everything in the cache is what its name says.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
};

use serde::Serialize;
use serde_json::Value;

use super::{
    Alone, Store,
    records::{BuiltLayer, StoredImage, read_json},
};
use crate::{
    base::BaseImage,
    digest::{Digest, Hashing},
    error::{Error, Result},
};

/// Where files are named by the sha256 of their content.
const HASHED: [&str; 3] = ["blobs/sha256", "packages", "wheels"];

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Files that were hashed.
    pub files: usize,
    /// Their size in bytes.
    pub bytes: u64,
    /// Records that were read.
    pub records: usize,
    /// What was not as it should be.
    pub damaged: Vec<Damage>,
}

/// A file or a record that is of no use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// Where it is.
    pub path: PathBuf,
    /// What is wrong, in words.
    pub what: String,
}

impl Store {
    /// Hashes every blob, package and wheel, and reads every record. Removes nothing.
    ///
    /// # Errors
    /// When the cache cannot be read; a file that cannot be read is damaged.
    pub fn verify(&self, threads: usize) -> Result<Verified> {
        let mut found = Verified::default();
        let mut paths = Vec::new();
        for folder in HASHED {
            paths.extend(self.entries(folder)?.iter().map(fs::DirEntry::path));
        }
        for (path, checked) in hashed(&paths, threads)? {
            found.files += 1;
            match checked {
                Ok(size) => found.bytes += size,
                Err(what) => found.damaged.push(Damage { path, what }),
            }
        }
        self.verify_records(&mut found)?;
        found.damaged.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    fn verify_records(&self, found: &mut Verified) -> Result<()> {
        type Check = fn(&Store, &Path) -> std::result::Result<(), String>;
        let folders: [(&str, Check); 7] = [
            ("layers", Self::check_layer),
            ("bases", Self::check_base),
            ("images", Self::check_image),
            ("surveys", |_, path| readable::<Value>(path).map(drop)),
            ("facts", |_, path| readable::<Value>(path).map(drop)),
            ("infos", |_, path| readable::<Value>(path).map(drop)),
            ("aliases/md5", |_, path| check_alias(path)),
        ];
        for (folder, check) in folders {
            for entry in self.entries(folder)? {
                found.records += 1;
                let path = entry.path();
                if let Err(what) = check(self, &path) {
                    found.damaged.push(Damage { path, what });
                }
            }
        }
        Ok(())
    }

    fn check_layer(&self, path: &Path) -> std::result::Result<(), String> {
        let layer: BuiltLayer = readable(path)?;
        self.check_blob(&layer.digest, layer.size)
    }

    fn check_base(&self, path: &Path) -> std::result::Result<(), String> {
        let base: BaseImage = readable(path)?;
        let mut layers = base.layers.iter();
        layers.try_for_each(|layer| self.check_blob(&layer.digest, layer.size))
    }

    fn check_image(&self, path: &Path) -> std::result::Result<(), String> {
        let image: StoredImage = readable(path)?;
        match self.lacks(&image.manifest) {
            None => Ok(()),
            Some(blob) => Err(format!(
                "image {} lacks {blob}: it is named no more",
                image.reference
            )),
        }
    }

    fn check_blob(&self, digest: &Digest, size: u64) -> std::result::Result<(), String> {
        match self.has_blob(digest, size) {
            true => Ok(()),
            false => Err(format!("it names {digest}, which is not here whole")),
        }
    }
}

impl Alone<'_> {
    /// Removes what [`Store::verify`] found damaged, unless it was made anew meanwhile, and then
    /// the records that are of no use without it. Returns what was removed.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove_damaged(&self, found: &[Damage], threads: usize) -> Result<Vec<Damage>> {
        let mut removed = Vec::new();
        let suspects: Vec<PathBuf> = found.iter().map(|damage| damage.path.clone()).collect();
        let files = HASHED.map(|folder| self.store.root().join(folder));
        let is_file = |path: &PathBuf| path.parent().is_some_and(|dir| files.contains(&dir.into()));
        let suspects: Vec<PathBuf> = suspects.into_iter().filter(is_file).collect();
        for (path, checked) in hashed(&suspects, threads)? {
            if let Err(what) = checked {
                removed.push(Damage { path, what });
            }
        }
        removed.iter().try_for_each(remove)?;
        let mut records = Verified::default();
        self.store.verify_records(&mut records)?;
        records.damaged.iter().try_for_each(remove)?;
        removed.extend(records.damaged);
        Ok(removed)
    }
}

fn remove(damage: &Damage) -> Result<()> {
    let path = &damage.path;
    let gone = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    match gone {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => Ok(()),
    }
}

type Checked = (PathBuf, std::result::Result<u64, String>);

/// Hashes files on several threads; each has its size, or what is wrong with it.
fn hashed(paths: &[PathBuf], threads: usize) -> Result<Vec<Checked>> {
    let (left, done) = (Mutex::new(paths.iter()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..threads.min(paths.len()) {
            scope.spawn(|| {
                loop {
                    let next = left.lock().ok().and_then(|mut left| left.next());
                    let Some(path) = next else { break };
                    let checked = (path.clone(), check_content(path));
                    if let Ok(mut done) = done.lock() {
                        done.push(checked);
                    }
                }
            });
        }
    });
    done.into_inner()
        .map_err(|_| Error::new(crate::error::Exit::Internal, "a thread ended early"))
}

fn check_content(path: &Path) -> std::result::Result<u64, String> {
    let name = path.file_name().and_then(|name| name.to_str());
    let expected: Digest = name
        .and_then(|name| name.parse().ok())
        .ok_or("its name is no sha256")?;
    let read = || -> io::Result<(Digest, u64)> {
        let mut content = Hashing::new(File::open(path)?);
        io::copy(&mut content, &mut io::sink())?;
        let (_, digest, size) = content.finish();
        Ok((digest, size))
    };
    match read() {
        Ok((found, size)) if found == expected => Ok(size),
        Ok((found, size)) => Err(format!("its content is {found} ({size} bytes)")),
        Err(e) => Err(format!("it cannot be read: {e}")),
    }
}

fn readable<T: serde::de::DeserializeOwned>(path: &Path) -> std::result::Result<T, String> {
    read_json(path).ok_or_else(|| "it cannot be read as what it is".into())
}

fn check_alias(path: &Path) -> std::result::Result<(), String> {
    let text = fs::read_to_string(path).map_err(|e| e.to_string())?;
    text.parse::<Digest>().map(drop).map_err(|e| e.to_string())
}
