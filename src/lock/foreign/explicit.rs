//! `@EXPLICIT` lists: one URL a line, as `conda list --explicit` writes them (conda docs,
//! "Building identical conda environments") and `conda-lock render` does.

use rattler_conda_types::{ExplicitEnvironmentEntry, PackageArchiveHash, Subdir};
use url::Url;

use super::{
    Collected, Given, Reading,
    origin::{Checked, Origin, Refusal, refusal},
    wheel,
};
use crate::error::{Error, Result};

const HASH: &str = "write the list with hashes: conda list --explicit --sha256 (or --md5)";

/// Reads a list, line by line; rattler's own reader of whole lists knows no lines, stops at
/// blank ones and quotes URLs with their passwords.
pub(super) fn parse(reading: &Reading<'_>) -> Result<Given> {
    let mut found = Collected::default();
    let mut explicit = false;
    for (index, line) in reading.text.lines().enumerate() {
        let (number, line) = (index + 1, line.trim());
        match line.strip_prefix('#') {
            Some(comment) => self::comment(reading, number, comment.trim_start(), &mut found)?,
            None if line.is_empty() => {}
            None if line == "@EXPLICIT" => explicit = true,
            None if explicit => package(reading, number, line, &mut found)?,
            None => {
                return Err(
                    Error::input(format!("{} is not an @EXPLICIT list", reading.file))
                        .at(reading.at(number))
                        .why("something other than a comment stands before @EXPLICIT"),
                );
            }
        }
    }
    found.given(reading)
}

/// `# platform:` is conda's, `# pip NAME @ URL` conda-lock's; others say nothing.
fn comment(reading: &Reading<'_>, line: usize, text: &str, found: &mut Collected) -> Result<()> {
    if let Some(platform) = text.strip_prefix("platform:").map(str::trim)
        && platform != reading.platform.as_str()
    {
        let platform = crate::spec::source::quoted(platform);
        return Err(Error::input(format!("{} is for {platform}", reading.file))
            .at(reading.at(line))
            .why(format!("images are for {}", reading.platform))
            .hint(format!("lock the environment for {}", reading.platform)));
    }
    let Some(pip) = text.strip_prefix("pip ") else {
        return Ok(());
    };
    let name = pip.split_whitespace().next().unwrap_or_default();
    let (wheel, secret) =
        self::wheel(pip, reading.platform).map_err(|why| reading.refused(name, line, why))?;
    found.secrets |= secret;
    found.add_wheel(reading, line, wheel)
}

/// `NAME @ URL#sha256=HEX`, or with ` --hash=sha256:HEX`.
fn wheel(text: &str, platform: Subdir) -> Checked<(crate::lock::LockedWheel, bool)> {
    let Some((name, address)) = text.split_once(" @ ") else {
        return refusal(
            "it is a pip package without a URL",
            "render the list with a conda-lock that writes '# pip NAME @ URL#sha256=...'",
        );
    };
    let (url, hash) = address
        .split_once("#sha256=")
        .or_else(|| address.split_once("--hash=sha256:"))
        .map_or((address, None), |(url, hash)| (url, Some(hash.trim())));
    wheel::locked((name.trim(), None), url.trim(), hash, platform)
}

fn package(reading: &Reading<'_>, line: usize, text: &str, found: &mut Collected) -> Result<()> {
    let (address, _) = text.split_once('#').unwrap_or((text, ""));
    let file = address.rsplit('/').next().unwrap_or_default();
    let wrong = |why: Refusal| reading.refused(file, line, why);
    let origin = Origin::parse(text, reading.platform).map_err(wrong)?;
    found.secrets |= origin.secret;
    let mut record = origin.record().map_err(wrong)?;
    match hash(text).map_err(wrong)? {
        PackageArchiveHash::Md5(md5) => record.package_record.md5 = Some(md5),
        PackageArchiveHash::Sha256(sha256) => record.package_record.sha256 = Some(sha256),
    }
    found.add(reading, line, record)?;
    if let Some(channel) = found
        .records
        .last()
        .and_then(|record| record.channel.clone())
        && !found.channels.contains(&channel)
    {
        found.channels.push(channel);
    }
    Ok(())
}

fn hash(text: &str) -> Checked<PackageArchiveHash> {
    let Ok(url) = Url::parse(text) else {
        return refusal("its URL cannot be read", HASH);
    };
    match ExplicitEnvironmentEntry::from(url).package_archive_hash() {
        Ok(Some(hash)) => Ok(hash),
        Ok(None) => refusal("it has no hash, by which every package is verified", HASH),
        Err(e) => refusal(format!("what stands behind '#' is no hash: {e}"), HASH),
    }
}
