#![no_main]
//! Marshalled code objects: the first byte chooses the minor version of Python.

use imgbuild::pyc::marshal::{CodeLayout, canonical};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((first, data)) = data.split_first() else {
        return;
    };
    let Some(layout) = CodeLayout::of_minor(7 + u64::from(first % 8)) else {
        return;
    };
    if let Ok(form) = canonical(data, layout) {
        assert_eq!(canonical(&form, layout), Ok(form));
    }
});
