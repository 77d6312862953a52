#![no_main]
//! Commands, sizes, versions, users and references as flags and settings give them.

use imgbuild::{
    base::BaseSource,
    gate::{Cuda, Driver, Gpu},
    spec::{CodeSpec, Spec, check, words},
};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = words::split(text);
    let _ = check::size(text);
    let _ = check::cuda(text);
    let _ = check::user(text);
    let _ = check::tag(text);
    let _ = check::prefix(text);
    let _ = Spec::parse(text);
    let _ = text.parse::<CodeSpec>();
    let _ = text.parse::<BaseSource>();
    let _ = text.parse::<Gpu>();
    let _ = text.parse::<Driver>().map(|driver| driver.offers());
    let _ = (Cuda::from_tag(text), Cuda::from_version(text));
});
