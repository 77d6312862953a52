#![no_main]
//! imgbuild.yaml.

use std::path::Path;

use imgbuild::spec::config;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = config::parse(text, "imgbuild.yaml", Path::new("/project"));
});
