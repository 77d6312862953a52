#![no_main]
//! conda's settings.

use imgbuild::condarc::Condarc;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = Condarc::parse(text, ".condarc", |_| Some("value".into()));
});
