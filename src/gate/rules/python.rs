//! Is the Python still maintained?

use jiff::civil::{Date, date};

use super::warning;
use crate::gate::{Finding, Item, version::numbers};

/// The minor versions of Python 3 and the day that each ended or ends (Python Developer's Guide,
/// "Status of Python versions").
const ENDS: &[(u32, Date)] = &[
    (5, date(2020, 9, 30)),
    (6, date(2021, 12, 23)),
    (7, date(2023, 6, 27)),
    (8, date(2024, 10, 7)),
    (9, date(2025, 10, 31)),
    (10, date(2026, 10, 31)),
    (11, date(2027, 10, 31)),
    (12, date(2028, 10, 31)),
    (13, date(2029, 10, 31)),
    (14, date(2030, 10, 31)),
];

pub(super) fn finding(items: &[Item], today: Date) -> Option<Finding> {
    let python = items.iter().find(|item| item.is_conda("python"))?;
    let version = numbers(&python.version);
    let (major, minor) = (*version.first()?, *version.get(1)?);
    let end = match major {
        2 => date(2020, 1, 1),
        3 => ENDS.iter().find(|(its, _)| *its == minor)?.1,
        _ => return None,
    };
    if today <= end {
        return None;
    }
    let maintained = ENDS
        .iter()
        .find(|(_, end)| today <= *end)
        .map_or("a newer Python".to_owned(), |(minor, _)| {
            format!("python 3.{minor} or later")
        });
    let message = format!("Python {major}.{minor} has had no security fixes since {end}");
    let fix = format!("ask for {maintained}, where your packages have builds for it");
    Some(warning("python-eol", message, fix).at(python))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_is_after_the_one_before() {
        assert!(
            ENDS.windows(2)
                .all(|pair| pair[0].0 + 1 == pair[1].0 && pair[0].1 < pair[1].1)
        );
    }
}
