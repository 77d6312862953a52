//! Projects with a `pip:` section, package indexes, and conda packages that bring distributions.

use std::{
    fs,
    io::{Cursor, Write as _},
    path::Path,
};

use rattler_lock::LockFile;
use serde_json::json;
use tempfile::TempDir;
use zip::{ZipWriter, write::SimpleFileOptions};

use crate::{
    mini::{Mini, names, read_json, sha256, write_json},
    support::{Output, Project, channel, fixture, write_program},
};

/// A project whose program finds uv and nothing else: no Python, no other tool.
pub struct Pip {
    pub project: Project,
    pub bin: TempDir,
}

impl Pip {
    /// An environment file of conda specs and lines of a pip section.
    pub fn new(specs: &[&str], lines: &[&str]) -> Self {
        Self::over(channel(), specs, lines)
    }

    pub fn over(channel: &str, specs: &[&str], lines: &[&str]) -> Self {
        let bin = tempfile::tempdir().unwrap();
        let uv = fixture("IMGBUILD_TEST_UV");
        std::os::unix::fs::symlink(uv.canonicalize().unwrap(), bin.path().join("uv")).unwrap();
        let project = Project::new(&env(channel, specs, lines)).with_env("PATH", bin.path());
        Self { project, bin }
    }

    pub fn with_env(mut self, name: &str, value: &str) -> Self {
        self.project = self.project.with_env(name, value);
        self
    }

    /// Puts a shell script in uv's place.
    pub fn replace_uv(&self, script: &str) {
        let path = self.bin.path().join("uv");
        fs::remove_file(&path).unwrap();
        write_program(&path, format!("#!/bin/sh\n{script}\n"));
    }

    pub fn lock(&self) -> Output {
        self.project.imgbuild(&["lock", "env.yml"])
    }

    /// Locks, and gives the file names of the wheels, sorted.
    #[track_caller]
    pub fn wheels(&self) -> Vec<String> {
        self.lock().expect(0);
        let urls = self.locked().into_iter();
        let mut names: Vec<String> = urls
            .map(|(url, _)| url.rsplit('/').next().unwrap().to_owned())
            .collect();
        names.sort();
        names
    }

    /// The URL and sha256 of every wheel in the lock.
    pub fn locked(&self) -> Vec<(String, String)> {
        let lock = LockFile::from_path(&self.project.path("env.lock.yml")).unwrap();
        let environment = lock.default_environment().unwrap();
        let platform = environment.platforms().next().unwrap();
        let packages = environment.pypi_packages(platform).unwrap();
        packages
            .map(|package| {
                let wheel = package.as_wheel().unwrap();
                let hash = wheel.hash.as_ref().unwrap().sha256().unwrap();
                (wheel.location.to_string(), hex::encode(hash))
            })
            .collect()
    }

    /// Locks, which must fail with this status, and gives what was said.
    #[track_caller]
    pub fn refused(&self, status: i32) -> String {
        let out = self.lock();
        out.expect(status);
        assert!(!self.project.path("env.lock.yml").exists());
        out.stderr
    }
}

pub fn env(channel: &str, specs: &[&str], lines: &[&str]) -> String {
    let specs: String = specs.iter().map(|spec| format!("- {spec}\n")).collect();
    let lines: String = lines.iter().map(|line| format!("  - {line}\n")).collect();
    format!("name: t\nchannels: ['{channel}']\ndependencies:\n{specs}- pip:\n{lines}")
}

/// `--find-links` for the fixture's real wheels, and nothing else.
pub fn real_wheels() -> [String; 2] {
    let folder = fixture("IMGBUILD_TEST_WHEELS");
    [
        "--no-index".into(),
        format!("--find-links {}", folder.display()),
    ]
}

/// A package index (PEP 503) of tiny wheels.
pub struct Index {
    dir: TempDir,
}

impl Index {
    /// Wheels given as file name and `Requires-Dist`s; what is no wheel has no content.
    pub fn of(files: &[(&str, &[&str])]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let index = Self { dir };
        for (file, needs) in files {
            index.add(file, needs);
        }
        index
    }

    /// Uploads a file.
    pub fn add(&self, file: &str, needs: &[&str]) {
        let name = file.split('-').next().unwrap().replace('_', "-");
        let folder = self.path().join("simple").join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(file), tiny_wheel(file, needs)).unwrap();
        self.write_pages();
    }

    pub fn write_pages(&self) {
        for project in names(&self.path().join("simple")) {
            let folder = self.path().join("simple").join(project);
            let link = |file: String| {
                let hash = sha256(&fs::read(folder.join(&file)).unwrap());
                let address = file.replace('+', "%2B");
                format!("<a href=\"{address}#sha256={hash}\">{file}</a>\n")
            };
            let links: String = names(&folder).into_iter().map(link).collect();
            let page = format!("<!DOCTYPE html><html><body>{links}</body></html>");
            fs::write(folder.join("index.html"), page).unwrap();
        }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

pub fn tiny_wheel(file: &str, needs: &[&str]) -> Vec<u8> {
    let mut parts = file.trim_end_matches(".whl").split('-');
    let (name, version) = (parts.next().unwrap(), parts.next().unwrap());
    if !file.ends_with(".whl") {
        return Vec::new();
    }
    let needs: String = needs
        .iter()
        .map(|n| format!("Requires-Dist: {n}\n"))
        .collect();
    let metadata = format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}");
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (path, text) in [
        ("METADATA", metadata.as_str()),
        ("WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"),
        ("RECORD", ""),
    ] {
        let path = format!("{name}-{version}.dist-info/{path}");
        zip.start_file(path, SimpleFileOptions::default()).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A conda package that needs Python, with these files.
pub fn add_conda(mini: &Mini, name: &str, version: &str, files: &[&str]) {
    let paths: Vec<_> = files
        .iter()
        .map(|path| {
            json!({"_path": path, "path_type": "hardlink", "sha256": sha256(b""), "size_in_bytes": 0})
        })
        .collect();
    let record = json!({"name": name, "version": version, "build": "py311_0", "build_number": 0,
        "depends": ["python"], "subdir": "linux-64"});
    let mut tar = tar::Builder::new(bzip2::write::BzEncoder::new(
        Vec::new(),
        bzip2::Compression::fast(),
    ));
    let mut add = |path: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, bytes).unwrap();
    };
    add("info/index.json", record.to_string().as_bytes());
    let paths = json!({"paths": paths, "paths_version": 1});
    add("info/paths.json", paths.to_string().as_bytes());
    for path in files {
        add(path, b"");
    }
    let bytes = tar.into_inner().unwrap().finish().unwrap();
    let file = format!("{name}-{version}-py311_0.tar.bz2");
    fs::write(mini.path().join("linux-64").join(&file), &bytes).unwrap();
    let index = mini.path().join("linux-64/repodata.json");
    let mut all = read_json(&index);
    all["packages"][&file] = record;
    write_json(&index, &all);
    mini.replace(&file, &bytes, true);
}
