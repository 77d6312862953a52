#![no_main]
//! imgbuild's own lock.

use std::path::Path;

use imgbuild::lock;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let dir = Path::new("/project");
    if let Ok(read) = lock::parse_all(text, "env.lock.yml", dir) {
        let _ = lock::render(&read, dir);
    }
});
