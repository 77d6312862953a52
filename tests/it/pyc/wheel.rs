//! A wheel through the compiling sink.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::Command,
};

use imgbuild::{
    digest::Digest,
    lock::{self, LockedWheel},
    package::{Entry, EntrySink, Prefix},
    pyc::{Compiled, Compiler, Workshop},
    report::Reporter,
    store::Store,
    wheel::{WheelArchive, link},
};
use rattler_conda_types::Subdir;

use super::project;
use crate::support::{run, source, temp_dir};

const SITE: &str = "lib/python3.11/site-packages";

#[derive(Default)]
struct Kept {
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl EntrySink for Kept {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Read) -> io::Result<()> {
        let path = Path::new(std::str::from_utf8(&entry.path).unwrap()).to_owned();
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        let path = path.strip_prefix("root").unwrap().to_owned();
        assert!(self.files.insert(path, bytes).is_none(), "it came twice");
        Ok(())
    }
}

#[test]
fn a_wheel_is_compiled_and_its_record_says_so() {
    let dir = temp_dir();
    let script = source("tests/support/make_wheels.py");
    run(Command::new("python3").arg(script).arg(dir.path()));
    let wheel = LockedWheel {
        name: "kinds".into(),
        version: "1.0".into(),
        url: "https://host/kinds-1.0-py3-none-any.whl".parse().unwrap(),
        sha256: Digest::of(b"checked when it was fetched"),
        size: None,
    };
    let file = dir.path().join("good/kinds-1.0-py3-none-any.whl");
    let archive = WheelArchive::open(&file, &wheel).unwrap();

    // The Python to compile with comes from a lock, and its packages from the channel.
    let project = project("pyc-plain");
    project.ok(&["lock", "env.yml"]);
    let text = fs::read_to_string(project.path("env.lock.yml")).unwrap();
    let lock = lock::parse(&text, "lock", project.dir.path(), Subdir::Linux64).unwrap();
    let prefix = Prefix::new("/opt/conda", "root", &lock.env, Default::default()).unwrap();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let workshop = Workshop {
        store: &Store::open(dir.path().join("cache")).unwrap(),
        reporter: &Reporter::stderr(true),
        client: &lock::http_client(&lock::ClientOptions::default()).unwrap(),
        runtime: runtime.handle(),
        threads: NonZeroUsize::MIN,
    };
    let compiler = Compiler::new(&lock.env, &prefix, &[]).unwrap();
    let lost = PathBuf::from(format!("{SITE}/kinds/__pycache__/empty.cpython-311.pyc"));
    let excluded = BTreeSet::from([lost]);
    let compiled = Compiled {
        name: "kinds",
        sha256: wheel.sha256,
        excluded: &excluded,
    };
    let mut kept = Kept::default();
    compiler
        .compile(&compiled, &workshop, &mut kept, |sink| {
            link(&archive, &prefix, &excluded, sink)
        })
        .unwrap();

    let made = kept
        .files
        .keys()
        .filter(|path| path.extension().is_some_and(|e| e == "pyc"));
    let made: Vec<String> = made
        .map(|path| path.strip_prefix(SITE).unwrap().display().to_string())
        .collect();
    let expected = [
        "__pycache__/kinds_plat.cpython-311.pyc",
        "__pycache__/kinds_pure.cpython-311.pyc",
        "kinds/__pycache__/__init__.cpython-311.pyc",
        "kinds/__pycache__/cli.cpython-311.pyc",
    ];
    assert_eq!(made, expected);
    let record = &kept.files[Path::new(SITE).join("kinds-1.0.dist-info/RECORD").as_path()];
    let record = std::str::from_utf8(record).unwrap();
    let listed: Vec<&str> = record
        .lines()
        .filter_map(|line| line.strip_suffix(",,"))
        .filter(|path| path.ends_with(".pyc"))
        .collect();
    assert_eq!(listed, expected);
}

/// The same through a whole build.
#[test]
fn wheels_of_an_image_are_compiled() {
    let project = project("pyc-plain");
    project.ok(&["lock", "env.yml"]);
    let dir = temp_dir();
    let files = [("tiny/__init__.py", "x = 1\n"), ("tiny/bad.py", "(\n")];
    let wheel = crate::plan::wheel(dir.path(), "tiny", "1.0", &files);
    let text = fs::read_to_string(project.path("env.lock.yml")).unwrap();
    let lock = lock::parse(&text, "lock", project.dir.path(), Subdir::Linux64).unwrap();
    let mut list = "@EXPLICIT\n".to_owned();
    for record in lock.env.packages() {
        let sha256 = hex::encode(record.package_record.sha256.unwrap());
        list += &format!("{}#{sha256}\n", record.url);
    }
    list += &format!("# pip tiny @ {}#sha256={}\n", wheel.url, wheel.sha256.hex());
    project.write("list.txt", &list);
    let output = project.ok(&["build", "list.txt", "--base", "scratch"]);
    let image = project.image(&output);
    let site = format!("/opt/conda/{SITE}");
    image
        .rootfs
        .node(format!("{site}/tiny/__pycache__/__init__.cpython-311.pyc"));
    let record = image
        .rootfs
        .text(format!("{site}/tiny-1.0.dist-info/RECORD"));
    assert!(
        record.contains("\ntiny/__pycache__/__init__.cpython-311.pyc,,\n"),
        "{record}"
    );
    assert!(!record.contains("bad.cpython"), "{record}");
    let warning = "warning: tiny (pip): 1 of its Python files does not compile";
    assert!(output.stderr.contains(warning), "{}", output.stderr);
}
