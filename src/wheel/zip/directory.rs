//! The central directory's headers as they are stored (APPNOTE.TXT 4.3.12).
//!
//! The zip crate reads them as well, but neither shows names that an extra field replaced, nor
//! bytes that no header owns.

use super::{super::WheelError, end::Fields};

/// Flags that change neither what a member is nor how it is read: the effort of the compressor,
/// sizes behind the data, and names in UTF-8 (APPNOTE.TXT 4.4.4).
const HARMLESS_FLAGS: u16 = 0x0002 | 0x0004 | DESCRIBED | UTF8;
const DESCRIBED: u16 = 0x0008;
const UTF8: u16 = 0x0800;

/// One header of the central directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header<'a> {
    /// Where it begins in the directory.
    pub start: u64,
    /// The name as it is stored.
    pub name: &'a [u8],
    /// Whether its CRC-32 and sizes follow its data.
    pub described: bool,
}

/// Parses a whole central directory.
pub(super) fn parse(directory: &[u8]) -> Result<Vec<Header<'_>>, WheelError> {
    let mut headers = Vec::new();
    let mut rest = Fields(directory);
    while !rest.0.is_empty() {
        let start = (directory.len() - rest.0.len()) as u64;
        let (name, flags, disk) =
            header(&mut rest).ok_or_else(|| WheelError::new("its central directory is damaged"))?;
        let shown = String::from_utf8_lossy(name);
        if flags & !HARMLESS_FLAGS != 0 || disk != 0 {
            return Err(WheelError(format!(
                "{shown} is encrypted, or uses a zip feature that no wheel needs"
            )));
        }
        if flags & UTF8 == 0 && !name.is_ascii() {
            return Err(WheelError(format!(
                "the name {shown} is not ASCII and not marked as UTF-8"
            )));
        }
        headers.push(Header {
            start,
            name,
            described: flags & DESCRIBED != 0,
        });
    }
    Ok(headers)
}

/// The name, the flags and the disk of the next header.
fn header<'a>(rest: &mut Fields<'a>) -> Option<(&'a [u8], u16, u16)> {
    if rest.u32()? != 0x0201_4b50 {
        return None;
    }
    let _versions = rest.u32()?;
    let flags = rest.u16()?;
    let _method_time_crc_sizes = rest.bytes(18)?;
    let name = rest.u16()?;
    let extra = rest.u16()?;
    let comment = rest.u16()?;
    let disk = rest.u16()?;
    let _attributes_and_offset = rest.bytes(10)?;
    let name = rest.bytes(name.into())?;
    rest.bytes(extra.into())?;
    rest.bytes(comment.into())?;
    Some((name, flags, disk))
}
