use std::io::{Read, Write};

use proptest::prelude::*;
use zstd::stream::raw::CParameter;

use super::{BlockReader, splice::Splicer};

/// Bytes with matches near and far, of some kinds, which change as those in a real file do.
fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes = vec![7_u8];
    let (mut first, mut kinds, mut until) = (0, 8, 0);
    while bytes.len() < length {
        if bytes.len() >= until {
            (first, kinds) = (next() % 8, next() % 8 + 1);
            until = bytes.len() + (next() % (1 << 18)) as usize;
        }
        let kind = (first + next() % kinds) % 8;
        let some = (next() % 300) as usize + 3;
        match kind {
            0 => bytes.extend((0..some).map(|_| next() as u8)),
            1 => bytes.extend(std::iter::repeat_n(
                next() as u8,
                some * (next() % 40) as usize,
            )),
            2 | 3 => bytes.extend((0..some).map(|_| b"etaoin shrdlu"[(next() % 13) as usize])),
            _ => {
                let back = 1 + next() as usize % bytes.len().min(1 << (next() % 20));
                let from = bytes.len() - back;
                (0..some).for_each(|i| bytes.push(bytes[from + i]));
            }
        }
    }
    bytes.truncate(length);
    bytes
}

fn pack(bytes: &[u8], level: i32, window: u32) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), level).unwrap();
    let log = CParameter::WindowLog(window);
    encoder.set_parameter(log).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A frame of the file that lies in `packed` from `start` to `end`, and how many blocks of it
/// were copied.
fn splice(packed: &[u8], start: usize, end: usize) -> (Vec<u8>, Vec<u8>, usize) {
    let mut reader = BlockReader::new(packed).unwrap();
    let tape = reader.tape();
    let mut before = vec![0; start];
    reader.read_exact(&mut before).unwrap();
    let mut file = reader.by_ref().take((end - start) as u64);
    let mut out = Vec::new();
    let mut splicer = Splicer::new(tape.window().unwrap(), 1, &mut out).unwrap();
    let (mut taken, mut copied) = (Vec::new(), 0);
    let mut buffer = vec![0; 128 << 10];
    loop {
        let read = splicer.read(&mut file, &tape, &mut buffer, &mut out);
        let (n, was_taken) = read.unwrap();
        if !was_taken {
            break;
        }
        taken.extend_from_slice(&buffer[..n]);
        copied += usize::from(splicer.is_copying());
    }
    splicer.finish(&mut out).unwrap();
    (out, taken, copied)
}

#[test]
fn what_is_read_is_what_was_packed() {
    let bytes = content(5, 700_000);
    let mut packed = pack(&bytes, 3, 17);
    // A frame without content, and one of another kind.
    packed.extend_from_slice(&[0x5E, 0x2A, 0x4D, 0x18, 3, 0, 0, 0, 1, 2, 3]);
    packed.extend_from_slice(&zstd::bulk::compress(&bytes, 9).unwrap());
    let mut back = Vec::new();
    let mut reader = BlockReader::new(&packed[..]).unwrap();
    reader.read_to_end(&mut back).unwrap();
    assert!(back == [&bytes[..], &bytes[..]].concat());
    // The whole content is the second one's window.
    assert_eq!(reader.tape().window(), None);
}

#[test]
fn damaged_frames_are_refused() {
    let packed = pack(&content(6, 400_000), 3, 17);
    let read = |bytes: &[u8]| {
        let mut reader = BlockReader::new(bytes).unwrap();
        reader.read_to_end(&mut Vec::new())
    };
    assert!(read(&packed).is_ok());
    for end in [0, 3, 5, 8, 1000, packed.len() - 2] {
        assert!(read(&packed[..end]).is_err(), "{end}");
    }
    for at in [0, 6, 2000, packed.len() - 1] {
        let mut packed = packed.clone();
        packed[at] ^= 0x86;
        assert!(read(&packed).is_err(), "{at}");
    }
}

#[test]
fn reading_on_after_an_error_is_no_fault() {
    let mut packed = pack(&content(6, 400_000), 3, 17);
    let middle = packed.len() / 2;
    packed[middle..middle + 2000].fill(0xFF);
    let mut reader = BlockReader::new(&packed[..]).unwrap();
    let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
    assert_ne!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    // Whatever it says: it must not be out of bounds.
    let _ = reader.read(&mut [0; 10]);
}

#[test]
fn most_of_a_long_file_is_copied() {
    let bytes = content(7, 3_000_000);
    for level in [1, 3, 9, 16, 19] {
        let packed = pack(&bytes, level, 17);
        let (spliced, taken, copied) = splice(&packed, 100_001, 2_900_000);
        assert!(zstd::decode_all(&spliced[..]).unwrap() == taken);
        assert_eq!(taken, bytes[100_001..][..taken.len()]);
        // Of the 20 blocks two are for the window, and the last is not the file's alone.
        assert!(copied >= 15, "level {level}: {copied}");
    }
}

#[test]
fn blocks_of_a_frame_with_another_window_are_not_taken() {
    let bytes = content(8, 2_000_000);
    let packed = [
        pack(&bytes[..100_000], 3, 17),
        pack(&bytes[100_000..], 3, 20),
    ]
    .concat();
    let (spliced, taken, copied) = splice(&packed, 1000, 2_000_000);
    assert!(zstd::decode_all(&spliced[..]).unwrap() == taken);
    assert_eq!(copied, 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn a_spliced_frame_holds_the_file(
        seed: u64, level in 1..20_i32, window in 10..19_u32,
        length in 100..600_000_usize, from in 1..100_usize, to in 1..100_usize,
    ) {
        let bytes = content(seed, length);
        let (start, end) = (length * from.min(to) / 100, length * from.max(to) / 100);
        let packed = pack(&bytes, level, window);
        let (spliced, taken, _) = splice(&packed, start, end);
        prop_assert!(bytes[start..end].starts_with(&taken));
        prop_assert!(zstd::decode_all(&spliced[..]).unwrap() == taken);
    }
}
