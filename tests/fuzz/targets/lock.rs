#![no_main]
//! imgbuild's own lock.

use std::path::Path;

use imgbuild::lock;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = lock::parse(
        text,
        "env.lock.yml",
        Path::new("/project"),
        rattler_conda_types::Subdir::Linux64,
    );
});
