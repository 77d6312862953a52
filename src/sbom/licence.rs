//! From what a package says of its licence to what SPDX takes (SPDX 2.3, clause 7.15 and annex D).

use std::collections::BTreeMap;

use spdx::{Expression, LicenseItem, ParseMode};

use crate::digest::Digest;

/// SPDX's word for what is not known.
pub(super) const NOASSERTION: &str = "NOASSERTION";
/// The start of the names of licences that are not in SPDX's list.
const REFERENCE: &str = "LicenseRef-";
/// How much of a licence's own words goes into its name.
const NAME_LENGTH: usize = 40;

/// Strict, but for the identifiers that SPDX has since replaced: channels are full of them.
const MODE: ParseMode = ParseMode {
    allow_deprecated: true,
    ..ParseMode::STRICT
};

/// Licences that are not in SPDX's list: what packages say of each, by name.
pub(super) type Texts = BTreeMap<String, String>;

/// The licence as an SPDX expression. Words that are none become a name of their own, and are
/// kept under it.
pub(super) fn expression(said: Option<&str>, texts: &mut Texts) -> String {
    let Some(said) = said.map(str::trim).filter(|said| !said.is_empty()) else {
        return NOASSERTION.to_owned();
    };
    if let Some((expression, references)) = parsed(said) {
        for name in references {
            texts.entry(name).or_insert_with(|| said.to_owned());
        }
        return expression;
    }
    let name = reference(said);
    texts.entry(name.clone()).or_insert_with(|| said.to_owned());
    name
}

/// An expression, and the names in it that SPDX does not know. Words that may mean more than one
/// licence ("BSD") are none: which is meant is not guessed.
fn parsed(said: &str) -> Option<(String, Vec<String>)> {
    let read = |text: String| Some((Expression::parse_mode(&text, MODE).ok()?, text));
    // Cargo's old way to say OR, which other packagers took over.
    let slashes = || read(said.replace('/', " OR "));
    let (parsed, text) = read(said.to_owned()).or_else(slashes)?;
    let mut references = Vec::new();
    for requirement in parsed.requirements() {
        match &requirement.req.license {
            LicenseItem::Spdx { .. } => {}
            // One of another document cannot be looked up there.
            LicenseItem::Other(other) if other.doc_ref.is_some() => return None,
            LicenseItem::Other(other) => references.push(format!("{REFERENCE}{}", other.lic_ref)),
        }
    }
    Some((operators(&text), references))
}

/// SPDX 2.3 has operators in capitals only; no identifier is one of these words.
fn operators(text: &str) -> String {
    let mut upper = String::with_capacity(text.len());
    for word in text.split_inclusive([' ', '(', ')']) {
        let bare = word.trim_end_matches([' ', '(', ')']);
        match ["and", "or", "with"].contains(&bare.to_lowercase().as_str()) {
            true => upper.push_str(&word.to_uppercase()),
            false => upper.push_str(word),
        }
    }
    upper
}

/// A name that is the same for the same words, and another for others.
fn reference(said: &str) -> String {
    let mut name = String::new();
    for c in said.chars().take(NAME_LENGTH) {
        match c {
            c if c.is_ascii_alphanumeric() || c == '.' => name.push(c),
            _ if !name.ends_with('-') => name.push('-'),
            _ => {}
        }
    }
    let hash = Digest::of(said.as_bytes()).hex();
    format!("{REFERENCE}{}-{:.8}", name.trim_matches('-'), hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_stay_and_words_get_names() {
        let mut texts = Texts::new();
        let mut said = |text: &str| expression(Some(text), &mut texts);
        for good in [
            "MIT",
            "GPL-2.0-or-later WITH GCC-exception-2.0",
            "(MIT OR Apache-2.0) AND BSD-3-Clause",
            "LGPL-2.1",
        ] {
            assert_eq!(said(good), good);
        }
        assert_eq!(said("MIT and (ISC or Zlib)"), "MIT AND (ISC OR Zlib)");
        assert_eq!(said("MIT/Apache-2.0"), "MIT OR Apache-2.0");
        assert_eq!(
            said("LicenseRef-NVIDIA AND MIT"),
            "LicenseRef-NVIDIA AND MIT"
        );
        let own = said("PSF 2.0, see (file)");
        assert!(own.starts_with("LicenseRef-PSF-2.0-see-file-"), "{own}");
        assert_ne!(own, said("PSF 2.0. see (file)"));
        assert_eq!(texts["LicenseRef-NVIDIA"], "LicenseRef-NVIDIA AND MIT");
        assert_eq!(texts[&own], "PSF 2.0, see (file)");
    }

    #[test]
    fn silence_is_no_assertion() {
        let mut texts = Texts::new();
        for none in [None, Some(""), Some("  ")] {
            assert_eq!(expression(none, &mut texts), NOASSERTION);
        }
        assert!(texts.is_empty());
    }
}
