#![no_main]
//! Environment files.

use std::path::Path;

use imgbuild::spec::EnvYaml;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = EnvYaml::parse_bytes(data, "env.yml", Path::new("/project"), Default::default());
});
