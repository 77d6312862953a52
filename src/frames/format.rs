//! The headers of frames and blocks (RFC 8878, 3.1.1), literals and sequences (3.1.1.3).

use std::io;

/// The most bytes that one block holds, unpacked.
pub const BLOCK_MAX: usize = 128 << 10;

/// The first bytes of a frame.
pub(super) const MAGIC: u32 = 0xFD2F_B528;

/// The first bytes of a frame without content; the last four bits are anything.
pub(super) const SKIPPABLE: u32 = 0x184D_2A50;

/// Whether these are the first bytes of a frame without content.
pub(super) fn is_skippable(magic: u32) -> bool {
    magic & 0xFFFF_FFF0 == SKIPPABLE
}

/// How far back a decoder has to remember, as a frame's header says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The header's byte for it.
    pub(super) descriptor: u8,
}

impl Window {
    /// Its size in bytes.
    pub fn size(self) -> u64 {
        let base = 1_u64 << (10 + (self.descriptor >> 3));
        base + base / 8 * u64::from(self.descriptor & 7)
    }
}

/// What a frame's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// None where the whole content is the window, or a dictionary is needed.
    pub window: Option<Window>,
    /// Whether four bytes of checksum follow the last block.
    pub checksum: bool,
}

impl FrameHeader {
    /// The length of a header in bytes, magic number included, by its fifth byte.
    pub fn len(descriptor: u8) -> usize {
        let single = descriptor & 0x20 != 0;
        let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
        let content = match descriptor >> 6 {
            0 => usize::from(single),
            1 => 2,
            2 => 4,
            _ => 8,
        };
        5 + usize::from(!single) + dictionary + content
    }

    /// Reads a header of that length.
    pub fn parse(bytes: &[u8]) -> Self {
        let descriptor = bytes[4];
        let plain = descriptor & 0x23 == 0;
        Self {
            window: plain.then(|| Window {
                descriptor: bytes[5],
            }),
            checksum: descriptor & 4 != 0,
        }
    }

    /// A header that says nothing but the window.
    pub fn of(window: Window) -> [u8; 6] {
        let [a, b, c, d] = MAGIC.to_le_bytes();
        [a, b, c, d, 0, window.descriptor]
    }
}

/// The kinds of block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes as they are.
    Raw,
    /// One byte, time and again.
    Rle,
    /// Literals and sequences.
    Compressed,
}

/// The three bytes before a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockHeader {
    pub last: bool,
    pub kind: Kind,
    /// Bytes that the block unpacks to if it is [`Kind::Rle`], else those that it has.
    pub size: usize,
}

impl BlockHeader {
    pub const LEN: usize = 3;

    pub fn parse(bytes: [u8; Self::LEN]) -> io::Result<Self> {
        let [a, b, c] = bytes.map(usize::from);
        let kind = match (a >> 1) & 3 {
            0 => Kind::Raw,
            1 => Kind::Rle,
            2 => Kind::Compressed,
            _ => return Err(damaged("a block of an unknown kind")),
        };
        let size = (a | b << 8 | c << 16) >> 3;
        if size > BLOCK_MAX {
            return Err(damaged("a block that is too long"));
        }
        Ok(Self {
            last: a & 1 == 1,
            kind,
            size,
        })
    }

    pub fn bytes(self) -> [u8; Self::LEN] {
        let kind = match self.kind {
            Kind::Raw => 0,
            Kind::Rle => 1,
            Kind::Compressed => 2,
        };
        let bits = self.size << 3 | kind << 1 | usize::from(self.last);
        let [a, b, c, ..] = bits.to_le_bytes();
        [a, b, c]
    }

    /// Bytes that follow the header.
    pub fn body(self) -> usize {
        match self.kind {
            Kind::Rle => 1,
            Kind::Raw | Kind::Compressed => self.size,
        }
    }
}

/// How a table of codes is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Predefined,
    Rle,
    Described,
    /// That of an earlier block.
    Repeat,
}

/// The parts of a compressed block.
#[derive(Debug)]
pub(super) struct Sections<'a> {
    /// Whether the literals bring their own Huffman table.
    pub own_tree: bool,
    /// How many sequences there are.
    pub sequences: usize,
    /// For literal lengths, offsets and match lengths.
    pub modes: [Mode; 3],
    /// What follows the modes: tables, then the sequences' bits.
    pub rest: &'a [u8],
}

impl<'a> Sections<'a> {
    /// Finds them; None in a block that is not as the RFC says.
    pub fn of(block: &'a [u8]) -> Option<Self> {
        let (own_tree, length) = literals(block)?;
        let rest = block.get(length..)?;
        let (sequences, rest) = match *rest {
            [0, ..] => (0, &[][..]),
            [n @ 1..128, ref rest @ ..] => (usize::from(n), rest),
            [255, a, b, ref rest @ ..] => (usize::from(a) + (usize::from(b) << 8) + 0x7F00, rest),
            [a, b, ref rest @ ..] => ((usize::from(a) - 128) << 8 | usize::from(b), rest),
            _ => return None,
        };
        if sequences == 0 {
            return Some(Self {
                own_tree,
                sequences,
                modes: [Mode::Repeat; 3],
                rest,
            });
        }
        let (modes, rest) = rest.split_first()?;
        Some(Self {
            own_tree,
            sequences,
            modes: [6, 4, 2].map(|shift| match modes >> shift & 3 {
                0 => Mode::Predefined,
                1 => Mode::Rle,
                2 => Mode::Described,
                _ => Mode::Repeat,
            }),
            rest,
        })
    }

    /// Whether the block needs no table of an earlier one, and leaves none of those to a later.
    pub fn stands_alone(&self) -> bool {
        self.own_tree && !self.modes.contains(&Mode::Repeat)
    }
}

/// Whether the literals have a Huffman table with them, and the length of their section.
fn literals(block: &[u8]) -> Option<(bool, usize)> {
    let first = usize::from(*block.first()?);
    let word = |bytes: usize| -> Option<u64> {
        let mut word = [0; 8];
        word[..bytes].copy_from_slice(block.get(..bytes)?);
        Some(u64::from_le_bytes(word))
    };
    let format = first >> 2 & 3;
    if first & 3 < 2 {
        let (header, shift) = match format {
            0 | 2 => (1, 3),
            1 => (2, 4),
            _ => (3, 4),
        };
        let size = usize::try_from(word(header)? >> shift).ok()?;
        let stored = if first & 3 == 0 { size } else { 1 };
        return Some((false, header + stored));
    }
    let (header, bits) = match format {
        0 | 1 => (3, 10),
        2 => (4, 14),
        _ => (5, 18),
    };
    let stored = word(header)? >> (4 + bits) & ((1 << bits) - 1);
    Some((first & 3 == 2, header + usize::try_from(stored).ok()?))
}

pub(super) fn damaged(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("its zstd stream has {what}"),
    )
}
