#![no_main]
//! Image manifests and configs.

use imgbuild::image::{Image, Manifest};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = Manifest::parse(data);
    let _ = Image::from_documents(data.to_vec(), data.to_vec());
});
