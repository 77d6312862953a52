//! Bits of a table's description and of sequences (RFC 8878, 4.1).

/// Reads from the first bit on.
pub(super) struct Forward<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Forward<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next bits as a number; None when there are too few.
    pub fn take(&mut self, bits: u32) -> Option<u32> {
        let value = read(self.bytes, self.at, bits)?;
        self.at += bits as usize;
        Some(value)
    }

    /// Gives one bit back.
    pub fn back(&mut self) {
        self.at -= 1;
    }

    /// What follows the bytes that bits were taken of.
    pub fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at.div_ceil(8)..]
    }
}

/// Reads from the last bit on, which is the highest one that is set.
pub(super) struct Backward<'a> {
    bytes: &'a [u8],
    left: usize,
}

impl<'a> Backward<'a> {
    /// None without a last bit.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let last = bytes.last()?.checked_ilog2()? as usize;
        let left = (bytes.len() - 1) * 8 + last;
        Some(Self { bytes, left })
    }

    /// The next bits as a number; None when there are too few.
    pub fn take(&mut self, bits: u32) -> Option<u32> {
        self.left = self.left.checked_sub(bits as usize)?;
        read(self.bytes, self.left, bits)
    }
}

/// Up to 32 bits from a position, little end first.
fn read(bytes: &[u8], at: usize, bits: u32) -> Option<u32> {
    let end = at + bits as usize;
    if end > bytes.len() * 8 {
        return None;
    }
    let mut word = [0; 8];
    let from = &bytes[at / 8..bytes.len().min(at / 8 + 8)];
    word[..from.len()].copy_from_slice(from);
    let value = u64::from_le_bytes(word) >> (at % 8) & ((1 << bits) - 1);
    u32::try_from(value).ok()
}
