//! One wheel, installed by uv into a virtual environment and by imgbuild into memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Taken, install, prefix};
use crate::support::{fixture, run, temp_dir, write_program};

/// The differences from uv that are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Known {
    /// `INSTALLER` names who it was; uv adds `REQUESTED` and its own `uv_cache.json`.
    Installers,
    /// Generated commands do the same in other words.
    Launcher,
    /// Scripts are run by `bin/python3.11`, which the environment's Python owns.
    Interpreter,
    /// A virtual environment has `include/site/python3.11`, a conda Python `include/python3.11`.
    VenvHeaders,
    /// uv keeps the signature of a `RECORD` that it changes.
    Signature,
    /// uv keeps a `direct_url.json` that came in the wheel.
    DirectUrl,
    /// uv lists scripts that generated commands replace, under their names in the archive.
    ReplacedScript,
    /// uv leaves a size out of `RECORD` where the wheel did.
    Size,
}

/// A virtual environment that holds nothing.
pub struct Venv {
    dir: tempfile::TempDir,
}

/// Path to (hash, size) as `RECORD` has them.
type Rows = BTreeMap<String, (String, String)>;

impl Venv {
    pub fn new() -> Self {
        let venv = Self { dir: temp_dir() };
        let python = fixture("IMGBUILD_TEST_PYTHON");
        run(venv
            .uv()
            .arg("venv")
            .arg("--python")
            .arg(python)
            .arg(venv.path()));
        venv
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("venv")
    }

    fn uv(&self) -> Command {
        let mut uv = Command::new(fixture("IMGBUILD_TEST_UV"));
        uv.args(["--quiet", "--offline", "--no-config", "--cache-dir"])
            .arg(self.dir.path().join("cache"));
        uv
    }

    /// Installs the wheel both ways and returns the kinds of difference; others fail.
    pub fn compare(&self, wheel: &Path) -> BTreeSet<Known> {
        let before = self.files();
        let name = wheel.file_name().unwrap().to_str().unwrap();
        let mut parts = name.split('-');
        let [project, version] = [parts.next().unwrap(), parts.next().unwrap()];
        // By name and not by path: uv would write a direct_url.json.
        let links = self.dir.path().join("links");
        fs::create_dir(&links).unwrap();
        fs::copy(wheel, links.join(name)).unwrap();
        run(self
            .uv()
            .args(["pip", "install", "--no-index", "--no-deps", "--python"])
            .arg(self.path().join("bin/python"))
            .arg("--find-links")
            .arg(links)
            .arg(format!("{project}=={version}")));
        let mut theirs = self.files();
        theirs.retain(|path, _| !before.contains_key(path));
        let ours = install(wheel, &prefix(self.path().to_str().unwrap())).unwrap();
        let mut seen = BTreeSet::new();
        self.compare_files(&ours.files, &theirs, &mut seen);
        seen
    }

    fn compare_files(
        &self,
        ours: &BTreeMap<PathBuf, Taken>,
        theirs: &BTreeMap<PathBuf, Taken>,
        seen: &mut BTreeSet<Known>,
    ) {
        let all: BTreeSet<&PathBuf> = ours.keys().chain(theirs.keys()).collect();
        for path in all {
            let known = match (ours.get(path), theirs.get(path)) {
                (Some(a), Some(b)) => {
                    assert_eq!(a.mode, b.mode, "the mode of {path:?}");
                    if a.content == b.content {
                        continue;
                    }
                    self.content_differs(path, a, b, seen)
                }
                _ => one_sided(path),
            };
            let known = known.unwrap_or_else(|| panic!("{path:?} is not as uv has it"));
            seen.insert(known);
        }
    }

    fn content_differs(
        &self,
        path: &Path,
        ours: &Taken,
        theirs: &Taken,
        seen: &mut BTreeSet<Known>,
    ) -> Option<Known> {
        if path.ends_with("INSTALLER") {
            assert_eq!(ours.content, b"imgbuild\n");
            return Some(Known::Installers);
        }
        if path.ends_with("RECORD") {
            compare_records(&rows(&ours.content), &rows(&theirs.content), seen);
            return Some(Known::Installers);
        }
        if !path.starts_with("bin") {
            return None;
        }
        let text = String::from_utf8(ours.content.clone()).ok()?;
        if text.replacen("python3.11", "python", 1).as_bytes() == theirs.content {
            return Some(Known::Interpreter);
        }
        self.same_behaviour(path, &text);
        Some(Known::Launcher)
    }

    /// Runs uv's command, then ours in its place: the same output and the same status.
    fn same_behaviour(&self, path: &Path, ours: &str) {
        assert!(
            ours.contains("sys.exit("),
            "{path:?} is no command:\n{ours}"
        );
        let command = self.path().join(path);
        let outcome = || {
            let mut command = Command::new(&command);
            let output = command
                .arg("--version")
                .env("COLUMNS", "80")
                .output()
                .unwrap();
            (output.status.code(), output.stdout, output.stderr)
        };
        let theirs = outcome();
        write_program(&command, ours);
        let (status, stdout, stderr) = outcome();
        assert_eq!((status, &stdout), (theirs.0, &theirs.1), "{path:?}");
        // A traceback names the line of the command that failed.
        let last = |text: &[u8]| {
            String::from_utf8_lossy(text)
                .lines()
                .last()
                .map(str::to_owned)
        };
        assert_eq!(last(&stderr), last(&theirs.2), "{path:?}");
    }

    /// Everything in the environment but the bytecode that running it leaves.
    fn files(&self) -> BTreeMap<PathBuf, Taken> {
        let mut files = BTreeMap::new();
        walk(&self.path(), Path::new(""), &mut files);
        files
    }
}

/// A path that only one of the two has.
fn one_sided(path: &Path) -> Option<Known> {
    let name = path.file_name()?.to_str()?;
    match name {
        "REQUESTED" | "uv_cache.json" => Some(Known::Installers),
        "RECORD.jws" => Some(Known::Signature),
        "direct_url.json" => Some(Known::DirectUrl),
        _ if path.starts_with("include") => Some(Known::VenvHeaders),
        _ => None,
    }
}

fn compare_records(ours: &Rows, theirs: &Rows, seen: &mut BTreeSet<Known>) {
    let all: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    for path in all {
        let in_bin = path.starts_with("../../../bin/");
        let known = match (ours.get(path), theirs.get(path)) {
            (Some(a), Some(b)) if a == b => continue,
            // The files themselves are compared above.
            (Some(_), Some(_)) if in_bin => continue,
            (Some(_), Some(_)) if path.ends_with("/INSTALLER") => Some(Known::Installers),
            (Some(a), Some(b)) if a.0 == b.0 && b.1.is_empty() => Some(Known::Size),
            (None, Some(_)) if path.contains(".data/scripts/") => Some(Known::ReplacedScript),
            (Some(_), Some(_)) => None,
            _ => one_sided(Path::new(path.trim_start_matches("../"))),
        };
        seen.insert(known.unwrap_or_else(|| panic!("RECORD of {path} is not as uv has it")));
    }
}

fn rows(record: &[u8]) -> Rows {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .from_reader(record);
    let rows = reader.records().map(|row| {
        let row = row.unwrap();
        (row[0].to_owned(), (row[1].to_owned(), row[2].to_owned()))
    });
    rows.collect()
}

fn walk(root: &Path, below: &Path, files: &mut BTreeMap<PathBuf, Taken>) {
    for entry in fs::read_dir(root.join(below)).unwrap() {
        let entry = entry.unwrap();
        let path = below.join(entry.file_name());
        // What uv locks an environment with.
        if path == Path::new(".lock") {
            continue;
        }
        let kind = entry.file_type().unwrap();
        if kind.is_dir() && entry.file_name() != "__pycache__" {
            walk(root, &path, files);
        } else if kind.is_file() {
            let taken = Taken {
                mode: entry.metadata().unwrap().permissions().mode() & 0o7777,
                mtime: 0,
                content: fs::read(root.join(&path)).unwrap(),
            };
            files.insert(path, taken);
        }
    }
}
