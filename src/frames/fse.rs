//! Tables of finite state entropy (RFC 8878, 4.1.1).

use super::bits::{Backward, Forward};

/// More codes than any of the three kinds has.
const CODES: usize = 64;

/// One state: the code it stands for, and how to come to the next.
#[derive(Clone, Copy, Default)]
struct State {
    code: u8,
    bits: u32,
    base: u32,
}

/// A decoder's table.
pub(super) struct Table {
    states: Vec<State>,
    accuracy: u32,
}

impl Table {
    /// A table of one code that takes no bits.
    pub fn of_one(code: u8) -> Self {
        let only = State {
            code,
            ..State::default()
        };
        Self {
            states: vec![only],
            accuracy: 0,
        }
    }

    /// Reads a description; returns what follows it, too. None when it is not as the RFC says.
    pub fn read(bytes: &[u8], most: u32) -> Option<(Self, &[u8])> {
        let mut bits = Forward::new(bytes);
        let accuracy = bits.take(4)? + 5;
        if accuracy > most {
            return None;
        }
        let counts = counts(&mut bits, accuracy)?;
        Some((Self::of(&counts, accuracy)?, bits.rest()))
    }

    /// The table of codes that often; -1 is less than once.
    pub fn of(counts: &[i32], accuracy: u32) -> Option<Self> {
        let size = 1_usize << accuracy;
        let mut states = vec![State::default(); size];
        let mut high = size;
        for (code, _) in (0_u8..).zip(counts).filter(|(_, count)| **count == -1) {
            high = high.checked_sub(1)?;
            states[high].code = code;
        }
        let (step, mask) = ((size >> 1) + (size >> 3) + 3, size - 1);
        let mut at = 0;
        for (code, count) in (0_u8..).zip(counts) {
            for _ in 0..*count {
                states[at].code = code;
                loop {
                    at = (at + step) & mask;
                    if at < high || at == 0 {
                        break;
                    }
                }
            }
        }
        let mut next: Vec<u32> = counts.iter().map(|c| c.unsigned_abs()).collect();
        for state in &mut states {
            let next = next.get_mut(usize::from(state.code))?;
            state.bits = accuracy - next.checked_ilog2()?;
            state.base = (*next << state.bits) - (1 << accuracy);
            *next += 1;
        }
        Some(Self { states, accuracy })
    }

    /// The state to begin with.
    pub fn first(&self, bits: &mut Backward<'_>) -> Option<usize> {
        Some(bits.take(self.accuracy)? as usize)
    }

    /// The code that a state stands for.
    pub fn code(&self, state: usize) -> usize {
        usize::from(self.states[state].code)
    }

    /// The state after this one.
    pub fn next(&self, state: usize, bits: &mut Backward<'_>) -> Option<usize> {
        let State { bits: n, base, .. } = self.states[state];
        Some((base + bits.take(n)?) as usize)
    }
}

/// How often each code comes, of `1 << accuracy` times.
fn counts(bits: &mut Forward<'_>, accuracy: u32) -> Option<Vec<i32>> {
    let mut left = 1_i32 << accuracy;
    let mut counts = Vec::new();
    while left > 0 {
        let width = (left + 1).ilog2() + 1;
        let value = bits.take(width)?.cast_signed();
        let low = (1 << (width - 1)) - 1;
        let spare = (1 << width) - 1 - (left + 1);
        let value = if value & low < spare {
            bits.back();
            value & low
        } else if value > low {
            value - spare
        } else {
            value
        };
        let count = value - 1;
        left -= count.abs();
        counts.push(count);
        let mut more = count == 0;
        while more {
            let zeros = bits.take(2)?;
            counts.extend((0..zeros).map(|_| 0));
            more = zeros == 3;
        }
        if counts.len() > CODES {
            return None;
        }
    }
    (left == 0).then_some(counts)
}
