//! What a wheel says of itself beside name and version (PyPA, "Core metadata specifications").

use std::str::FromStr;

use pep508_rs::PackageName;
use serde::{Deserialize, Serialize};

/// The first words of the classifiers that name licences.
const LICENCES: &str = "License ::";

/// A wheel's licence and needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WheelFacts {
    /// The licence in the wheel's own words.
    pub licence: Option<String>,
    /// The names of the projects that it needs without extras, normalised.
    pub needs: Vec<String>,
}

impl WheelFacts {
    /// Reads a `METADATA` file.
    pub fn read(metadata: &str) -> Self {
        let all = |name: &'static str| {
            fields(metadata).filter(move |(key, _)| key.eq_ignore_ascii_case(name))
        };
        let first = |name| {
            all(name)
                .map(|(_, value)| value)
                .find(|value| !value.is_empty())
        };
        let unknown = |text: &&str| !text.eq_ignore_ascii_case("unknown");
        let licence = first("License-Expression").or(first("License").filter(unknown));
        let mut needs: Vec<String> = all("Requires-Dist")
            .filter_map(|(_, text)| needed(text))
            .collect();
        needs.sort();
        needs.dedup();
        Self {
            licence: licence.map(str::to_owned).or_else(|| classified(metadata)),
            needs,
        }
    }
}

/// Names and values up to the body; values that go on over several lines end at their first.
pub(super) fn fields(metadata: &str) -> impl Iterator<Item = (&str, &str)> {
    metadata
        .lines()
        .take_while(|line| !line.trim_end().is_empty())
        .filter(|line| !line.starts_with([' ', '\t']))
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.trim(), value.trim()))
}

/// The licences that classifiers name: the ends of `License :: OSI Approved :: MIT License`.
fn classified(metadata: &str) -> Option<String> {
    let named = fields(metadata)
        .filter(|(key, value)| {
            key.eq_ignore_ascii_case("Classifier") && value.starts_with(LICENCES)
        })
        .filter_map(|(_, value)| value.rsplit("::").next())
        .map(str::trim)
        .filter(|name| *name != "OSI Approved");
    let named: Vec<&str> = named.collect();
    (!named.is_empty()).then(|| named.join(", "))
}

/// The project of a requirement, unless only an extra asks for it.
fn needed(requirement: &str) -> Option<String> {
    let (spec, marker) = requirement.split_once(';').unwrap_or((requirement, ""));
    if marker
        .split(|c: char| !c.is_alphanumeric())
        .any(|word| word == "extra")
    {
        return None;
    }
    let end = spec.find(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)));
    let name = &spec[..end.unwrap_or(spec.len())];
    Some(PackageName::from_str(name).ok()?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clearest_word_on_the_licence_counts() {
        let licence = |text: &str| WheelFacts::read(text).licence;
        let expression = "Name: a\nLicense: x\nLicense-Expression: MIT OR Apache-2.0\n";
        assert_eq!(licence(expression).as_deref(), Some("MIT OR Apache-2.0"));
        let classified = "License: UNKNOWN\nClassifier: Topic :: X\n\
            Classifier: License :: OSI Approved\nClassifier: License :: OSI Approved :: MIT License\n";
        assert_eq!(licence(classified).as_deref(), Some("MIT License"));
        assert_eq!(
            licence("License: BSD\n  more of it\n").as_deref(),
            Some("BSD")
        );
        assert_eq!(licence("Name: a\n\nLicense: in the body\n"), None);
    }

    #[test]
    fn needs_of_extras_are_none() {
        let text = "Requires-Dist: NumPy (>=1.2)\nRequires-Dist: typing.Extensions>=4 ; python_version<'3.8'\n\
            Requires-Dist: pytest; extra == 'test'\nRequires-Dist: a[b]>=1\nRequires-Dist: a\n";
        assert_eq!(
            WheelFacts::read(text).needs,
            ["a", "numpy", "typing-extensions"]
        );
    }
}
