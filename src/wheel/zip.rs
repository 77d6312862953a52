//! The zip of a wheel, read in the one way that every reader agrees on.
//!
//! A zip says everything twice, in local headers and in the central directory, and readers that
//! follow one or the other can be shown different files (CVE-2025-54368). Here the archive must
//! be its members one after another, the central directory and its end, byte for byte: nothing
//! before, between or behind them, and no contradiction. Every wheel that the usual tools write
//! is such a file.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use jiff::{civil::DateTime, tz::TimeZone};
use zip::{
    CompressionMethod, ZipArchive,
    read::{ArchiveOffset, Config, ZipFile},
};

use super::{WheelError, paths::check_name};

mod directory;
mod end;

use directory::Header;
use end::{End, Fields};

/// The archive of a wheel on disk.
pub(super) type Zip = ZipArchive<BufReader<File>>;

/// One file of the archive.
#[derive(Clone, Debug)]
pub(super) struct Member {
    /// Its place in the central directory.
    pub index: usize,
    /// Its name, safe as a relative path.
    pub name: String,
    /// The size of its content in bytes.
    pub size: u64,
    /// Whether anyone may execute it. pip asks for the mode's file type as well, which some
    /// writers leave out; uv does not.
    pub executable: bool,
    /// Seconds since the epoch; none where the archive's time is not believable.
    pub mtime: Option<u64>,
}

/// The start of the MS-DOS time of zips, 1980-01-01T00:00:00Z: what a writer without a clock puts
/// there, and what a file gets whose time is not believable.
pub(super) const ZIP_EPOCH: u64 = 315_532_800;

/// Times are believable from a day after [`ZIP_EPOCH`], as time zones blur it, and as long as
/// they are signed 32-bit seconds. The clock is not asked: it would make layers depend on it.
const BELIEVABLE: std::ops::RangeInclusive<u64> = ZIP_EPOCH + 86_400..=i32::MAX as u64;

/// Opens an archive that [`read`] has accepted before.
pub(super) fn open(path: &Path) -> Result<Zip, WheelError> {
    Ok(ZipArchive::with_config(AT_START, buffered(path)?)?)
}

/// Checks an archive and lists its files in the central directory's order.
pub(super) fn read(path: &Path) -> Result<Vec<Member>, WheelError> {
    checked(&mut buffered(path)?)
}

const AT_START: Config = Config {
    archive_offset: ArchiveOffset::Known(0),
};

fn buffered(path: &Path) -> Result<BufReader<File>, WheelError> {
    Ok(BufReader::with_capacity(1 << 13, File::open(path)?))
}

/// The files of an archive that can be read in one way only.
fn checked(reader: &mut (impl Read + Seek)) -> Result<Vec<Member>, WheelError> {
    let end = End::read(reader)?;
    let mut directory = vec![0; end.directory_size];
    reader.seek(SeekFrom::Start(end.directory_start))?;
    reader.read_exact(&mut directory)?;
    let headers = directory::parse(&directory)?;
    let mut zip = ZipArchive::with_config(AT_START, &mut *reader)?;
    let same_end = zip.central_directory_start() == end.directory_start
        && zip.len() as u64 == end.entries
        && headers.len() as u64 == end.entries;
    if !same_end || zip.has_duplicate_names() {
        return Err(WheelError::new(
            "its central directory has a name twice, or not as many as it says",
        ));
    }
    zip.validate_header_consistency()?;
    let spans = spans(&mut zip, &headers, end.directory_start)?;
    let members = members(&mut zip)?;
    gapless(reader, spans, end.directory_start)?;
    Ok(members)
}

/// Where a member's header and data lie.
struct Span {
    start: u64,
    end: u64,
    /// The CRC-32 and the two sizes that follow the data, where they do.
    described: Option<(u32, u64, u64)>,
}

fn spans<R: Read + Seek>(
    zip: &mut ZipArchive<R>,
    headers: &[Header<'_>],
    directory_start: u64,
) -> Result<Vec<Span>, WheelError> {
    let mut spans = Vec::with_capacity(headers.len());
    for (index, header) in headers.iter().enumerate() {
        let file = zip.by_index_raw(index)?;
        if file.name_raw() != header.name
            || file.central_header_start() != directory_start + header.start
        {
            return Err(unclear(header, "has a second name"));
        }
        let stored = file.compression() == CompressionMethod::Stored;
        if !stored && file.compression() != CompressionMethod::Deflated {
            return Err(unclear(header, "is neither stored nor deflated"));
        }
        if stored && file.size() != file.compressed_size() {
            return Err(unclear(header, "is stored with two sizes"));
        }
        let data = file.data_start();
        let end = data.and_then(|start| start.checked_add(file.compressed_size()));
        let described = (file.crc32(), file.compressed_size(), file.size());
        spans.push(Span {
            start: file.header_start(),
            end: end.ok_or_else(gap)?,
            described: header.described.then_some(described),
        });
    }
    spans.sort_unstable_by_key(|span| span.start);
    Ok(spans)
}

/// Follows the members from the first byte to the central directory.
fn gapless(
    reader: &mut (impl Read + Seek),
    spans: Vec<Span>,
    directory_start: u64,
) -> Result<(), WheelError> {
    let mut cursor = 0;
    let nexts: Vec<u64> = spans.iter().skip(1).map(|span| span.start).collect();
    let nexts = nexts.into_iter().chain([directory_start]);
    for (span, next) in spans.into_iter().zip(nexts) {
        if span.start != cursor {
            return Err(gap());
        }
        let between = next.checked_sub(span.end).ok_or_else(gap)?;
        match span.described {
            None if between == 0 => {}
            Some(sizes) if between == 16 || between == 24 => {
                reader.seek(SeekFrom::Start(span.end))?;
                let mut bytes = Vec::with_capacity(24);
                reader.take(between).read_to_end(&mut bytes)?;
                if descriptor(&bytes) != Some(sizes) {
                    return Err(WheelError::new(
                        "a file has other sizes behind its data than in the central directory",
                    ));
                }
            }
            _ => return Err(gap()),
        }
        cursor = next;
    }
    if cursor == directory_start {
        Ok(())
    } else {
        Err(gap())
    }
}

/// The CRC-32 and the sizes of a data descriptor with its signature (APPNOTE.TXT 4.3.9).
fn descriptor(bytes: &[u8]) -> Option<(u32, u64, u64)> {
    let long = bytes.len() == 24;
    let mut fields = Fields(bytes);
    if fields.u32()? != 0x0807_4b50 {
        return None;
    }
    let crc32 = fields.u32()?;
    let mut size = || {
        if long {
            fields.u64()
        } else {
            fields.u32().map(u64::from)
        }
    };
    Some((crc32, size()?, size()?))
}

fn members<R: Read + Seek>(zip: &mut ZipArchive<R>) -> Result<Vec<Member>, WheelError> {
    let mut members = Vec::with_capacity(zip.len());
    let mut folders = Vec::new();
    for index in 0..zip.len() {
        let file = zip.by_index_raw(index)?;
        let name = std::str::from_utf8(file.name_raw()).map_err(|_| {
            let name = String::from_utf8_lossy(file.name_raw());
            WheelError(format!("the name {name} is not UTF-8"))
        })?;
        let folder = name.strip_suffix('/');
        check_name(folder.unwrap_or(name))?;
        check_type(&file, name, folder.is_some())?;
        match folder {
            Some(folder) => folders.push(folder.to_owned()),
            None => members.push(Member {
                index,
                name: name.to_owned(),
                size: file.size(),
                executable: mode(&file) & 0o111 != 0,
                mtime: file.last_modified().and_then(seconds),
            }),
        }
    }
    refuse_files_as_folders(&members, &folders)?;
    Ok(members)
}

/// The Unix mode. Like Python's zipfile, and unlike the zip crate, without looking at the system
/// that is said to have made the entry.
fn mode<R: Read>(file: &ZipFile<'_, R>) -> u32 {
    file.external_attributes() >> 16
}

fn check_type<R: Read>(file: &ZipFile<'_, R>, name: &str, folder: bool) -> Result<(), WheelError> {
    const TYPE: u32 = 0o170_000;
    let wanted = if folder { 0o040_000 } else { 0o100_000 };
    let kind = mode(file) & TYPE;
    if kind != 0 && kind != wanted {
        return Err(WheelError(format!(
            "{name} is neither a file nor a folder (mode {:o})",
            mode(file)
        )));
    }
    if folder && file.size() != 0 {
        return Err(WheelError(format!("the folder {name} has content")));
    }
    Ok(())
}

fn refuse_files_as_folders(members: &[Member], folders: &[String]) -> Result<(), WheelError> {
    let files: BTreeSet<&str> = members.iter().map(|member| member.name.as_str()).collect();
    let in_files = members.iter().flat_map(|member| parents(&member.name));
    let in_folders = folders
        .iter()
        .flat_map(|folder| parents(folder).chain([folder.as_str()]));
    match in_files.chain(in_folders).find(|path| files.contains(path)) {
        Some(path) => Err(WheelError(format!("{path} is a file and a folder"))),
        None => Ok(()),
    }
}

fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').filter_map(|(at, _)| path.get(..at))
}

/// The time in an archive as if it were UTC: a zip has local times and does not say whose.
fn seconds(time: zip::DateTime) -> Option<u64> {
    let part = |value: u8| i8::try_from(value).ok();
    let civil = DateTime::new(
        i16::try_from(time.year()).ok()?,
        part(time.month())?,
        part(time.day())?,
        part(time.hour())?,
        part(time.minute())?,
        part(time.second().min(59))?,
        0,
    );
    let utc = civil.ok()?.to_zoned(TimeZone::UTC).ok()?;
    u64::try_from(utc.timestamp().as_second())
        .ok()
        .filter(|seconds| BELIEVABLE.contains(seconds))
}

fn unclear(header: &Header<'_>, what: &str) -> WheelError {
    let name = String::from_utf8_lossy(header.name);
    WheelError(format!("{name} {what}"))
}

fn gap() -> WheelError {
    WheelError::new("its zip has bytes that belong to no file, or to two")
}

#[cfg(test)]
mod tests;
