//! What each code means that an error, a warning or a probe's report carries.
//!
//! One namespace for all of imgbuild: a code that the gate gives for a lock and the probe for a
//! machine has one entry. The entries are data; [`gate`] and [`probe`] hold them by where they
//! come from. docs/codes.md is made from them.

mod gate;
mod probe;

use std::fmt;

use crate::spec::source::nearest;

/// Where a code is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `lock` and `build` refuse the lock.
    GateError,
    /// `lock` and `build` warn.
    GateWarning,
    /// A probe's failure.
    Probe,
}

/// One code and what there is to say about it.
#[derive(Debug)]
pub struct Entry {
    /// The code: short, kebab-case, never changed once released.
    pub code: &'static str,
    /// Where it is met.
    pub origins: &'static [Origin],
    /// What it means, in one line.
    pub what: &'static str,
    /// Why it happens.
    pub why: &'static str,
    /// The way out.
    pub fix: &'static str,
    /// Where the rule is written down.
    pub source: &'static str,
}

/// All codes, those of the gate first.
pub fn all() -> impl Iterator<Item = &'static Entry> {
    gate::ENTRIES.iter().chain(probe::ENTRIES)
}

/// The entry of a code.
pub fn find(code: &str) -> Option<&'static Entry> {
    all().find(|entry| entry.code == code)
}

/// The known code nearest to a misspelt one, when one is near enough to be meant.
pub fn meant(code: &str) -> Option<&'static str> {
    nearest(code, all().map(|entry| entry.code))
}

/// A code that `--allow` takes: one that `lock` and `build` give.
///
/// # Errors
/// The reason, in words.
pub fn allowable(code: &str) -> Result<&'static str, String> {
    let entry = find(code).ok_or_else(|| match meant(code) {
        Some(near) => format!("no such code; '{near}' is one"),
        None => "no such code; `imgbuild explain` lists them".to_owned(),
    })?;
    match entry.origins.iter().any(|at| *at != Origin::Probe) {
        true => Ok(entry.code),
        false => Err("it is a failure of the probe, which cannot be allowed".into()),
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GateError => "error of lock and build",
            Self::GateWarning => "warning of lock and build",
            Self::Probe => "failure of the probe",
        })
    }
}

impl Entry {
    /// Where the code is met, in words.
    pub fn origin_words(&self) -> String {
        let words: Vec<String> = self.origins.iter().map(ToString::to_string).collect();
        words.join("; ")
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({})", self.code, self.origin_words())?;
        let parts = [
            ("what", self.what),
            ("why", self.why),
            ("fix", self.fix),
            ("source", self.source),
        ];
        let lines = parts.map(|(label, text)| format!("  {label}: {text}"));
        f.write_str(&lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fmt::Write as _};

    use super::*;

    /// docs/codes.md as the entries make it.
    fn document() -> String {
        let mut text = "# Codes\n\n\
            Every finding of `lock` and `build`, and every failure of a probe, carries one of these codes.\n\
            `imgbuild explain CODE` prints the same. `--allow CODE` (`allow:` in imgbuild.yaml) turns an error of `lock`\n\
            and `build` into a warning, and leaves a warning out.\n"
            .to_owned();
        for entry in all() {
            let _ = write!(
                text,
                "\n## {}\n\n{}: {}\n\n- Why: {}\n- Fix: {}\n- Source: {}\n",
                entry.code,
                capital(&entry.origin_words()),
                entry.what,
                entry.why,
                entry.fix,
                entry.source
            );
        }
        text
    }

    fn capital(text: &str) -> String {
        let (first, rest) = text.split_at(1);
        first.to_uppercase() + rest
    }

    /// `UPDATE_DOCS=1 cargo test --lib explain` writes the file anew.
    #[test]
    fn the_document_has_every_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/codes.md");
        let made = document();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, &made).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), made);
    }

    #[test]
    fn codes_are_single_short_and_kebab() {
        let mut seen = BTreeSet::new();
        for entry in all() {
            assert!(seen.insert(entry.code), "{} twice", entry.code);
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(
                entry.code.len() <= 20 && entry.code.chars().all(plain),
                "{}",
                entry.code
            );
            for text in [entry.what, entry.why, entry.fix, entry.source] {
                assert!(!text.is_empty() && !text.contains("  "), "{}", entry.code);
            }
        }
    }

    /// What the probe's own program can say must be explained.
    #[test]
    fn every_code_of_the_probe_is_here() {
        let programs = [
            include_str!("../../templates/ddp_alone.py"),
            include_str!("../../templates/ddp_lines.py"),
            include_str!("../../templates/ddp_machine.py"),
            include_str!("../../templates/ddp_p2p.py"),
            include_str!("../../templates/ddp_probe.py"),
            include_str!("../../templates/ddp_report.py"),
            include_str!("../../templates/ddp_speed.py"),
        ];
        let raised = programs
            .iter()
            .flat_map(|text| text.split("ProbeError(\"").skip(1))
            .filter_map(|rest| rest.split('"').next());
        let table = include_str!("../../templates/ddp_report.py")
            .split_once("CODE_BY_TEXT = (")
            .and_then(|(_, rest)| rest.split_once("\n)\n"))
            .unwrap()
            .0;
        let mapped = table.split("\n    (\"").skip(1);
        let mapped = mapped.filter_map(|row| row.split('"').next());
        let codes: BTreeSet<&str> = raised.chain(mapped).collect();
        assert!(codes.len() > 15, "{codes:?}");
        for code in codes {
            assert!(find(code).is_some(), "{code}");
        }
    }

    #[test]
    fn only_codes_of_the_gate_can_be_allowed() {
        assert_eq!(allowable("driver-too-old"), Ok("driver-too-old"));
        assert!(
            allowable("driver-to-old")
                .unwrap_err()
                .contains("'driver-too-old'")
        );
        assert!(allowable("oom").unwrap_err().contains("probe"));
        assert!(
            allowable("whatever-else")
                .unwrap_err()
                .contains("imgbuild explain")
        );
    }
}
