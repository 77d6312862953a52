//! The repeated offsets behind a block (RFC 8878, 3.1.1.5), read from its sequences alone.

use super::{
    bits::Backward,
    format::{Mode, Sections},
    fse::Table,
};

/// A match: the bytes at `at` are those `offset` bytes before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Match {
    /// Position in the block's content.
    pub at: usize,
    /// Bytes back.
    pub offset: usize,
    /// Bytes that are equal.
    pub length: usize,
}

/// The most that a table's description may say of its accuracy.
const ACCURACY: [u32; 3] = [9, 8, 9];

/// The tables of blocks that describe none (RFC 8878, 3.1.1.3.2.2), with their accuracy.
const PREDEFINED: [(&[i32], u32); 3] = [
    (
        &[
            4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1,
            1, 1, 1, -1, -1, -1, -1,
        ],
        6,
    ),
    (
        &[
            1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1,
            -1,
        ],
        5,
    ),
    (
        &[
            1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
            1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1,
        ],
        6,
    ),
];

/// Extra bits of the literal length codes from 16 on; the codes before are lengths.
const LITERAL_BITS: [u32; 20] = [
    1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
];

/// Extra bits of the match length codes from 32 on; the codes before are lengths less 3.
const MATCH_BITS: [u32; 21] = [
    1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
];

/// The last matches with each of the three offsets that a decoder remembers behind the block, the
/// first offset first. None where they cannot be told from this block alone.
pub(super) fn behind(block: &[u8]) -> Option<[Match; 3]> {
    let sections = Sections::of(block)?;
    let mut tables = Vec::new();
    let mut rest = sections.rest;
    for ((mode, most), (counts, accuracy)) in sections.modes.iter().zip(ACCURACY).zip(PREDEFINED) {
        let (table, after) = match mode {
            Mode::Rle => rest.split_first().map(|(c, r)| (Table::of_one(*c), r))?,
            Mode::Described => Table::read(rest, most)?,
            Mode::Predefined => (Table::of(counts, accuracy)?, rest),
            Mode::Repeat => return None,
        };
        tables.push(table);
        rest = after;
    }
    let [literals, offsets, matches] = &tables[..] else {
        return None;
    };
    let mut bits = Backward::new(rest)?;
    let mut literal = literals.first(&mut bits)?;
    let mut offset = offsets.first(&mut bits)?;
    let mut length = matches.first(&mut bits)?;
    let mut memory = Memory::default();
    for sequence in 0..sections.sequences {
        let power = u32::try_from(offsets.code(offset)).ok()?;
        let code = (1_usize.checked_shl(power)?) + bits.take(power)? as usize;
        let matched = extra(matches.code(length), 32, &MATCH_BITS, &mut bits)? + 3;
        let literally = extra(literals.code(literal), 16, &LITERAL_BITS, &mut bits)?;
        memory.take(code, literally, matched)?;
        if sequence + 1 < sections.sequences {
            literal = literals.next(literal, &mut bits)?;
            length = matches.next(length, &mut bits)?;
            offset = offsets.next(offset, &mut bits)?;
        }
    }
    let [Some(a), Some(b), Some(c)] = memory.last else {
        return None;
    };
    Some([a, b, c])
}

/// What a length's code stands for, with its extra bits; each code begins where the one before it
/// ends.
fn extra(code: usize, plain: usize, widths: &[u32], bits: &mut Backward<'_>) -> Option<usize> {
    let Some(step) = code.checked_sub(plain) else {
        return Some(code);
    };
    let base: usize = widths.get(..step)?.iter().map(|width| 1 << width).sum();
    Some(plain + base + bits.take(*widths.get(step)?)? as usize)
}

#[derive(Default)]
struct Memory {
    at: usize,
    /// None where a match before the block had the offset last.
    last: [Option<Match>; 3],
}

impl Memory {
    /// Takes a sequence; `code` is the RFC's Offset_Value.
    fn take(&mut self, code: usize, literals: usize, length: usize) -> Option<()> {
        let at = self.at + literals;
        self.at = at + length;
        let [first, second, third] = self.last;
        let again = |m: Option<Match>| m.map(|m| Match { at, length, ..m });
        // Behind no literals the first offset would only lengthen the match before.
        let code = if code < 4 && literals == 0 {
            code + 1
        } else {
            code + usize::from(code > 3)
        };
        self.last = match code {
            0 => return None,
            1 => [again(first), second, third],
            2 => [again(second), first, third],
            3 => [again(third), first, second],
            4 => {
                let offset = first.map(|m| m.offset - 1);
                if offset == Some(0) {
                    return None;
                }
                let new = offset.map(|offset| Match { at, offset, length });
                [new, first, second]
            }
            code => {
                let offset = code - 4;
                let new = Some(Match { at, offset, length });
                [new, first, second]
            }
        };
        Some(())
    }
}
