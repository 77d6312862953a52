#![no_main]
//! Locks of other tools: conda-lock's, pixi's in all versions, @EXPLICIT lists.

use std::path::Path;

use imgbuild::{lock::foreign, spec::LockChoice};
use rattler_conda_types::Subdir;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let choice = LockChoice::default();
    let _ = foreign::parse(
        data,
        "lock",
        Path::new("/project"),
        &choice,
        Subdir::Linux64,
    );
});
