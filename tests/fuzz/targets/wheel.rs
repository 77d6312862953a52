#![no_main]
//! Wheels, under the names that make_wheels.py gives the good ones.

use std::{collections::BTreeSet, io::Read, path::Path, sync::LazyLock};

use imgbuild::{
    digest::Digest,
    lock::{self, LockedWheel},
    package::{Entry, EntrySink, Prefix},
    wheel::{WheelArchive, link},
};
use rattler_conda_types::Subdir;

const PYTHON: &str = "
version: 7
platforms:
- name: linux-64
environments:
  default:
    channels:
    - url: https://host/c/
    packages:
      linux-64:
      - conda: https://host/c/linux-64/python-3.11.2-0_cpython.conda
packages:
- conda: https://host/c/linux-64/python-3.11.2-0_cpython.conda
  sha256: 5aaa366385d716557e365f0a4e9c3fca43ba196872abbbe3d56bb610d131e192
";

static PREFIX: LazyLock<Prefix> = LazyLock::new(|| {
    let lock = lock::parse(PYTHON, "lock", Path::new("/p"), Subdir::Linux64).expect("a lock");
    Prefix::new("/opt/conda", "opt/conda", &lock.env, Default::default()).expect("a Python")
});

/// Takes everything and keeps nothing.
struct Nowhere;

impl EntrySink for Nowhere {
    fn entry(&mut self, _: &Entry, content: &mut dyn Read) -> std::io::Result<()> {
        std::io::copy(content, &mut std::io::sink()).map(drop)
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    imgbuild_fuzz::with_file(data, "", |path| {
        for name in ["kinds", "streamed"] {
            let wheel = LockedWheel {
                name: name.into(),
                version: "1.0".into(),
                url: format!("https://host/{name}-1.0-py3-none-any.whl")
                    .parse()
                    .expect("a URL"),
                sha256: Digest::of(data),
                size: None,
            };
            if let Ok(archive) = WheelArchive::open(path, &wheel) {
                let _ = link(&archive, &PREFIX, &BTreeSet::new(), &mut Nowhere);
            }
        }
    });
});
