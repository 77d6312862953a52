//! Whatever the number of threads, the bytes and the errors are those of the `bzip2` crate.

use std::io::{self, Read, Write};

use ::bzip2::{Compression, read::MultiBzDecoder, write::BzEncoder};
use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;

/// The bytes that make bzip2's table of the bytes in use spell a block's magic number: bits
/// 0x3141, 0x5926 and 0x5359 for the first 48 values.
fn spelling() -> Vec<u8> {
    let bits = 0x3141_5926_5359_u64;
    (0..48).filter(|at| bits >> (47 - at) & 1 == 1).collect()
}

/// The same for the end's magic number.
fn spelling_end() -> Vec<u8> {
    let bits = scan::END;
    (0..48).filter(|at| bits >> (47 - at) & 1 == 1).collect()
}

/// No byte comes twice in a row: bzip2 writes the length of a run as one more byte.
fn random(size: usize, mut seed: u64, alphabet: &[u8]) -> Vec<u8> {
    let mut at = 0;
    let next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        at += 1 + (seed >> 33) as usize % (alphabet.len() - 1);
        alphabet[at % alphabet.len()]
    };
    std::iter::repeat_with(next).take(size).collect()
}

fn all_bytes() -> Vec<u8> {
    (0..=255).collect()
}

fn compress(content: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = BzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// Every number of threads must give this, with the crew on from the first block.
fn decode(bytes: &[u8], threads: usize) -> io::Result<Vec<u8>> {
    let mut reader = Reader::new(file(bytes), &Decoders::new(threads))?;
    if let Source::Blocks(crew, _) = &mut reader.source {
        crew.grow(u64::MAX);
    }
    let mut content = Vec::new();
    reader.read_to_end(&mut content).map(|_| content)
}

fn by_the_crate(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    MultiBzDecoder::new(bytes)
        .read_to_end(&mut content)
        .map(|_| content)
}

/// The same bytes, or an error of the same kind.
fn same_as_the_crate(bytes: &[u8]) {
    let expected = by_the_crate(bytes).map_err(|e| e.kind());
    for threads in [0, 1, 3] {
        let found = decode(bytes, threads).map_err(|e| e.kind());
        assert!(found == expected, "{threads} threads: {:?}", found.err());
    }
}

/// Content of many sizes and kinds: text-like, incompressible, long runs, none.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let size = prop_oneof![
        Just(0),
        1..2_000_usize,
        90_000..420_000_usize,
        Just(100_000),
        Just(900_000)
    ];
    (size, any::<u64>(), 0..5_u8).prop_map(|(size, seed, kind)| match kind {
        0 => random(size, seed, &all_bytes()),
        1 => random(size, seed, b"etaoin \n"),
        2 => random(size, seed, &spelling()),
        3 => random(size, seed, &spelling_end()),
        _ => vec![seed as u8; size * 3],
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn streams_one_after_another_are_decoded(parts in vec((content(), 1..=9_u32), 1..4)) {
        let bytes: Vec<u8> = parts.iter().flat_map(|(part, level)| compress(part, *level)).collect();
        let expected: Vec<u8> = parts.into_iter().flat_map(|(part, _)| part).collect();
        for threads in [0, 1, 2, 5] {
            prop_assert!(decode(&bytes, threads).unwrap() == expected, "{} threads", threads);
        }
    }

    #[test]
    fn what_is_cut_or_flipped_is_as_the_crate_has_it(
        (content, level) in (content(), 1..=9_u32), at: Index, flip in 0..8_u32, cut: bool
    ) {
        let mut bytes = compress(&content, level);
        bytes.extend(compress(b"another stream", 1));
        let at = at.index(bytes.len());
        match cut {
            true => bytes.truncate(at),
            false => bytes[at] ^= 1 << flip,
        }
        // A second stream whose "BZh" is gone is garbage for bzip2's tool, an error for the crate.
        let second = compress(&content, level).len();
        prop_assume!(!(second..second + 4).contains(&at));
        prop_assume!(!(cut && at == 0));
        same_as_the_crate(&bytes);
    }
}

#[test]
fn exact_multiples_of_a_block_and_every_level_are_decoded() {
    for level in 1..=9 {
        let block = level as usize * 100_000;
        for size in [
            block - 20,
            block - 19,
            block - 18,
            block,
            3 * block,
            3 * block + 1,
        ] {
            let content = random(size, 1 + level as u64, &all_bytes());
            assert!(decode(&compress(&content, level), 2).unwrap() == content);
        }
    }
}

#[test]
fn a_magic_number_inside_a_block_is_no_boundary() {
    for alphabet in [spelling(), spelling_end()] {
        let mut content = random(250_000, 5, &all_bytes());
        content.extend(random(450_000, 7, &alphabet));
        content.extend(random(250_000, 9, &all_bytes()));
        let bytes = compress(&content, 1);
        let marks = std::iter::successors(scan::find(&bytes, 0), |(bit, _)| {
            scan::find(&bytes, bit + 1)
        });
        // Ten blocks and an end; three or four of the blocks have a mark inside.
        let marks = marks.count();
        assert!(marks >= 13, "{marks}");
        for threads in [0, 1, 2] {
            assert!(
                decode(&bytes, threads).unwrap() == content,
                "{threads} threads"
            );
        }
    }
}

#[test]
fn a_block_of_a_long_run_is_not_held_in_memory() {
    let content = vec![0; 60_000_000];
    let bytes = compress(&content, 9);
    let span = block::Span {
        start: 32,
        end: 0,
        level: b'9',
    };
    let (end, _) = scan::find(&bytes, span.start + scan::MARK_BITS).unwrap();
    let block = block::decode(&file(&bytes), &block::Span { end, ..span }).unwrap();
    assert!(block.size > 40_000_000, "{}", block.size);
    assert!(decode(&bytes, 2).unwrap() == content);
}

#[test]
fn what_follows_the_last_stream_is_left_alone_as_by_bzip2() {
    for garbage in [&b"x"[..], b"BZ", b"BZh0", &[0; 5000]] {
        let mut bytes = compress(b"content", 9);
        bytes.extend(garbage);
        for threads in [0, 2] {
            assert_eq!(decode(&bytes, threads).unwrap(), b"content");
        }
    }
}

#[test]
fn a_stream_whose_checksum_is_wrong_is_refused() {
    let content = random(350_000, 3, &all_bytes());
    let sound = compress(&content, 1);
    let second = compress(&content[1..], 1);
    // Every block is right, the whole is not.
    for (at, bytes) in [(sound.len() - 3, &sound), (second.len() - 2, &second)] {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x55;
        let error = decode(&bytes, 2).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let text = error.to_string();
        assert!(
            text.starts_with("its bzip2 data is damaged near byte "),
            "{text}"
        );
        assert!(text.ends_with("behind 4 sound blocks"), "{text}");
    }
}

#[test]
fn nothing_and_no_bzip2_are_refused() {
    for bytes in [
        &b""[..],
        b"B",
        b"BZh9",
        b"PK\x03\x04 something else",
        &[0; 100_000],
    ] {
        for threads in [0, 2] {
            assert!(decode(bytes, threads).is_err());
        }
    }
    let empty = compress(b"", 9);
    assert_eq!(decode(&empty, 2).unwrap(), b"");
}

#[test]
fn threads_are_shared_and_given_back() {
    let decoders = Decoders::new(3);
    let bytes = compress(&random(3_000_000, 11, &all_bytes()), 1);
    let mut first = Reader::new(file(&bytes), &decoders).unwrap();
    let mut second = Reader::new(file(&bytes), &decoders).unwrap();
    let mut some = [0; 1000];
    for reader in [&mut first, &mut second] {
        reader.read_exact(&mut some).unwrap();
        assert_eq!(decoders.free(), 3, "the head is decoded by its reader");
    }
    let Source::Blocks(crew, _) = &mut first.source else {
        panic!("no blocks")
    };
    crew.grow(2 << 20);
    assert_eq!(decoders.free(), 1);
    let Source::Blocks(crew, _) = &mut second.source else {
        panic!("no blocks")
    };
    crew.grow(u64::MAX);
    assert_eq!(decoders.free(), 0);
    // A reader that is dropped amid the file ends its threads.
    drop(first);
    let free = decoders.free();
    assert!(free >= 2, "{free}");
    let mut content = Vec::new();
    second.read_to_end(&mut content).unwrap();
    drop(second);
    assert_eq!(decoders.free(), 3);
}

#[test]
fn a_large_file_gets_help_by_itself() {
    let decoders = Decoders::new(2);
    let bytes = compress(&random(6_000_000, 13, &all_bytes()), 1);
    let mut reader = Reader::new(file(&bytes), &decoders).unwrap();
    let mut head = vec![0; 1_000_000];
    reader.read_exact(&mut head).unwrap();
    assert_eq!(decoders.free(), 0);
}
