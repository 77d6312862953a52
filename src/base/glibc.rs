//! Which C library a base image has, read off its files.
//!
//! The library itself says its version: `GNU C Library (...) stable release version 2.36.` stands
//! in `libc.so.6`, which prints it when it is run (glibc, csu/version.c). It is the same in every
//! distribution, where package databases differ; and a base without the file has no glibc,
//! whatever a database says. Before glibc 2.34 `libc.so.6` is a link to `libc-2.31.so`.

use std::io::{self, Read};

use serde::{Deserialize, Serialize};

/// The C library of a base image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Libc {
    /// glibc of this version, such as `2.36`.
    Glibc(String),
    /// musl, which conda's packages do not run on.
    Musl,
}

impl Libc {
    /// What counts when a later file or layer says more: a musl beside a glibc, as distributions
    /// package it, changes nothing.
    pub(super) fn over(known: Option<Self>, later: Option<Self>) -> Option<Self> {
        match (&known, &later) {
            (_, None) | (Some(Self::Glibc(_)), Some(Self::Musl)) => known,
            _ => later,
        }
    }
}

/// What glibc says before its version.
const BANNER: &[u8] = b"GNU C Library";
/// What stands right before the version.
const RELEASE: &[u8] = b"release version ";
/// The longest distance from the banner's start to the version's end.
const LONGEST_BANNER: usize = 256;
/// How much is read at a time.
const CHUNK: usize = 64 << 10;

/// The C library that a file of a layer is, if it is one. `path` has no leading slash.
///
/// # Errors
/// When the content cannot be read.
pub(super) fn libc_of(path: &str, content: impl Read) -> io::Result<Option<Libc>> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    if !is_library_folder(folder) {
        return Ok(None);
    }
    if name.starts_with("ld-musl-") {
        return Ok(Some(Libc::Musl));
    }
    let named = name
        .strip_prefix("libc-")
        .and_then(|rest| rest.strip_suffix(".so"))
        .and_then(version);
    if named.is_some() {
        return Ok(named.map(Libc::Glibc));
    }
    match name {
        "libc.so.6" => Ok(banner(content)?.map(Libc::Glibc)),
        _ => Ok(None),
    }
}

/// Where the loaders of 64-bit Linux look (ld.so(8)), with Debian's multiarch folders; a libc
/// elsewhere is a cross compiler's or another environment's. Two of one base have one version:
/// packages that Debian marks `Multi-Arch: same` are installed in lockstep.
fn is_library_folder(folder: &str) -> bool {
    let folder = folder.strip_prefix("usr/").unwrap_or(folder);
    matches!(
        folder,
        "lib" | "lib64" | "lib/x86_64-linux-gnu" | "lib/aarch64-linux-gnu"
    )
}

/// The version behind the banner, in constant memory.
fn banner(mut content: impl Read) -> io::Result<Option<String>> {
    let mut window = Vec::new();
    loop {
        let read = (&mut content).take(CHUNK as u64).read_to_end(&mut window)?;
        let found = find(&window, BANNER).map(|at| &window[at..]);
        let cut = found.is_some_and(|rest| rest.len() < LONGEST_BANNER);
        match found {
            Some(rest) if read == 0 || !cut => {
                let line = &rest[..rest.len().min(LONGEST_BANNER)];
                return Ok(find(line, RELEASE)
                    .map(|at| String::from_utf8_lossy(&line[at + RELEASE.len()..]))
                    .and_then(|text| version(&text)));
            }
            None if read == 0 => return Ok(None),
            _ => {}
        }
        let kept = window.len().saturating_sub(LONGEST_BANNER);
        window.drain(..kept);
    }
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|part| part == needle)
}

/// `2.36` at the start of a text.
fn version(text: &str) -> Option<String> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.'));
    let number = text[..end.unwrap_or(text.len())].trim_end_matches('.');
    let (major, minor) = number.split_once('.')?;
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    (digits(major) && minor.split('.').all(digits)).then(|| number.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glibc(version: &str) -> Option<Libc> {
        Some(Libc::Glibc(version.into()))
    }

    fn of(path: &str, content: &[u8]) -> Option<Libc> {
        libc_of(path, content).unwrap()
    }

    #[test]
    fn the_library_says_its_version() {
        let banners = [
            (
                "GNU C Library (Debian GLIBC 2.36-9+deb12u10) stable release version 2.36.\n",
                "2.36",
            ),
            (
                "GNU C Library (GNU libc) stable release version 2.28, by Roland",
                "2.28",
            ),
            (
                "GNU C Library (GNU libc) development release version 2.40.9000.\n",
                "2.40.9000",
            ),
        ];
        for (text, version) in banners {
            for before in [0, 1, CHUNK - 20, CHUNK, 3 * CHUNK + 17] {
                let mut content = vec![0x7f; before];
                content.extend(text.as_bytes());
                let found = of("usr/lib/x86_64-linux-gnu/libc.so.6", &content);
                assert_eq!(found, glibc(version), "{text} behind {before}");
                content.extend(vec![0; 2 * CHUNK]);
                assert_eq!(of("lib64/libc.so.6", &content), glibc(version));
            }
        }
    }

    #[test]
    fn names_say_it_as_well() {
        assert_eq!(of("lib/x86_64-linux-gnu/libc-2.31.so", b""), glibc("2.31"));
        assert_eq!(of("lib/aarch64-linux-gnu/libc-2.31.so", b""), glibc("2.31"));
        assert_eq!(of("usr/lib64/libc-2.17.so", b""), glibc("2.17"));
        assert_eq!(of("lib/ld-musl-x86_64.so.1", b""), Some(Libc::Musl));
    }

    #[test]
    fn other_files_say_nothing() {
        let banner = b"GNU C Library stable release version 2.36.";
        for path in [
            "opt/conda/lib/libc.so.6",
            "lib/i386-linux-gnu/libc.so.6",
            "usr/x86_64-conda-linux-gnu/sysroot/lib64/libc.so.6",
            "lib/libc.so",
            "lib/libc-client.so",
            "lib/libc-.so",
            "libc.so.6",
        ] {
            assert_eq!(of(path, banner), None, "{path}");
        }
        for content in [
            &b""[..],
            b"GNU C Library",
            b"GNU C Library release version x",
        ] {
            assert_eq!(of("lib64/libc.so.6", content), None);
        }
    }
}
