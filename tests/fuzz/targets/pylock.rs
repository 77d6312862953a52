#![no_main]
//! uv's answer (PEP 751), and the tags in the wheels' file names.

use std::path::Path;

use imgbuild::lock::pip::{pylock, tags::Ranking, target::Target};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let target = Target {
        version: "3.11.2".into(),
        python: (3, 11),
        free_threaded: false,
        glibc: 36,
        machine: Default::default(),
    };
    let _ = pylock::parse(text, Path::new("/project"), &Ranking::of(&target), |_| {
        false
    });
});
