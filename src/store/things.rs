//! What the cache holds: every thing that can be removed by itself, and when it was last used.

use std::{
    collections::HashMap,
    fs::{self, DirEntry, Metadata},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::Serialize;

use super::{
    Store,
    records::{BuiltLayer, StoredImage, read_json},
};
use crate::{
    base::BaseImage,
    digest::Digest,
    error::{Error, Result},
};

/// The kinds of thing in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Archives of conda packages.
    Packages,
    /// Wheels.
    Wheels,
    /// Layers that were built, and which key each is for.
    Layers,
    /// Layers of base images, and what each image is.
    Bases,
    /// Names, manifests and configs of images, and their layers that have no key.
    Images,
    /// What was found out about packages.
    Facts,
    /// Compiled Python files.
    Pyc,
    /// Pythons that compile.
    Pythons,
    /// What uv keeps, and what it is given.
    Pip,
    /// Channel indexes.
    Repodata,
    /// Files that are being written, or that killed processes left.
    Unfinished,
}

impl Kind {
    /// All kinds, as they are listed.
    pub const ALL: [Self; 11] = [
        Self::Packages,
        Self::Wheels,
        Self::Layers,
        Self::Bases,
        Self::Images,
        Self::Facts,
        Self::Pyc,
        Self::Pythons,
        Self::Pip,
        Self::Repodata,
        Self::Unfinished,
    ];
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Packages => "packages",
            Self::Wheels => "wheels",
            Self::Layers => "layers",
            Self::Bases => "bases",
            Self::Images => "images",
            Self::Facts => "facts",
            Self::Pyc => "pyc",
            Self::Pythons => "pythons",
            Self::Pip => "pip",
            Self::Repodata => "repodata",
            Self::Unfinished => "unfinished",
        })
    }
}

/// A file or a folder that is kept or removed as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thing {
    /// What it is.
    pub kind: Kind,
    /// Where it is.
    pub path: PathBuf,
    /// Its size in bytes; that of all its files for a folder.
    pub size: u64,
    /// When it was last used; for a blob, when a record that names it was.
    pub used: SystemTime,
    /// What it has to do with blobs.
    pub role: Role,
}

/// What a thing has to do with blobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It is one.
    Blob(Digest),
    /// A record that means nothing without these.
    Record(Vec<Digest>),
    /// As a record, of an image that the user named so.
    Name(String, Vec<Digest>),
    /// A record that cannot be read, or whose blobs are not here: as good as none.
    Stale,
    /// Nothing.
    Apart,
}

impl Role {
    /// The blobs that a record names.
    pub fn blobs(&self) -> &[Digest] {
        match self {
            Self::Record(blobs) | Self::Name(_, blobs) => blobs,
            Self::Blob(_) | Self::Stale | Self::Apart => &[],
        }
    }
}

impl Store {
    /// Everything in the cache, records first.
    ///
    /// # Errors
    /// When a folder of it cannot be read.
    pub fn things(&self) -> Result<Vec<Thing>> {
        let mut things = Vec::new();
        things.extend(self.records("layers", Kind::Layers, |path| self.layer_role(path))?);
        things.extend(self.records("bases", Kind::Bases, |path| self.base_role(path))?);
        things.extend(self.records("images", Kind::Images, |path| self.name_role(path))?);
        let blobs = self.blobs(&things)?;
        things.extend(blobs);
        for (folder, kind) in [
            ("packages", Kind::Packages),
            ("wheels", Kind::Wheels),
            ("surveys", Kind::Facts),
            ("facts", Kind::Facts),
            ("infos", Kind::Facts),
            ("recipes", Kind::Facts),
            ("builds", Kind::Facts),
            ("aliases/md5", Kind::Facts),
            ("pyc", Kind::Pyc),
            ("pythons", Kind::Pythons),
            ("pip", Kind::Pip),
            ("tmp", Kind::Unfinished),
        ] {
            things.extend(self.records(folder, kind, |_| Role::Apart)?);
        }
        // One index is several files that only mean something together.
        let index = Thing::at(self.repodata_dir(), Kind::Repodata, Role::Apart);
        things.extend(index.filter(|index| index.size > 0));
        Ok(things)
    }

    fn records(
        &self,
        folder: &str,
        kind: Kind,
        role: impl Fn(&Path) -> Role,
    ) -> Result<Vec<Thing>> {
        let things = self.entries(folder)?.into_iter().filter_map(|entry| {
            let path = entry.path();
            let role = role(&path);
            Thing::at(path, kind, role)
        });
        Ok(things.collect())
    }

    /// The entries of a folder of the cache, by name.
    pub(super) fn entries(&self, folder: &str) -> Result<Vec<DirEntry>> {
        let path = self.root().join(folder);
        let read = || fs::read_dir(&path)?.collect::<io::Result<Vec<_>>>();
        let mut entries = read().map_err(|e| Error::io("read", &path, e))?;
        entries.sort_by_key(DirEntry::file_name);
        Ok(entries)
    }

    /// The blobs: each is of the kind of a record that names it, and as fresh as the freshest.
    fn blobs(&self, records: &[Thing]) -> Result<Vec<Thing>> {
        let mut named: HashMap<Digest, (Kind, SystemTime)> = HashMap::new();
        for record in records {
            for blob in record.role.blobs() {
                let known = named.entry(*blob).or_insert((record.kind, record.used));
                known.0 = known.0.min(record.kind);
                known.1 = known.1.max(record.used);
            }
        }
        let things = self.entries("blobs/sha256")?.into_iter().map(|entry| {
            let digest = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            let role = digest.map_or(Role::Apart, Role::Blob);
            let mut thing = Thing::at(entry.path(), Kind::Images, role)?;
            if let Some((kind, used)) = digest.and_then(|digest| named.get(&digest)) {
                thing.kind = *kind;
                thing.used = thing.used.max(*used);
            }
            Some(thing)
        });
        Ok(things.flatten().collect())
    }

    fn layer_role(&self, path: &Path) -> Role {
        match read_json::<BuiltLayer>(path) {
            Some(layer) if self.has_blob(&layer.digest, layer.size) => {
                Role::Record(vec![layer.digest])
            }
            _ => Role::Stale,
        }
    }

    fn base_role(&self, path: &Path) -> Role {
        let Some(base) = read_json::<BaseImage>(path) else {
            return Role::Stale;
        };
        let mut layers = base.layers.iter();
        if !layers.all(|layer| self.has_blob(&layer.digest, layer.size)) {
            return Role::Stale;
        }
        let layers = base.layers.iter().map(|layer| layer.digest);
        // Only a registry's image has a manifest here; it lets a pinned one be used offline.
        let documents = base.digest.and_then(|manifest| self.with_named(&manifest));
        Role::Record(layers.chain(documents.into_iter().flatten()).collect())
    }

    fn name_role(&self, path: &Path) -> Role {
        let Some(image) = read_json::<StoredImage>(path) else {
            return Role::Stale;
        };
        match (
            self.lacks(&image.manifest),
            self.with_named(&image.manifest),
        ) {
            (None, Some(blobs)) => Role::Name(image.reference, blobs),
            _ => Role::Stale,
        }
    }

    /// A manifest and the blobs that it names.
    pub(super) fn with_named(&self, manifest: &Digest) -> Option<Vec<Digest>> {
        let blobs = self.blobs_of(manifest)?;
        let named = blobs.into_iter().map(|(digest, _)| digest);
        Some(named.chain([*manifest]).collect())
    }
}

impl Thing {
    /// Nothing when it went meanwhile.
    fn at(path: PathBuf, kind: Kind, role: Role) -> Option<Self> {
        let meta = fs::symlink_metadata(&path).ok()?;
        let (size, newest) = match meta.is_dir() {
            // A Python's files are as old as in their packages.
            true if kind == Kind::Pythons => (measured(&path).0, SystemTime::UNIX_EPOCH),
            true => measured(&path),
            false => (meta.len(), SystemTime::UNIX_EPOCH),
        };
        Some(Self {
            kind,
            size,
            used: newest.max(used(&meta)),
            role,
            path,
        })
    }
}

fn used(meta: &Metadata) -> SystemTime {
    meta.modified().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The size of all files below a folder, and the newest time of one of its entries and theirs.
fn measured(folder: &Path) -> (u64, SystemTime) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let each = entries.filter_map(|entry| {
        let meta = entry.metadata().ok()?;
        Some(match meta.is_dir() {
            true => {
                let (size, newest) = measured(&entry.path());
                (size, newest.max(used(&meta)))
            }
            false => (meta.len(), used(&meta)),
        })
    });
    each.fold((0, SystemTime::UNIX_EPOCH), |all, one| {
        (all.0 + one.0, all.1.max(one.1))
    })
}
