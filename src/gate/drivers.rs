//! The lowest drivers of each CUDA version.

use super::version::{Cuda, numbers};

/// A toolkit's own driver on Linux: with it, all of the toolkit works (NVIDIA, CUDA Toolkit
/// release notes, table "CUDA Toolkit and Corresponding Driver Versions", the first release of
/// each version).
const TOOLKITS: &[(u32, u32, &str)] = &[
    (9, 0, "384.81"),
    (9, 1, "390.46"),
    (9, 2, "396.26"),
    (10, 0, "410.48"),
    (10, 1, "418.39"),
    (10, 2, "440.33"),
    (11, 0, "450.51.05"),
    (11, 1, "455.23"),
    (11, 2, "460.27.03"),
    (11, 3, "465.19.01"),
    (11, 4, "470.42.01"),
    (11, 5, "495.29.05"),
    (11, 6, "510.39.01"),
    (11, 7, "515.43.04"),
    (11, 8, "520.61.05"),
    (12, 0, "525.60.13"),
    (12, 1, "530.30.02"),
    (12, 2, "535.54.03"),
    (12, 3, "545.23.06"),
    (12, 4, "550.54.14"),
    (12, 5, "555.42.02"),
    (12, 6, "560.28.03"),
    (12, 8, "570.26"),
    (12, 9, "575.51.03"),
    (13, 0, "580.65.06"),
    (13, 1, "590.44.01"),
    (13, 2, "595.45.04"),
];

/// The lowest driver of a major version by minor-version compatibility (the same notes, table
/// "Minimum Required Driver Version for CUDA Minor Version Compatibility"); before CUDA 11 there
/// is none.
const MAJORS: &[(u32, &str)] = &[(11, "450.80.02"), (12, "525.60.13"), (13, "580")];

/// The drivers that a CUDA version needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floors {
    /// Below it nothing runs.
    pub least: &'static str,
    /// From it on all of the toolkit works, compiling PTX included; absent when only the major
    /// version is known.
    pub toolkit: Option<&'static str>,
    /// Whether the table has this version; else both are at least what they say.
    pub known: bool,
}

/// What a CUDA version needs; `None` for versions before the table.
pub fn floors(cuda: Cuda) -> Option<Floors> {
    let newest = TOOLKITS.last()?;
    let major = MAJORS.iter().find(|(major, _)| *major == cuda.major);
    let Some(minor) = cuda.minor else {
        return match major {
            Some((_, least)) => Some(Floors {
                least,
                toolkit: None,
                known: true,
            }),
            None => (cuda.major > newest.0).then_some(beyond(newest.2)),
        };
    };
    if (cuda.major, minor) > (newest.0, newest.1) {
        return Some(Floors {
            // A later minor version still runs on its major's lowest.
            least: major.map_or(newest.2, |(_, least)| least),
            ..beyond(newest.2)
        });
    }
    // A version that the table leaves out (12.7 was never released) needs what the one before it
    // needs at least.
    let (_, _, toolkit) = TOOLKITS
        .iter()
        .rev()
        .find(|entry| entry.0 == cuda.major && entry.1 <= minor)?;
    Some(Floors {
        // 11.0's own driver is older than its compatibility floor, and runs it.
        least: major.map_or(toolkit, |(_, least)| older(least, toolkit)),
        toolkit: Some(toolkit),
        known: true,
    })
}

/// The newest version whose toolkit's own driver is within what one has.
pub(super) fn newest_within(has: impl Fn(&str) -> bool) -> Option<Cuda> {
    let newest = TOOLKITS.iter().rev().find(|(.., driver)| has(driver));
    newest.map(|&(major, minor, _)| Cuda {
        major,
        minor: Some(minor),
    })
}

fn beyond(newest: &'static str) -> Floors {
    Floors {
        least: newest,
        toolkit: Some(newest),
        known: false,
    }
}

fn older(a: &'static str, b: &'static str) -> &'static str {
    if numbers(a) <= numbers(b) { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<(&'static str, Option<&'static str>, bool)> {
        let floors = floors(Cuda::from_version(text).unwrap())?;
        Some((floors.least, floors.toolkit, floors.known))
    }

    #[test]
    fn the_tables_are_nvidias() {
        for (cuda, least, toolkit) in [
            ("10.2", "440.33", "440.33"),
            ("11.0", "450.51.05", "450.51.05"),
            ("11.3", "450.80.02", "465.19.01"),
            ("11.8", "450.80.02", "520.61.05"),
            ("12.0", "525.60.13", "525.60.13"),
            ("12.1", "525.60.13", "530.30.02"),
            ("12.9", "525.60.13", "575.51.03"),
            ("13.0", "580", "580.65.06"),
            ("13.2", "580", "595.45.04"),
        ] {
            assert_eq!(of(cuda), Some((least, Some(toolkit), true)), "{cuda}");
        }
    }

    #[test]
    fn versions_between_and_beyond() {
        assert_eq!(of("12.7"), Some(("525.60.13", Some("560.28.03"), true)));
        assert_eq!(of("12"), Some(("525.60.13", None, true)));
        assert_eq!(of("13.4"), Some(("580", Some("595.45.04"), false)));
        assert_eq!(of("14.0"), Some(("595.45.04", Some("595.45.04"), false)));
        assert_eq!(of("14"), Some(("595.45.04", Some("595.45.04"), false)));
        assert_eq!(of("8.0"), None);
        assert_eq!(of("10"), None);
    }

    #[test]
    fn drivers_offer_their_own_cuda() {
        for (driver, cuda) in [
            ("350", None),
            ("450.80.02", Some("11.0")),
            ("535.104.05", Some("12.2")),
            ("580.65.06", Some("13.0")),
            ("700", Some("13.2")),
        ] {
            let driver: super::super::Driver = driver.parse().unwrap();
            let offered = driver.offers().map(|cuda| cuda.to_string());
            assert_eq!(offered.as_deref(), cuda, "{driver}");
        }
    }

    #[test]
    fn both_tables_rise() {
        let rising = |a: &str, b: &str| numbers(a) < numbers(b);
        for pair in TOOLKITS.windows(2) {
            assert!((pair[0].0, pair[0].1) < (pair[1].0, pair[1].1));
            assert!(rising(pair[0].2, pair[1].2), "{pair:?}");
        }
        assert!(MAJORS.windows(2).all(|pair| rising(pair[0].1, pair[1].1)));
    }
}
