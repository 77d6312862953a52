#![no_main]
//! imgbuild's own lock.

use std::path::Path;

use imgbuild::lock;
use rattler_conda_types::Subdir;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let (dir, platform) = (Path::new("/project"), Subdir::Linux64);
    if let Ok(read) = lock::parse(text, "env.lock.yml", dir, platform) {
        let _ = lock::render(&read, platform, dir);
    }
});
