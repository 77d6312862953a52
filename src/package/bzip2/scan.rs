//! Where blocks may begin: bzip2's magic numbers, at any bit.
//!
//! bzip2 has no index and aligns nothing to bytes. A magic number can also stand inside a block by
//! chance (once in some 10,000 packages of 1.5 GB), so what is found here is a guess.

/// What a magic number says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A block follows: the digits of pi.
    Block,
    /// The stream ends, with its checksum: the digits of pi's square root.
    End,
}

/// The bits of a magic number.
pub const MARK_BITS: u64 = 48;

/// The bytes that a magic number may touch.
pub const MARK_BYTES: usize = 7;

const BLOCK: u64 = 0x3141_5926_5359;
/// The end of a stream, which [`super::block`] writes too.
pub const END: u64 = 0x1772_4538_5090;

/// For each value of the second byte that a magic number touches: the bits of the first byte at
/// which one may begin.
const SHIFTS: [u8; 256] = {
    let mut shifts = [0; 256];
    let mut shift = 0;
    while shift < 8 {
        shifts[(BLOCK >> (32 + shift)) as usize & 0xff] |= 1 << shift;
        shifts[(END >> (32 + shift)) as usize & 0xff] |= 1 << shift;
        shift += 1;
    }
    shifts
};

impl Mark {
    /// The mark that these low 48 bits are.
    pub fn of(bits: u64) -> Option<Self> {
        match bits & ((1 << MARK_BITS) - 1) {
            BLOCK => Some(Self::Block),
            END => Some(Self::End),
            _ => None,
        }
    }
}

/// The first mark at or after the bit `from`, and its bit.
pub fn find(bytes: &[u8], from: u64) -> Option<(u64, Mark)> {
    let first = usize::try_from(from / 8).ok()?;
    let tail = bytes.get(first..)?;
    for (offset, second) in tail.iter().skip(1).enumerate() {
        let shifts = SHIFTS[usize::from(*second)];
        if shifts == 0 {
            continue;
        }
        let word = word(tail.get(offset..offset + MARK_BYTES)?);
        let byte = (first + offset) as u64 * 8;
        let at = |shift: u64| Some((byte + shift, Mark::of(word >> (8 - shift))?));
        let begins = |shift: &u64| shifts & (1 << shift) != 0 && byte + shift >= from;
        if let Some(found) = (0..8).filter(begins).find_map(at) {
            return Some(found);
        }
    }
    None
}

/// Up to eight bytes as one number, the first byte highest.
pub fn word(bytes: &[u8]) -> u64 {
    let shifted = |word: u64, byte: &u8| word << 8 | u64::from(*byte);
    bytes.iter().fold(0, shifted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn marks_are_found_at_every_bit() {
        for (magic, mark) in [(BLOCK, Mark::Block), (END, Mark::End)] {
            for shift in 0..64_u32 {
                let bits = u128::from(magic) << (128 - 48 - shift);
                let bytes = bits.to_be_bytes();
                assert_eq!(find(&bytes, 0), Some((u64::from(shift), mark)));
                assert_eq!(
                    find(&bytes, u64::from(shift)),
                    Some((u64::from(shift), mark))
                );
                assert_eq!(find(&bytes, u64::from(shift) + 1), None);
            }
        }
    }

    proptest! {
        #[test]
        fn the_table_misses_nothing(mut bytes: Vec<u8>, at: usize, shift in 0..8_u32) {
            let at = at % (bytes.len() + 1);
            bytes.splice(at..at, (BLOCK << (16 - shift)).to_be_bytes());
            let slowly = (0..bytes.len() as u64 * 8).find_map(|bit| {
                let byte = usize::try_from(bit / 8).unwrap();
                let word = word(bytes.get(byte..byte + MARK_BYTES)?);
                Some((bit, Mark::of(word >> (8 - bit % 8))?))
            });
            prop_assert_eq!(find(&bytes, 0), slowly);
        }
    }
}
