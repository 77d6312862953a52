use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
    path::PathBuf,
};

use proptest::prelude::*;

use super::{WheelArchive, testing::*};
use crate::{
    layer::LayerTar,
    package::{Entry, EntrySink},
};

const SITE: &str = "lib/python3.11/site-packages";

fn small() -> Vec<u8> {
    wheel(&[
        ("demo.py", "def main():\n    pass\n"),
        ("demo-1.0.data/scripts/run", "#!python -E\nimport demo\n"),
        ("demo-1.0.data/data/share/demo", &"data ".repeat(40)),
    ])
}

#[test]
fn a_wheel_becomes_entries() {
    let kept = install(&small(), &prefix("/opt/conda"), &[]).unwrap();
    let names: Vec<&str> = kept.0.keys().map(String::as_str).collect();
    let info = "p/lib/python3.11/site-packages/demo-1.0.dist-info";
    assert_eq!(
        names,
        [
            "p/bin/demo",
            "p/bin/run",
            &format!("{info}/INSTALLER"),
            &format!("{info}/METADATA"),
            &format!("{info}/RECORD"),
            &format!("{info}/WHEEL"),
            &format!("{info}/entry_points.txt"),
            "p/lib/python3.11/site-packages/demo.py",
            "p/share/demo"
        ]
    );
    assert_eq!(
        kept.text("bin/run"),
        "#!/opt/conda/bin/python3.11\nimport demo\n"
    );
    assert!(kept.text("bin/demo").contains("from demo import main"));
    assert_eq!(kept.0["p/bin/run"].0.mode, 0o755);
}

#[test]
fn a_long_prefix_gets_a_trampoline() {
    let long = format!("/{}", "p".repeat(120));
    let kept = install(&small(), &prefix(&long), &[]).unwrap();
    for script in ["bin/run", "bin/demo"] {
        let start = format!("#!/bin/sh\n'''exec' \"{long}/bin/python3.11\" \"$0\" \"$@\" #'''\n");
        assert!(kept.text(script).starts_with(&start), "{script}");
    }
}

/// A sink that makes a file of its own.
#[derive(Default)]
struct Making(Kept);

impl EntrySink for Making {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Read) -> io::Result<()> {
        self.0.entry(entry, content)
    }

    fn complete(&mut self) -> io::Result<Vec<PathBuf>> {
        assert!(!self.0.0.keys().any(|path| path.ends_with("RECORD")));
        Ok(vec![format!("{SITE}/__pycache__/demo.pyc").into()])
    }
}

#[test]
fn what_the_sink_makes_is_recorded_without_a_hash() {
    let file = tempfile::NamedTempFile::new().unwrap();
    io::Write::write_all(&mut file.as_file(), &small()).unwrap();
    let archive = WheelArchive::open(file.path(), &locked()).unwrap();
    let mut making = Making::default();
    super::link(&archive, &prefix("/p"), &BTreeSet::new(), &mut making).unwrap();
    let record = making.0.text(&format!("{SITE}/demo-1.0.dist-info/RECORD"));
    assert!(record.contains("\n__pycache__/demo.pyc,,\n"), "{record}");
}

#[test]
fn what_another_package_wins_is_in_no_record() {
    let record = format!("{SITE}/demo-1.0.dist-info/RECORD");
    let full = install(&small(), &prefix("/p"), &[]).unwrap();
    for path in ["share/demo", "bin/demo", "bin/run"] {
        assert!(full.text(&record).contains(path));
    }
    let lost = install(
        &small(),
        &prefix("/p"),
        &["share/demo", "bin/demo", "bin/run"],
    )
    .unwrap();
    assert_eq!(lost.0.len(), full.0.len() - 3);
    assert!(!lost.text(&record).contains(".."));
    let unrecorded = install(&small(), &prefix("/p"), &[&record]).unwrap();
    assert_eq!(unrecorded.0.len(), full.0.len() - 1);
}

#[test]
fn a_wheel_needs_a_python() {
    let mut prefix = prefix("/p");
    prefix.python = None;
    let error = install(&small(), &prefix, &[]).err().unwrap().to_string();
    assert!(error.contains("Python") && error.contains("demo-1.0-py3-none-any.whl"));
}

#[test]
fn targets_are_what_is_written() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), small()).unwrap();
    let prefix = prefix("/p");
    let archive = WheelArchive::open(file.path(), &locked()).unwrap();
    let info = archive.info(&prefix).unwrap();
    let targets: Vec<String> = info
        .targets
        .iter()
        .map(|t| format!("p/{}", t.display()))
        .collect();
    let kept = install(&small(), &prefix, &[]).unwrap();
    assert_eq!(targets, kept.0.keys().cloned().collect::<Vec<_>>());
}

#[test]
fn a_layer_of_it_is_the_same_each_time() {
    let layer = || {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), small()).unwrap();
        let archive = WheelArchive::open(file.path(), &locked()).unwrap();
        let mut tar = LayerTar::new(Vec::new(), BTreeMap::new());
        super::link(&archive, &prefix("/p"), &BTreeSet::new(), &mut tar).unwrap();
        tar.finish().unwrap()
    };
    assert_eq!(layer(), layer());
    assert!(layer().starts_with(b"p/\0"), "folders are the tar writer's");
}

/// A sink that fails after a number of bytes, as a full disk does.
struct Full(u64);

impl EntrySink for Full {
    fn entry(&mut self, _: &Entry, content: &mut dyn Read) -> io::Result<()> {
        let read = io::copy(&mut content.take(self.0 + 1), &mut io::sink())?;
        self.0 = self.0.checked_sub(read).ok_or(io::ErrorKind::StorageFull)?;
        Ok(())
    }
}

#[test]
fn a_full_disk_is_not_the_wheels_fault() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), small()).unwrap();
    let archive = WheelArchive::open(file.path(), &locked()).unwrap();
    let error = super::link(&archive, &prefix("/p"), &BTreeSet::new(), &mut Full(30));
    let error = error.unwrap_err().to_string();
    assert!(error.starts_with("cannot write a layer"), "{error}");
}

/// What bytes of a zip are, so that a change is likely to mean something.
fn change() -> impl Strategy<Value = (prop::sample::Index, u8)> {
    let telling = prop::sample::select(vec![0, 1, 2, 8, 0x2e, 0x2f, 0x50, 0x7f, 0x80, 0xff]);
    (
        any::<prop::sample::Index>(),
        prop_oneof![any::<u8>(), telling],
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn a_damaged_wheel_is_refused_or_the_same(
        changes in prop::collection::vec(change(), 1..4),
        cut in prop::option::weighted(0.1, any::<prop::sample::Index>()),
    ) {
        let good = small();
        let mut bytes = good.clone();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(kept) = install(&bytes, &prefix("/p"), &[]) {
            let same = install(&good, &prefix("/p"), &[]).unwrap();
            let contents = |kept: &Kept| -> Vec<(String, Vec<u8>)> {
                kept.0.iter().map(|(path, (_, bytes))| (path.clone(), bytes.clone())).collect()
            };
            prop_assert_eq!(contents(&kept), contents(&same));
        }
    }

    #[test]
    fn parsers_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,200}") {
        let _ = super::record::parse(&bytes);
        let _ = super::entry_points::parse(&text);
        let _ = super::entry_points::parse(&format!("[console_scripts]\n{text}"));
        let _ = super::metadata::header(&text, "Name");
    }
}
