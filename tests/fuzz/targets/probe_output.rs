#![no_main]
//! What a probe's container prints.

use imgbuild::{docker::Channel, probe::Output};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let mut output = Output::default();
    for (index, line) in text.lines().enumerate() {
        let channel = if index % 2 == 0 {
            Channel::Out
        } else {
            Channel::Err
        };
        let _ = output.take(channel, line);
    }
    let _ = output.stderr_tail(10);
    let _ = output.torchrun_exit(0);
});
