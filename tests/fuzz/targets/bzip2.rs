#![no_main]
//! `.bz2` data: cut at its blocks or decoded stream by stream, the bytes or the kind of error must
//! be the same.

use std::{
    fs::File,
    io::{self, Read},
};

use bzip2::bufread::BzDecoder;
use imgbuild::package::{Bz2Reader, Decoders};

/// A few bytes can be gigabytes.
const LIMIT: u64 = 16 << 20;

type Decoded = Result<Vec<u8>, io::ErrorKind>;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    imgbuild_fuzz::with_file(data, ".bz2", |path| {
        let file = File::open(path).expect("the file just written");
        let reader = Bz2Reader::new(file, &Decoders::new(1)).expect("a readable file");
        assert!(head(reader) == streams(data));
    });
});

fn head(reader: impl Read) -> Decoded {
    let mut content = Vec::new();
    let read = reader.take(LIMIT).read_to_end(&mut content);
    read.map(|_| content).map_err(|e| e.kind())
}

/// One stream after another, as bzip2's own tool decodes them.
fn streams(mut data: &[u8]) -> Decoded {
    let mut content = Vec::new();
    loop {
        let mut stream = BzDecoder::new(data);
        let room = LIMIT - content.len() as u64;
        let read = stream.by_ref().take(room).read_to_end(&mut content);
        read.map_err(|e| e.kind())?;
        data = stream.into_inner();
        let more = matches!(data, [b'B', b'Z', b'h', b'1'..=b'9', ..]);
        if !more || content.len() as u64 == LIMIT {
            return Ok(content);
        }
    }
}
