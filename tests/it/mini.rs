//! Small channels cut out of the fixture channel, and small packages made here.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::support::{Project, fixture};

const SUBDIRS: [&str; 2] = ["linux-64", "noarch"];

/// A channel folder of a few packages, with a plain `repodata.json` in each subdir.
pub struct Mini {
    pub dir: TempDir,
}

impl Mini {
    /// The packages of the fixture channel with these file names.
    pub fn of(files: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let from = fixture("IMGBUILD_TEST_CHANNEL_DIR");
        let mut found = 0;
        for subdir in SUBDIRS {
            fs::create_dir(dir.path().join(subdir)).unwrap();
            let mut index = read_json(&from.join(subdir).join("repodata.json"));
            for section in ["packages", "packages.conda"] {
                let Some(map) = index[section].as_object_mut() else {
                    continue;
                };
                map.retain(|name, _| files.contains(&name.as_str()));
                for name in map.keys() {
                    let path = format!("{subdir}/{name}");
                    fs::copy(from.join(&path), dir.path().join(&path)).unwrap();
                    found += 1;
                }
            }
            write_json(&dir.path().join(subdir).join("repodata.json"), &index);
        }
        assert_eq!(
            found,
            files.len(),
            "not all of {files:?} are in the channel"
        );
        Self { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The `file://` URL.
    pub fn url(&self) -> String {
        format!("file://{}", self.path().display())
    }

    /// Where a package lies.
    pub fn file(&self, name: &str) -> PathBuf {
        let mut paths = SUBDIRS
            .map(|subdir| self.path().join(subdir).join(name))
            .into_iter();
        paths.find(|path| path.exists()).unwrap()
    }

    /// Changes what the index says of a package.
    pub fn edit(&self, file: &str, change: impl Fn(&mut Map<String, Value>)) {
        for subdir in SUBDIRS {
            let path = self.path().join(subdir).join("repodata.json");
            let mut index = read_json(&path);
            for section in ["packages", "packages.conda"] {
                if let Some(record) = index[section].get_mut(file) {
                    change(record.as_object_mut().unwrap());
                }
            }
            write_json(&path, &index);
        }
    }

    /// Replaces a package's bytes; with `indexed`, the index says their hash.
    pub fn replace(&self, file: &str, bytes: &[u8], indexed: bool) {
        fs::write(self.file(file), bytes).unwrap();
        if indexed {
            self.edit(file, |record| {
                record.insert("sha256".into(), sha256(bytes).into());
                record.insert("size".into(), bytes.len().into());
                record.remove("md5");
            });
        }
    }

    /// Adds a `.tar.bz2` package of one file with a binary placeholder.
    pub fn add_with_placeholder(&self, name: &str, placeholder: &str) {
        let content = [b"\x7f\0", placeholder.as_bytes(), b"/share\0\0"].concat();
        let entry = json!({"_path": "bin/tool", "path_type": "hardlink", "sha256": sha256(&content),
            "size_in_bytes": content.len(), "prefix_placeholder": placeholder, "file_mode": "binary"});
        let record = json!({"name": name, "version": "1.0", "build": "0", "build_number": 0,
            "depends": [], "subdir": "linux-64"});
        let paths = json!({"paths": [entry], "paths_version": 1});
        let mut tar = tar::Builder::new(bzip2::write::BzEncoder::new(
            Vec::new(),
            bzip2::Compression::fast(),
        ));
        let files = [
            ("info/index.json", record.to_string().into_bytes()),
            ("info/paths.json", paths.to_string().into_bytes()),
            ("bin/tool", content),
        ];
        for (path, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o755);
            tar.append_data(&mut header, path, &bytes[..]).unwrap();
        }
        let bytes = tar.into_inner().unwrap().finish().unwrap();
        let file = format!("{name}-1.0-0.tar.bz2");
        fs::write(self.path().join("linux-64").join(&file), &bytes).unwrap();
        let index = self.path().join("linux-64/repodata.json");
        let mut all = read_json(&index);
        all["packages"][&file] = record;
        write_json(&index, &all);
        self.replace(&file, &bytes, true);
    }
}

/// An environment file for one channel.
pub fn env(channel: &str, specs: &[&str]) -> String {
    env_of(&[channel], specs)
}

/// An environment file for several channels.
pub fn env_of(channels: &[&str], specs: &[&str]) -> String {
    let list = |items: &[&str]| -> String { items.iter().map(|i| format!("  - {i}\n")).collect() };
    format!(
        "name: t\nchannels:\n{}dependencies:\n{}",
        list(channels),
        list(specs)
    )
}

/// `oci:` and the fixture base's folder.
pub fn base() -> String {
    format!("oci:{}", fixture("IMGBUILD_TEST_BASE").display())
}

/// The program in a project, to be given more settings or to be started.
pub fn command(project: &Project, args: &[&str]) -> Command {
    let mut command = project.command(env!("CARGO_BIN_EXE_imgbuild"));
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Reads a file of a project.
pub fn read(project: &Project, name: &str) -> String {
    fs::read_to_string(project.path(name)).unwrap()
}

/// The manifest in an OCI layout of one image, and its digest.
pub fn layout_manifest(layout: &Path) -> (String, Value) {
    let index = read_json(&layout.join("index.json"));
    let digest = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
    (digest.clone(), blob_json(layout, &digest))
}

/// A JSON blob of an OCI layout.
pub fn blob_json(layout: &Path, digest: &str) -> Value {
    let name = digest.strip_prefix("sha256:").unwrap();
    read_json(&layout.join("blobs/sha256").join(name))
}

/// The names in a folder, sorted; none if it is not there.
pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .map(|entries| {
            let name = |e: fs::DirEntry| e.file_name().to_string_lossy().into_owned();
            entries.flatten().map(name).collect()
        })
        .unwrap_or_default();
    names.sort();
    names
}

pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

pub fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

pub fn write_json(path: &Path, value: &Value) {
    fs::write(path, value.to_string()).unwrap();
}

/// The file of tzdata in the tests' channel: its version is Debian's of the day.
pub fn tzdata() -> &'static str {
    static FILE: OnceLock<String> = OnceLock::new();
    FILE.get_or_init(|| {
        let files = names(&fixture("IMGBUILD_TEST_CHANNEL_DIR").join("noarch"));
        let mut found = files.into_iter().filter(|name| name.starts_with("tzdata-"));
        found.next().expect("the channel has no tzdata")
    })
}
