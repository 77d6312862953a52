//! The pip packages of a lock: wheels, checked by their file names (PEP 427).

use std::str::FromStr;

use pep440_rs::Version;
use pep508_rs::PackageName;
use rattler_conda_types::Subdir;
use url::Url;

use super::origin::{Checked, agrees, refusal, without_secrets};
use crate::{digest::Digest, lock::LockedWheel, machine::Machine};

const LOCK_AGAIN: &str = "lock the environment again with the tool that wrote the file";

/// A wheel as a lock names it, and whether its URL held credentials, which are left out.
pub(super) fn locked(
    (name, version): (&str, Option<&str>),
    url: &str,
    sha256: Option<&str>,
    platform: Subdir,
) -> Checked<(LockedWheel, bool)> {
    let url = address(url)?;
    let (url, secret) = without_secrets(&url);
    let mut wheel = LockedWheel {
        name: String::new(),
        version: String::new(),
        url,
        sha256: digest(sha256)?,
        size: None,
    };
    let file = wheel.file_name();
    let (named, built) = file_name(&file, platform)?;
    let own = normalized(name)?;
    agrees("name", &own, &normalized(&named)?)?;
    let said = version.unwrap_or(&built);
    match (Version::from_str(said), Version::from_str(&built)) {
        (Ok(said), Ok(built)) if said == built => {}
        _ => agrees("version", said, &built)?,
    }
    wheel.name = own;
    wheel.version = said.to_owned();
    Ok((wheel, secret))
}

fn address(text: &str) -> Checked<Url> {
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(e) => return refusal(format!("its URL cannot be read: {e}"), LOCK_AGAIN),
    };
    match url.scheme() {
        "http" | "https" | "file" => Ok(url),
        scheme => refusal(
            format!(
                "it comes from version control or another source: its URL is of scheme '{scheme}'"
            ),
            "build a wheel of it (pip wheel), and lock that by its URL or path",
        ),
    }
}

fn digest(hex: Option<&str>) -> Checked<Digest> {
    match hex.map(Digest::from_str) {
        Some(Ok(digest)) => Ok(digest),
        Some(Err(_)) => refusal("its sha256 is not one", LOCK_AGAIN),
        None => refusal(
            "it has no sha256, by which every package is verified",
            "lock it from an index that gives hashes",
        ),
    }
}

fn normalized(name: &str) -> Checked<String> {
    match PackageName::from_str(name) {
        Ok(name) => Ok(name.to_string()),
        Err(e) => refusal(format!("its name is none (PEP 508): {e}"), LOCK_AGAIN),
    }
}

/// Name and version of a wheel that can run on x86-64 Linux with glibc.
fn file_name(file: &str, platform: Subdir) -> Checked<(String, String)> {
    let Some(stem) = file.strip_suffix(".whl") else {
        return refusal(
            format!("{} is not a wheel", crate::spec::source::quoted(file)),
            "imgbuild installs wheels alone: build one of it (pip wheel), or take a version that has one",
        );
    };
    let parts: Vec<&str> = stem.split('-').collect();
    let (name, version, platforms) = match parts[..] {
        [name, version, _, _, platforms] | [name, version, _, _, _, platforms] => {
            (name, version, platforms)
        }
        _ => {
            return refusal(
                format!(
                    "{} is not a wheel's file name (PEP 427)",
                    crate::spec::source::quoted(file)
                ),
                LOCK_AGAIN,
            );
        }
    };
    let machine = Machine::of_subdir(platform).map_or("", Machine::uname);
    let usable = |tag: &str| {
        let of_machine = tag
            .strip_suffix(machine)
            .and_then(|tag| tag.strip_suffix('_'));
        tag == "any" || of_machine.is_some_and(|tag| tag == "linux" || tag.starts_with("manylinux"))
    };
    match platforms.split('.').any(usable) {
        true => Ok((name.to_owned(), version.to_owned())),
        false => refusal(
            format!(
                "the wheel is for {}",
                crate::spec::source::quoted(platforms)
            ),
            format!("lock the environment for {platform} (manylinux, {machine}) too"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wheels_are_what_their_file_says() {
        let sum = "a".repeat(64);
        let here = Subdir::Linux64;
        let lock = |name, version, url| locked((name, version), url, Some(&sum), here);
        let (wheel, secret) = lock(
            "Torch_X",
            Some("2.0.1+cu118"),
            "https://u:pw@h/whl/torch_x-2.0.1%2Bcu118-cp311-cp311-manylinux_2_28_x86_64.whl",
        )
        .unwrap();
        assert!(secret);
        assert_eq!((&*wheel.name, &*wheel.version), ("torch-x", "2.0.1+cu118"));
        assert_eq!(wheel.url.host_str(), Some("h"));
        assert!(!wheel.url.as_str().contains("pw"));
        for (name, version, url, words) in [
            ("a", None, "https://h/a-1.tar.gz", "is not a wheel"),
            ("a", None, "https://h/a-1.whl", "not a wheel's file name"),
            ("a", None, "git+https://h/a.git@main", "scheme 'git+https'"),
            ("a", None, "./a", "cannot be read"),
            (
                "a",
                None,
                "https://h/b-1-py3-none-any.whl",
                "name a, its file name b",
            ),
            (
                "a",
                Some("2"),
                "https://h/a-1-py3-none-any.whl",
                "version 2, its file name 1",
            ),
            (
                "a",
                None,
                "https://h/a-1-cp311-cp311-win_amd64.whl",
                "for 'win_amd64'",
            ),
            (
                "a",
                None,
                "https://h/a-1-cp311-cp311-musllinux_1_2_x86_64.whl",
                "musllinux",
            ),
            (
                "a",
                None,
                "https://h/a-1-cp311-cp311-manylinux2014_aarch64.whl",
                "aarch64",
            ),
            ("..", None, "https://h/a-1-py3-none-any.whl", "PEP 508"),
        ] {
            let why = lock(name, version, url).unwrap_err().why;
            assert!(why.contains(words), "{url}: {why}");
        }
        let tags = "https://h/a-1.0-2-cp311-abi3-macosx_11_0_x86_64.manylinux1_x86_64.whl";
        assert_eq!(lock("a", Some("1"), tags).unwrap().0.version, "1");
        let arm = "https://h/a-1-cp311-cp311-manylinux2014_aarch64.whl";
        let on_arm = |url| locked(("a", None), url, Some(&sum), Subdir::LinuxAarch64);
        assert_eq!(on_arm(arm).unwrap().0.version, "1");
        let why = on_arm("https://h/a-1-cp311-cp311-linux_x86_64.whl").unwrap_err();
        assert!(why.hint.contains("linux-aarch64"), "{}", why.hint);
        let url = "https://h/a-1-py3-none-any.whl";
        assert!(
            locked(("a", None), url, None, here)
                .unwrap_err()
                .why
                .contains("no sha256")
        );
        assert!(
            locked(("a", None), url, Some("ff"), here)
                .unwrap_err()
                .why
                .contains("not one")
        );
    }
}
