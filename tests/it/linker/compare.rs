//! Two prefixes, and every difference between them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::support::{Kind, Node};

/// A difference that is meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Known {
    /// The installer marks its folder for backup programs; an image needs no `CACHEDIR.TAG`.
    CacheTag,
    /// The installer leaves `conda-meta/history` empty; conda needs it to know an environment.
    History,
    /// Ours alone: the program that runs activation scripts.
    Wrapper,
    /// The installer keeps the loser of a clobbered path under `__clobbers__/` for when the
    /// winner is removed; nothing is ever removed from an image.
    ClobberLoser,
    /// The installer writes hard links of a file with a placeholder as files of their own.
    PatchedHardLink,
    /// The installer gives files that it writes itself the time of `info/about.json` plus a
    /// second, entry points even the present; ours have the archive's, which no clock changes.
    WrittenTime,
    /// The installer leaves compiling to whoever imports first.
    Compiled,
    /// The installer's record tells the host's package cache and how it linked from there.
    HostPaths,
}

/// The fields of a record that ours leave out.
const RECORD_FIELDS_OF_HOST: [&str; 2] = ["extracted_package_dir", "link"];

/// A prefix as both made it.
pub struct Both {
    pub image: BTreeMap<PathBuf, Node>,
    pub installed: BTreeMap<PathBuf, Node>,
    pub records: Vec<(Value, Value)>,
    pub clobbered: Clobbered,
}

/// Path -> winner and losers, as the installer decided.
pub type Clobbered = BTreeMap<PathBuf, (String, Vec<String>)>;

/// Every difference must be a known one; returns which were met.
pub fn differences(both: &Both) -> BTreeSet<Known> {
    let mut check = Check {
        both,
        written: written(both),
        seen: BTreeSet::new(),
        unknown: Vec::new(),
    };
    let paths: BTreeSet<&PathBuf> = both.image.keys().chain(both.installed.keys()).collect();
    for path in paths {
        match (both.image.get(path), both.installed.get(path)) {
            (Some(ours), Some(theirs)) => check.nodes(path, ours, theirs),
            (Some(_), None) => check.only_ours(path),
            (None, _) => check.only_theirs(path),
        }
    }
    check.hard_links();
    for (ours, theirs) in &both.records {
        check.record(ours, theirs);
    }
    assert!(
        check.unknown.is_empty(),
        "{} differences, such as:\n{}",
        check.unknown.len(),
        check.unknown[..check.unknown.len().min(40)].join("\n")
    );
    check.seen
}

/// The files that an installer writes itself: with a placeholder replaced, and entry points.
fn written(both: &Both) -> BTreeSet<PathBuf> {
    let mut written = BTreeSet::new();
    for (_, record) in &both.records {
        for path in record["paths_data"]["paths"].as_array().unwrap() {
            let entry_point = path["path_type"] == "unix_python_entry_point";
            if entry_point || path.get("prefix_placeholder").is_some() {
                written.insert(path["_path"].as_str().unwrap().into());
            }
        }
    }
    written
}

struct Check<'a> {
    both: &'a Both,
    written: BTreeSet<PathBuf>,
    seen: BTreeSet<Known>,
    unknown: Vec<String>,
}

impl Check<'_> {
    fn unknown(&mut self, path: &Path, what: impl std::fmt::Display) {
        self.unknown.push(format!("{}: {what}", path.display()));
    }

    fn only_ours(&mut self, path: &Path) {
        match path.to_str() {
            Some("bin/imgbuild-entrypoint") => drop(self.seen.insert(Known::Wrapper)),
            // An environment without any program of its own still gets the wrapper.
            Some("bin") => {}
            Some(name) if is_compiled(name) || name.ends_with("/__pycache__") => {
                self.seen.insert(Known::Compiled);
            }
            _ => self.unknown(path, "only in the image"),
        }
    }

    fn only_theirs(&mut self, path: &Path) {
        let lost = |path: &Path| {
            let mut parts = path.components();
            let package = parts.nth(1)?.as_os_str().to_str()?;
            let (_, losers) = self.both.clobbered.get(parts.as_path())?;
            losers.iter().find(|loser| *loser == package)
        };
        if path == Path::new("CACHEDIR.TAG") {
            self.seen.insert(Known::CacheTag);
        } else if path.starts_with("__clobbers__")
            && (self.both.installed[path].kind == Kind::Directory || lost(path).is_some())
        {
            self.seen.insert(Known::ClobberLoser);
        } else {
            self.unknown(path, "only on the disk");
        }
    }

    fn nodes(&mut self, path: &Path, ours: &Node, theirs: &Node) {
        if (ours.uid, ours.gid) != (0, 0) {
            self.unknown(path, "not root's");
        }
        if is_record(path) {
            return; // compared field by field
        }
        match (&ours.kind, &theirs.kind) {
            (Kind::Directory, Kind::Directory) => {
                if ours.mode != 0o755 {
                    self.unknown(path, format!("a folder of mode {:o}", ours.mode));
                }
                return; // what the installer makes follows the umask and the clock
            }
            (Kind::File { sha256: a, .. }, Kind::File { sha256: b, .. }) if a == b => {}
            (Kind::File { .. }, Kind::File { .. }) if path == Path::new("conda-meta/history") => {
                self.seen.insert(Known::History);
                return;
            }
            (Kind::Symlink(a), Kind::Symlink(b)) if a == b => {}
            (a, b) => return self.unknown(path, format!("{a:?} in the image, {b:?} on the disk")),
        }
        if ours.mode != theirs.mode {
            let (ours, theirs) = (ours.mode, theirs.mode);
            self.unknown(
                path,
                format!("mode {ours:o} in the image, {theirs:o} on the disk"),
            );
        }
        if ours.mtime == theirs.mtime {
            return;
        }
        if self.written.contains(path) {
            self.seen.insert(Known::WrittenTime);
        } else {
            let (ours, theirs) = (ours.mtime, theirs.mtime);
            self.unknown(
                path,
                format!("time {ours} in the image, {theirs} on the disk"),
            );
        }
    }

    /// The same paths are one file.
    fn hard_links(&mut self) {
        let theirs = link_sets(&self.both.installed);
        for (path, ours) in link_sets(&self.both.image) {
            if theirs.get(&path) == Some(&ours) {
                continue;
            }
            if ours.iter().all(|path| self.written.contains(path)) {
                self.seen.insert(Known::PatchedHardLink);
            } else {
                let theirs = theirs.get(&path);
                self.unknown(
                    &path,
                    format!("one with {ours:?} in the image, {theirs:?} on the disk"),
                );
            }
        }
        let ours = link_sets(&self.both.image);
        for path in theirs
            .keys()
            .filter(|path| !path.starts_with("__clobbers__"))
        {
            if !ours.contains_key(path) {
                self.unknown(path, "a hard link on the disk alone");
            }
        }
    }

    fn record(&mut self, ours: &Value, theirs: &Value) {
        let (ours, theirs) = (ours.as_object().unwrap(), theirs.as_object().unwrap());
        let place = PathBuf::from(format!("record of {}", ours["name"]));
        let keys: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
        for key in keys {
            let (a, b) = (ours.get(key), theirs.get(key));
            if a == b {
                continue;
            }
            match key.as_str() {
                key if RECORD_FIELDS_OF_HOST.contains(&key) && a.is_none() => {
                    self.seen.insert(Known::HostPaths);
                }
                "files" => self.paths(&place, &listed(a), &listed(b)),
                "paths_data" => {
                    let paths =
                        |data: Option<&Value>| listed(data.and_then(|data| data.get("paths")));
                    self.paths(&place, &paths(a), &paths(b));
                }
                _ => self.unknown(
                    &place,
                    format!("{key} is {a:?} in the image, {b:?} on the disk"),
                ),
            }
        }
    }

    /// Lists of paths: equal but for those that the package lost to another.
    fn paths(&mut self, place: &Path, ours: &[Value], theirs: &[Value]) {
        let name = |value: &Value| {
            value
                .get("_path")
                .unwrap_or(value)
                .as_str()
                .unwrap()
                .to_owned()
        };
        let ours: BTreeMap<String, &Value> = ours.iter().map(|v| (name(v), v)).collect();
        let theirs: BTreeMap<String, &Value> = theirs.iter().map(|v| (name(v), v)).collect();
        for path in ours.keys().chain(theirs.keys()).collect::<BTreeSet<_>>() {
            match (ours.get(path), theirs.get(path)) {
                (Some(a), Some(b)) if a == b => {}
                (Some(ours), None) if is_compiled(path) => {
                    // In the list of paths it has a type; in the list of files it is a name.
                    let kind = ours.get("path_type");
                    if kind.is_some_and(|kind| kind != "pyc_file") {
                        self.unknown(place, format!("{path} is listed as {kind:?}"));
                    }
                }
                (None, Some(_)) if path.starts_with("__clobbers__/") => {
                    self.seen.insert(Known::ClobberLoser);
                }
                (a, b) => self.unknown(
                    place,
                    format!("{path}: {a:?} in the image, {b:?} on the disk"),
                ),
            }
        }
    }
}

fn listed(value: Option<&Value>) -> Vec<Value> {
    value.and_then(Value::as_array).cloned().unwrap_or_default()
}

/// For every path that shares its file with others: all of them.
fn link_sets(nodes: &BTreeMap<PathBuf, Node>) -> BTreeMap<PathBuf, BTreeSet<PathBuf>> {
    let mut sets: HashMap<usize, BTreeSet<PathBuf>> = HashMap::new();
    for (path, node) in nodes {
        if let Kind::File { inode, .. } = node.kind {
            sets.entry(inode).or_default().insert(path.clone());
        }
    }
    let shared = sets.into_values().filter(|set| set.len() > 1);
    let each = shared.flat_map(|set| set.clone().into_iter().map(move |path| (path, set.clone())));
    each.collect()
}

fn is_compiled(path: &str) -> bool {
    path.contains("/site-packages/") && path.contains("/__pycache__/") && path.ends_with(".pyc")
}

pub fn is_record(path: &Path) -> bool {
    path.starts_with("conda-meta") && path.extension().is_some_and(|e| e == "json")
}
