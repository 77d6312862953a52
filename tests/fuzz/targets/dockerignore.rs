#![no_main]
//! A .dockerignore, and the paths that it is asked about: pattern lines, an empty line, paths.

use imgbuild::code::{Match, Patterns};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let at = data.windows(2).position(|pair| pair == b"\n\n");
    let (patterns, paths) = data.split_at(at.unwrap_or(data.len()));
    if let Ok(patterns) = Patterns::parse(patterns) {
        for path in paths.split(|byte| *byte == b'\n') {
            let _ = patterns.check(path, &Match::default());
            let _ = patterns.may_take_back_inside(path);
        }
    }
});
