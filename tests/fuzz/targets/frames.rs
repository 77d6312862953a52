#![no_main]
//! zstd frames: read block by block they hold what libzstd reads, and a frame of their blocks can
//! be made from any place on. The first byte chooses the place.

use std::io::{self, Read};

use imgbuild::frames::{BLOCK_MAX, BlockReader, splice::Splicer};

/// A few bytes can be gigabytes.
const LIMIT: u64 = 16 << 20;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((first, data)) = data.split_first() else {
        return;
    };
    let reader = BlockReader::new(data).expect("memory");
    let whole = content(reader).ok();
    // libzstd takes a stream that ends early for one that goes on, and older formats.
    if let Some(whole) = &whole {
        let other = content(zstd::stream::read::Decoder::new(data).expect("memory"));
        assert!(*whole == other.expect("what libzstd read block by block"));
    }
    let _ = splice(data, usize::from(*first) * 16 + 1);
});

fn content(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    reader.take(LIMIT).read_to_end(&mut content)?;
    Ok(content)
}

fn splice(data: &[u8], start: usize) -> io::Result<()> {
    let mut reader = BlockReader::new(data)?;
    let tape = reader.tape();
    reader.read_exact(&mut vec![0; start])?;
    let Some(window) = tape.window() else {
        return Ok(());
    };
    let mut frame = Vec::new();
    let mut splicer = Splicer::new(window, 1, &mut frame)?;
    let mut buffer = vec![0; BLOCK_MAX];
    let mut left = reader.take(LIMIT);
    loop {
        if !splicer.read(&mut left, &tape, &mut buffer, &mut frame)?.1 {
            return splicer.finish(&mut frame);
        }
    }
}
