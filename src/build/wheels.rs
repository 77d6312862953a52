//! The pip packages of a prefix: from the lock through the store into a layer.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use crate::{
    error::{Error, Result},
    fetch,
    lock::LockedWheel,
    package::{Contents, EntrySink, Prefix, Target, compiled, wheel_id},
    store::Store,
    wheel::{self, WheelArchive},
};

fn open(wheel: &LockedWheel, store: &Store) -> Result<WheelArchive> {
    WheelArchive::open(&fetch::wheel_path(wheel, store), wheel)
}

/// What a wheel brings.
pub(super) fn contents(wheel: &LockedWheel, prefix: &Prefix, store: &Store) -> Result<Contents> {
    let info = open(wheel, store)?.info(prefix)?;
    let path = fetch::wheel_path(wheel, store);
    let size = std::fs::metadata(&path)
        .map_err(|e| Error::io("read", &path, e))?
        .len();
    let target = |path: PathBuf| Target {
        sha256: info.hashes.get(&path).copied(),
        folder: false,
        path,
    };
    let targets: Vec<Target> = info.targets.iter().cloned().map(target).collect();
    Ok(Contents {
        id: wheel_id(&wheel.name),
        place: format!("wheel {}", wheel.file_name()),
        compiled: compiled(&targets, prefix),
        projects: BTreeMap::new(),
        claims: None,
        targets,
        size,
        md5: None,
        built_at: info.built_at,
        for_python: true,
    })
}

/// Streams a wheel into the sink.
pub(super) fn link(
    wheel: &LockedWheel,
    prefix: &Prefix,
    excluded: &BTreeSet<PathBuf>,
    store: &Store,
    sink: &mut dyn EntrySink,
) -> Result<()> {
    wheel::link(&open(wheel, store)?, prefix, excluded, sink)
}
