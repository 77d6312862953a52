//! The files of `*.dist-info` that say what a wheel is, and the file name that says it first.

use std::str::FromStr;

use pep440_rs::Version;
use pep508_rs::PackageName;

use super::WheelError;
use crate::lock::LockedWheel;

/// The first value of a header in `WHEEL` or `METADATA`, which are written like mail headers
/// ("Core metadata specifications"): names in any case, values over several indented lines.
/// Continued values are of no interest here and end at their first line.
pub(super) fn header<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .take_while(|line| !line.is_empty())
        .filter(|line| !line.starts_with([' ', '\t']))
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

/// Checks `WHEEL`: version 1 of the format, in any minor version, as installers must.
pub(super) fn check_wheel(text: &str) -> Result<(), WheelError> {
    let version = header(text, "Wheel-Version")
        .ok_or_else(|| WheelError::new("its WHEEL file has no Wheel-Version"))?;
    match version.split_once('.') {
        Some(("1", minor)) if minor.parse::<u32>().is_ok() => Ok(()),
        _ => Err(WheelError(format!(
            "its Wheel-Version is '{version}'; version 1 is known"
        ))),
    }
}

/// Checks that `METADATA` is of the locked project.
pub(super) fn check_metadata(text: &str, wheel: &LockedWheel) -> Result<(), WheelError> {
    let name = header(text, "Name").unwrap_or_default();
    let version = header(text, "Version").unwrap_or_default();
    if is_of(wheel, name, version) {
        Ok(())
    } else {
        Err(other(
            wheel,
            &format!("its METADATA is of {name} {version}"),
        ))
    }
}

/// Checks that a file name (`NAME-VERSION(-BUILD)-PYTHON-ABI-PLATFORM.whl`) is of the locked
/// project.
pub(super) fn check_file_name(file_name: &str, wheel: &LockedWheel) -> Result<(), WheelError> {
    let parts: Option<Vec<&str>> = file_name
        .strip_suffix(".whl")
        .map(|stem| stem.split('-').collect());
    match parts.as_deref() {
        Some([name, version, _, _, _] | [name, version, _, _, _, _])
            if is_of(wheel, name, version) =>
        {
            Ok(())
        }
        _ => Err(other(wheel, &format!("the file is called {file_name}"))),
    }
}

/// `NAME-VERSION` of the one `NAME-VERSION.dist-info` among these top-level folders.
pub(super) fn stem<'a>(
    folders: impl Iterator<Item = &'a str>,
    wheel: &LockedWheel,
) -> Result<&'a str, WheelError> {
    let mut stems = folders.filter_map(|folder| folder.strip_suffix(".dist-info"));
    let stem = stems
        .next()
        .ok_or_else(|| WheelError::new("it has no .dist-info folder"))?;
    if let Some(second) = stems.find(|second| *second != stem) {
        return Err(WheelError(format!(
            "it has two .dist-info folders, of {stem} and of {second}"
        )));
    }
    match stem.split_once('-') {
        Some((name, version)) if is_of(wheel, name, version) => Ok(stem),
        _ => Err(other(wheel, &format!("its folder is {stem}.dist-info"))),
    }
}

/// Whether a name and a version mean the locked project, in any spelling (PEP 503, PEP 440).
fn is_of(wheel: &LockedWheel, name: &str, version: &str) -> bool {
    let name = PackageName::from_str(name).is_ok_and(|name| name.as_ref() == wheel.name);
    // `-` of a version is `_` in file names.
    let parsed = |version: &str| Version::from_str(&version.replace('_', "-")).ok();
    let same = version == wheel.version
        || parsed(version).is_some_and(|version| parsed(&wheel.version) == Some(version));
    name && same
}

fn other(wheel: &LockedWheel, what: &str) -> WheelError {
    WheelError(format!("{what}, not of {} {}", wheel.name, wheel.version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn wheel(name: &str, version: &str) -> LockedWheel {
        LockedWheel {
            name: name.into(),
            version: version.into(),
            url: "https://host/x.whl".parse().unwrap(),
            sha256: Digest::of(b""),
            size: None,
        }
    }

    #[test]
    fn headers_end_at_a_blank_line() {
        let text = "Metadata-Version: 2.4\r\nNAME : a\nSummary: x\n  Version: 0\nVersion:2\n\nLicense: body";
        assert_eq!(header(text, "version"), Some("2"));
        assert_eq!(header(text, "metadata-version"), Some("2.4"));
        assert_eq!(header(text, "License"), None);
    }

    #[test]
    fn version_one_of_the_format_is_known() {
        for good in ["1.0", "1.9"] {
            assert!(check_wheel(&format!("Wheel-Version: {good}\n")).is_ok());
        }
        for bad in [
            "Wheel-Version: 2.0\n",
            "Wheel-Version: 1\n",
            "Wheel-Version: 1.x\n",
            "",
            "Tag: a\n",
        ] {
            assert!(check_wheel(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_and_versions_are_compared_in_any_spelling() {
        let torch = wheel("my-torch", "2.0.0+cu118");
        for good in [
            "my_torch-2.0.0+cu118-cp311-cp311-linux_x86_64.whl",
            "My.Torch-2.0+cu118-1-cp311-cp311-linux_x86_64.whl",
        ] {
            assert!(check_file_name(good, &torch).is_ok(), "{good}");
        }
        for bad in [
            "my_torch-2.0.0-cp311-cp311-linux_x86_64.whl",
            "torch-2.0.0+cu118-cp311-cp311-linux_x86_64.whl",
            "my_torch-2.0.0+cu118-cp311-linux_x86_64.whl",
            "my_torch-2.0.0+cu118.tar.gz",
            "",
        ] {
            assert!(check_file_name(bad, &torch).is_err(), "{bad}");
        }
        assert!(check_metadata("Name: My.Torch\nVersion: 2.0.0+cu118\n", &torch).is_ok());
        assert!(check_metadata("Name: My.Torch\n", &torch).is_err());
    }

    #[test]
    fn there_is_one_dist_info_folder() {
        let a = wheel("a", "1.0.post1");
        let found = |folders: &[&'static str]| stem(folders.iter().copied(), &a).ok();
        assert_eq!(found(&["a", "a-1.0.post1.dist-info"]), Some("a-1.0.post1"));
        let twice = ["a-1.0_post1.dist-info", "a-1.0_post1.dist-info"];
        assert_eq!(found(&twice), Some("a-1.0_post1"));
        assert_eq!(found(&["a-1.0.post1.dist-info", "b-1.dist-info"]), None);
        assert_eq!(found(&["b-1.0.post1.dist-info"]), None);
        assert_eq!(found(&["a"]), None);
    }
}
