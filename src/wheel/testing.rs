//! Small wheels for the tests, and a sink that keeps what it takes.

use std::{
    collections::BTreeMap,
    io::{self, Cursor, Read, Write},
    path::Path,
};

use rattler::install::PythonInfo;
use rattler_conda_types::{Subdir, Version};
use zip::{ZipWriter, write::SimpleFileOptions};

use super::record::sha256_text;
use crate::{
    digest::Digest,
    lock::LockedWheel,
    package::{Entry, EntrySink, Prefix},
};

/// The lock's entry of `demo` 1.0.
pub fn locked() -> LockedWheel {
    LockedWheel {
        name: "demo".into(),
        version: "1.0".into(),
        url: "https://host/demo-1.0-py3-none-any.whl".parse().unwrap(),
        sha256: Digest::of(b""),
        size: None,
    }
}

/// The bytes of `demo` 1.0 with these files besides `*.dist-info`.
pub fn wheel(files: &[(&str, &str)]) -> Vec<u8> {
    let mut all: Vec<(String, String)> = files
        .iter()
        .map(|(name, content)| ((*name).to_owned(), (*content).to_owned()))
        .collect();
    let info = |name: &str| format!("demo-1.0.dist-info/{name}");
    all.push((info("WHEEL"), "Wheel-Version: 1.0\n".into()));
    all.push((info("METADATA"), "Name: demo\nVersion: 1.0\n".into()));
    let commands = "[console_scripts]\ndemo = demo:main\n";
    all.push((info("entry_points.txt"), commands.into()));
    let mut record = String::new();
    for (name, content) in &all {
        let hash = sha256_text(&Digest::of(content.as_bytes()));
        record += &format!("{name},{hash},{}\n", content.len());
    }
    all.push((info("RECORD"), record + &info("RECORD") + ",,\n"));
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in &all {
        let options = SimpleFileOptions::default().unix_permissions(0o644);
        zip.start_file(name.as_str(), options).unwrap();
        zip.write_all(content.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A prefix with Python 3.11 at that path.
pub fn prefix(path: &str) -> Prefix {
    let version: Version = "3.11.2".parse().unwrap();
    Prefix {
        path: path.to_owned(),
        root: "p".to_owned(),
        python: Some(PythonInfo::from_version(&version, None, Subdir::Linux64).unwrap()),
        platform: Subdir::Linux64,
    }
}

/// Keeps entries and contents by path.
#[derive(Default)]
pub struct Kept(pub BTreeMap<String, (Entry, Vec<u8>)>);

impl EntrySink for Kept {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        let path = String::from_utf8(entry.path.clone()).unwrap();
        let before = self.0.insert(path, (entry.clone(), bytes));
        assert!(before.is_none(), "an entry came twice");
        Ok(())
    }
}

impl Kept {
    /// The text of a file in the prefix.
    pub fn text(&self, path: &str) -> &str {
        std::str::from_utf8(&self.0[&format!("p/{path}")].1).unwrap()
    }
}

/// Opens and links a wheel of these bytes.
pub fn install(bytes: &[u8], prefix: &Prefix, excluded: &[&str]) -> crate::error::Result<Kept> {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().write_all(bytes).unwrap();
    let archive = super::WheelArchive::open(file.path(), &locked())?;
    let mut kept = Kept::default();
    let excluded = excluded.iter().map(|path| Path::new(path).to_path_buf());
    super::link(&archive, prefix, &excluded.collect(), &mut kept)?;
    Ok(kept)
}
