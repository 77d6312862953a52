//! The end of a zip: where its central directory is (APPNOTE.TXT 4.3.14 to 4.3.16).

use std::io::{Read, Seek, SeekFrom};

use super::super::WheelError;

/// The end record of a zip, without a comment.
const END: usize = 22;
/// The locator before it, where the archive is a zip64.
const LOCATOR: usize = 20;
/// The zip64 end record before that, of version 1 and without extensions.
const END64: usize = 56;

/// A central directory larger than this is refused: torch's, the largest known, has 2 MiB.
const DIRECTORY_LIMIT: u64 = 64 << 20;

/// What the last bytes of a zip say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct End {
    pub entries: u64,
    pub directory_start: u64,
    pub directory_size: usize,
}

impl End {
    /// Reads the end of an archive, which must be the end of the file.
    pub fn read(reader: &mut (impl Read + Seek)) -> Result<Self, WheelError> {
        let length = reader.seek(SeekFrom::End(0))?;
        let start = length.saturating_sub((END + LOCATOR + END64) as u64);
        reader.seek(SeekFrom::Start(start))?;
        let mut tail = Vec::with_capacity(END + LOCATOR + END64);
        reader
            .take((END + LOCATOR + END64) as u64)
            .read_to_end(&mut tail)?;
        Self::parse(&tail, length)
    }

    /// Parses the last bytes of a file of that length.
    fn parse(tail: &[u8], length: u64) -> Result<Self, WheelError> {
        let [entries, size, start] = whole(tail, length).ok_or_else(|| {
            WheelError::new("it is not a whole zip with nothing before or behind it")
        })?;
        let directory_size = usize::try_from(size)
            .ok()
            .filter(|_| size <= DIRECTORY_LIMIT);
        Ok(Self {
            entries,
            directory_start: start,
            directory_size: directory_size.ok_or_else(|| {
                WheelError(format!(
                    "its central directory has {size} bytes, {DIRECTORY_LIMIT} are the most"
                ))
            })?,
        })
    }
}

/// The number of entries, the size and the start of a directory that reaches to its end records,
/// which reach to the end of the file.
fn whole(tail: &[u8], length: u64) -> Option<[u64; 3]> {
    let (rest, end) = split_end(tail, END)?;
    let short = short_end(end)?;
    const MOST: [u64; 3] = [0xffff, 0xffff_ffff, 0xffff_ffff];
    let saturated = short.iter().zip(&MOST).any(|(value, most)| value == most);
    let (numbers, records) = if saturated {
        (long_end(rest, length)?, END + LOCATOR + END64)
    } else {
        (short, END)
    };
    // What the short record can say, it must say as the long one does.
    let mut both = short.iter().zip(&MOST).zip(&numbers);
    let agree = both.all(|((short, most), long)| short == most || short == long);
    let [_, size, start] = numbers;
    let reach = start.checked_add(size)?.checked_add(records as u64)?;
    (agree && reach == length).then_some(numbers)
}

/// The same numbers in an end record of one disk and without a comment.
fn short_end(end: &[u8]) -> Option<[u64; 3]> {
    let mut end = Fields(end);
    let one_disk = end.u32()? == 0x0605_4b50 && end.u16()? == 0 && end.u16()? == 0;
    let here = end.u16()?;
    let entries = end.u16()?;
    let [size, start] = [end.u32()?, end.u32()?];
    let no_comment = end.u16()? == 0;
    (one_disk && no_comment && here == entries).then_some([
        entries.into(),
        size.into(),
        start.into(),
    ])
}

/// The same numbers in a zip64 end record.
fn long_end(rest: &[u8], length: u64) -> Option<[u64; 3]> {
    let (rest, locator) = split_end(rest, LOCATOR)?;
    let (_, end) = split_end(rest, END64)?;
    let mut locator = Fields(locator);
    let at = length.checked_sub((END + LOCATOR + END64) as u64)?;
    let located = locator.u32()? == 0x0706_4b50
        && locator.u32()? == 0
        && locator.u64()? == at
        && locator.u32()? == 1;
    let mut end = Fields(end);
    let sized = end.u32()? == 0x0606_4b50 && end.u64()? == END64 as u64 - 12;
    let _versions = end.u32()?;
    let one_disk = end.u32()? == 0 && end.u32()? == 0;
    let here = end.u64()?;
    let long = [end.u64()?, end.u64()?, end.u64()?];
    (located && sized && one_disk && long.first() == Some(&here)).then_some(long)
}

fn split_end(bytes: &[u8], size: usize) -> Option<(&[u8], &[u8])> {
    bytes.split_at_checked(bytes.len().checked_sub(size)?)
}

/// Little-endian numbers, one after another.
pub(super) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn bytes(&mut self, size: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(size)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(entries: u16, size: u32, start: u32) -> Vec<u8> {
        let mut bytes = b"PK\x05\x06\0\0\0\0".to_vec();
        bytes.extend([entries.to_le_bytes(), entries.to_le_bytes()].concat());
        bytes.extend([size.to_le_bytes(), start.to_le_bytes()].concat());
        bytes.extend([0, 0]);
        bytes
    }

    /// A zip64's last 98 bytes; its end record is at `at`.
    fn end64(entries: u64, size: u64, start: u64, at: u64, short: &[u8]) -> Vec<u8> {
        let mut bytes = b"PK\x06\x06".to_vec();
        bytes.extend(44_u64.to_le_bytes());
        bytes.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for value in [entries, entries, size, start] {
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend(b"PK\x06\x07\0\0\0\0");
        bytes.extend(at.to_le_bytes());
        bytes.extend([1, 0, 0, 0]);
        bytes.extend(short);
        bytes
    }

    fn parsed(tail: &[u8], length: u64) -> Option<(u64, u64, usize)> {
        let end = End::parse(tail, length).ok()?;
        Some((end.entries, end.directory_start, end.directory_size))
    }

    #[test]
    fn an_end_ends_the_file() {
        assert_eq!(parsed(&end(2, 92, 100), 214), Some((2, 100, 92)));
        assert_eq!(parsed(&end(2, 92, 100), 215), None);
        assert_eq!(parsed(&end(2, 92, 100), 213), None);
        assert_eq!(parsed(&end(2, 92, 100)[1..], 213), None);
        assert_eq!(parsed(&[], 0), None);
        for at in [0, 4, 6, 8, 20] {
            let mut changed = end(2, 92, 100);
            changed[at] ^= 1;
            assert_eq!(parsed(&changed, 214), None, "byte {at}");
        }
        assert_eq!(parsed(&end(2, 70 << 20, 100), (70 << 20) + 122), None);
    }

    #[test]
    fn a_zip64_says_everything_once() {
        let length = 200 + 98;
        let good = end64(2, 92, 108, 200, &end(0xffff, 92, u32::MAX));
        assert_eq!(parsed(&good, length), Some((2, 108, 92)));
        let contradicting = end64(2, 92, 108, 200, &end(0xffff, 91, 108));
        assert_eq!(parsed(&contradicting, length), None);
        let elsewhere = end64(2, 92, 108, 100, &end(0xffff, 92, 108));
        assert_eq!(parsed(&elsewhere, length), None);
        let unasked = end64(2, 92, 108, 200, &end(2, 92, 108));
        assert_eq!(parsed(&unasked, length), None);
        assert_eq!(parsed(&end(0xffff, 92, 108), 222), None);
        for at in [0, 4, 16, 20, 24, 56, 60, 64, 72] {
            let mut changed = good.clone();
            changed[at] ^= 1;
            assert_eq!(parsed(&changed, length), None, "byte {at}");
        }
        let huge = end64(2, u64::MAX, 108, 200, &end(0xffff, u32::MAX, 108));
        assert_eq!(parsed(&huge, length), None);
    }
}
