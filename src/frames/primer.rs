//! Blocks that make a decoder remember given offsets.

use super::{
    format::{BlockHeader, Kind},
    offsets::Match,
};

/// The longest match whose code has no extra bits.
const PLAIN_MATCH: usize = 34;

/// Writes the bytes from the earliest of the matches on as blocks of one sequence each. Behind
/// them a decoder remembers the matches' offsets, the first one's first.
pub(super) fn write(matches: [Match; 3], content: &[u8], out: &mut Vec<u8>) {
    let [first, second, third] = matches;
    for (this, end) in [
        (third, second.at),
        (second, first.at),
        (first, content.len()),
    ] {
        write_one(this, &content[..end], out);
    }
}

/// A block of one match and the literals behind it, up to the content's end. All three tables are
/// of one code (RFC 8878, 3.1.1.3.2.1), so the only bits are the offset's.
fn write_one(this: Match, content: &[u8], out: &mut Vec<u8>) {
    let length = this.length.min(PLAIN_MATCH);
    let literals = &content[this.at + length..];
    // Offset_Value: 1 to 3 stand for remembered offsets.
    let offset = this.offset as u64 + 3;
    let power = offset.ilog2();
    // Its bits below the highest, and above them the mark of the last bit: the number itself.
    let bits = &offset.to_le_bytes()[..power as usize / 8 + 1];
    let mut body = Vec::with_capacity(literals.len() + 16);
    // Raw literals with 20 bits of size.
    let size = (literals.len() as u32) << 4 | 0b1100;
    body.extend_from_slice(&size.to_le_bytes()[..3]);
    body.extend_from_slice(literals);
    // One sequence, three tables of one code.
    body.extend_from_slice(&[1, 0b0101_0100, 0, power as u8, (length - 3) as u8]);
    body.extend_from_slice(bits);
    let header = BlockHeader {
        last: false,
        kind: Kind::Compressed,
        size: body.len(),
    };
    out.extend_from_slice(&header.bytes());
    out.extend_from_slice(&body);
}
