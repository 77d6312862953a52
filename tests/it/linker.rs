//! Linking, against rattler's own installer: the same lock, put on a disk by it and into an
//! image by imgbuild, must give the same prefix but for the differences named here.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use imgbuild::lock::{self, LockedEnv};
use rattler::{
    install::{Installer, LinkOptions},
    package_cache::PackageCache,
};
use rattler_conda_types::Subdir;
use serde_json::Value;

use crate::support::{Kind, Node, Project, env_file, fixture, hash_file, temp_dir};

/// A difference that is meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Known {
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
    /// The installer's record tells the host's package cache and how it linked from there.
    HostPaths,
}

/// A file of conda-meta where the two may differ, and how.
const RECORD_FIELDS_OF_HOST: [&str; 2] = ["extracted_package_dir", "link"];

/// A prefix as both made it.
struct Both {
    image: BTreeMap<PathBuf, Node>,
    installed: BTreeMap<PathBuf, Node>,
    records: Vec<(Value, Value)>,
    /// Path -> winner and losers, as the installer decided.
    clobbered: BTreeMap<PathBuf, (String, Vec<String>)>,
}

#[test]
fn crafted_packages_link_as_on_a_disk() {
    let seen = compare_env(&env_file("crafted"), "/opt/conda");
    use Known::*;
    assert_eq!(
        seen,
        BTreeSet::from([
            CacheTag,
            History,
            Wrapper,
            ClobberLoser,
            PatchedHardLink,
            WrittenTime,
            HostPaths
        ]),
        "a known difference is gone, or belongs to another test"
    );
}

#[test]
fn ordinary_packages_link_as_on_a_disk() {
    use Known::*;
    let ordinary = BTreeSet::from([CacheTag, History, Wrapper, WrittenTime, HostPaths]);
    assert_eq!(compare_env(&env_file("small"), "/opt/conda"), ordinary);
    let py39 = compare_env(&env_file("py39"), "/srv/env");
    assert_eq!(py39, &ordinary - &BTreeSet::from([Wrapper]));
    let rest = compare_env(&rest(), "/srv/a/long/way/down/to/the/environment");
    assert_eq!(rest, ordinary);
}

#[test]
fn a_whole_torch_links_as_on_a_disk() {
    use Known::*;
    let seen = compare_env(&torch(), "/opt/conda");
    let ordinary = BTreeSet::from([CacheTag, History, Wrapper, WrittenTime, HostPaths]);
    assert_eq!(seen, ordinary);
}

#[test]
fn an_environment_over_miniconda_links_as_on_a_disk() {
    let project = Project::new(&env_file("crafted"));
    project.write(
        "imgbuild.yaml",
        "base: scratch\nminiconda: {packages: [python=3.9, pip]}\n",
    );
    let image = project.build(&[]);
    let lock = read_lock(&project);
    let env = both(
        &image.rootfs.below("/opt/conda/envs/crafted"),
        &lock.env,
        "/opt/conda/envs/crafted",
    );
    let seen = differences(&env);
    assert!(seen.contains(&Known::Wrapper) && seen.contains(&Known::ClobberLoser));
    let mut base = image.rootfs.below("/opt/conda");
    base.retain(|path, _| !path.starts_with("envs"));
    let base = both(&base, lock.miniconda.as_ref().unwrap(), "/opt/conda");
    assert!(base.image.contains_key(Path::new("bin/python3.9")));
    assert!(!differences(&base).contains(&Known::Wrapper));
}

/// The tests above reach every package of the channel but the one that cannot be installed.
#[test]
fn every_package_of_the_channel_is_compared() {
    let mut compared = BTreeSet::new();
    for env in [
        env_file("crafted"),
        env_file("small"),
        env_file("py39"),
        rest(),
        torch(),
    ] {
        let project = project(&env);
        project.ok(&["lock", "env.yml"]);
        let files = read_lock(&project);
        let files = files
            .env
            .packages()
            .iter()
            .map(|r| r.identifier.to_file_name());
        compared.extend(files);
    }
    let channel = fixture("IMGBUILD_TEST_CHANNEL_DIR");
    let folders = ["linux-64", "noarch"].map(|subdir| fs::read_dir(channel.join(subdir)).unwrap());
    let files = folders.into_iter().flatten();
    let files = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let missed: Vec<String> = files
        .filter(|file| file.ends_with(".conda") || file.ends_with(".tar.bz2"))
        .filter(|file| !compared.contains(file) && !file.starts_with("unsatisfiable-demo"))
        .collect();
    assert!(missed.is_empty(), "no test links {missed:?}");
}

/// What the other environments leave out.
fn rest() -> String {
    env_file("crafted")
        .replace("hello-demo=1.0", "hello-demo=1.1")
        .replace("- names-demo", "- names-demo=1.0")
        .replace("- variant-demo", "- variant-demo=1.0=cpu_0")
        .replace("  - clobber-b\n", "")
        .replace("  - post-link-demo\n", "  - wheel\n  - click\n")
}

fn torch() -> String {
    env_file("torch") + "  - torchvision\n  - variant-demo\n  - requests\n"
}

fn project(env: &str) -> Project {
    Project::new(env).with_env("CONDA_OVERRIDE_CUDA", "13.2")
}

/// Builds and installs one environment and returns the kinds of difference.
fn compare_env(env: &str, prefix: &str) -> BTreeSet<Known> {
    let project = project(env);
    let image = project.build(&["--base", "scratch", "--prefix", prefix]);
    let lock = read_lock(&project);
    let both = both(&image.rootfs.below(prefix), &lock.env, prefix);
    differences(&both)
}

fn read_lock(project: &Project) -> lock::Lock {
    let text = fs::read_to_string(project.path("env.lock.yml")).unwrap();
    lock::parse(&text, "env.lock.yml", project.dir.path(), Subdir::Linux64).unwrap()
}

/// Installs the packages as if into `prefix` and reads both prefixes.
fn both(image: &BTreeMap<PathBuf, Node>, locked: &LockedEnv, prefix: &str) -> Both {
    let home = temp_dir();
    let dir = home.path().join("prefix");
    let _ = rustls::crypto::ring::default_provider().install_default();
    let installer = Installer::new()
        .with_package_cache(PackageCache::new(home.path().join("pkgs")))
        .with_download_client(lock::http_client().unwrap())
        .with_target_platform(Subdir::Linux64)
        .with_alternative_target_prefix(prefix)
        .with_installed_packages(Vec::new())
        .with_link_options(LinkOptions {
            allow_symbolic_links: Some(true),
            allow_hard_links: Some(true),
            allow_ref_links: Some(false),
        });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let records = locked.packages().to_vec();
    let result = runtime.block_on(installer.install(&dir, records)).unwrap();
    let mut installed = BTreeMap::new();
    walk(&dir, Path::new(""), &mut installed);
    let names: Vec<&PathBuf> = installed.keys().filter(|path| is_record(path)).collect();
    assert_eq!(names.len(), locked.packages().len());
    let records = names.into_iter().map(|name| {
        let Kind::File {
            content: Some(ours),
            ..
        } = &image[name].kind
        else {
            panic!("{} is no file", name.display());
        };
        let theirs = fs::read(dir.join(name)).unwrap();
        let parse = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap();
        (parse(ours), parse(&theirs))
    });
    let name = |name: &rattler_conda_types::PackageName| name.as_normalized().to_owned();
    let clobbered = result.clobbered_paths.into_iter().map(|(path, found)| {
        let losers = found.other_packages.iter().map(name).collect();
        (path, (name(&found.package), losers))
    });
    Both {
        image: image.clone(),
        records: records.collect(),
        installed,
        clobbered: clobbered.collect(),
    }
}

fn is_record(path: &Path) -> bool {
    path.starts_with("conda-meta") && path.extension().is_some_and(|e| e == "json")
}

fn walk(root: &Path, folder: &Path, into: &mut BTreeMap<PathBuf, Node>) {
    for entry in fs::read_dir(root.join(folder)).unwrap() {
        let path = folder.join(entry.unwrap().file_name());
        let real = root.join(&path);
        let meta = fs::symlink_metadata(&real).unwrap();
        let kind = if meta.is_dir() {
            walk(root, &path, into);
            Kind::Directory
        } else if meta.is_symlink() {
            Kind::Symlink(fs::read_link(&real).unwrap())
        } else {
            Kind::File {
                sha256: hash_file(&real).0,
                content: None,
                inode: meta.ino() as usize,
            }
        };
        let node = Node {
            kind,
            mode: meta.mode() & 0o7777,
            uid: 0,
            gid: 0,
            mtime: meta.mtime() as u64,
        };
        into.insert(path, node);
    }
}

/// Every difference must be a known one; returns which were met.
fn differences(both: &Both) -> BTreeSet<Known> {
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
