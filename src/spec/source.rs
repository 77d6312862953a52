//! Errors that point into a text file: place, caret excerpt, and a suggestion for a misspelt word.

use std::fmt::{Display, Write as _};

use crate::{error::Error, secret::mask};

/// The longest excerpt of a line that an error shows, in characters.
const EXCERPT: usize = 100;

/// A file's name and text, as errors quote it.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The name as the user knows it, for `file:line:column`.
    pub file: &'a str,
    /// The whole text.
    pub text: &'a str,
}

/// A place in a text: line and column from 1, counted in characters; line 0 when unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

impl Source<'_> {
    /// An input error at a place, with the line quoted and a caret under the column.
    pub fn error(&self, place: Place, what: impl Into<String>, why: impl Display) -> Error {
        let error = Error::input(what);
        if place.line == 0 {
            return error.at(self.file).why(why);
        }
        let at = format!("{}:{}:{}", self.file, place.line, place.column);
        let excerpt = self.excerpt(place);
        error.at(at).why(format!("{why}\n{excerpt}"))
    }

    /// Whether there is nothing to point at.
    pub fn is_blank(&self, place: Place) -> bool {
        let line = self.text.split('\n').nth(place.line.saturating_sub(1));
        line.is_none_or(|line| line.trim().is_empty())
    }

    fn excerpt(&self, place: Place) -> String {
        let line = self.text.split('\n').nth(place.line - 1).unwrap_or("");
        let start = place.column.saturating_sub(EXCERPT * 3 / 4);
        // A control character could hide or recolour the terminal's text.
        let shown: String = mask(line)
            .chars()
            .skip(start)
            .take(EXCERPT)
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let number = place.line.to_string();
        let mut text = format!("  {number} | {}", shown.trim_end());
        let _ = write!(
            text,
            "\n  {:width$} | {:indent$}^",
            "",
            "",
            width = number.len(),
            indent = place.column.saturating_sub(1 + start),
        );
        text
    }
}

/// The known word nearest to a misspelt one, when one is near enough to be meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Longer words are no key of ours, and the distance is quadratic in their length.
    if word.chars().count() > 64 {
        return None;
    }
    known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(word, k), k))
        .filter(|(distance, k)| *distance <= 1 + k.chars().count() / 4)
        .min()
        .map(|(_, k)| k)
}

/// A word quoted for an error: shortened, control characters escaped.
pub fn quoted(word: &str) -> String {
    let mut short: String = mask(word)
        .chars()
        .take(80)
        .flat_map(|c| {
            let escaped: Vec<char> = match c.is_control() {
                true => c.escape_default().collect(),
                false => vec![c],
            };
            escaped
        })
        .collect();
    if word.chars().nth(80).is_some() {
        short.push('…');
    }
    format!("'{short}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_at_the_column() {
        let source = Source {
            file: "env.yml",
            text: "name: x\ndependencies:\n  - a\n  pytorch\n",
        };
        let place = Place { line: 4, column: 3 };
        let error = source.error(place, "malformed YAML in env.yml", "no '-'");
        assert_eq!(
            error.to_string(),
            "malformed YAML in env.yml\n  at: env.yml:4:3\n  why: no '-'\n         4 |   pytorch\n           |   ^"
        );
    }

    #[test]
    fn long_lines_and_controls_are_tamed() {
        let text = format!("{}\u{1b}[31mx{}", "a".repeat(500), "b".repeat(500));
        let source = Source {
            file: "f",
            text: &text,
        };
        let place = Place {
            line: 1,
            column: 501,
        };
        let shown = source.excerpt(place);
        assert!(!shown.contains('\u{1b}'));
        assert!(shown.lines().all(|l| l.chars().count() < 120));
        assert_eq!(quoted("a\u{0}b"), "'a\\u{0}b'");
    }

    #[test]
    fn suggests_only_near_words() {
        let known = ["entrypoint", "env", "cmd"];
        assert_eq!(nearest("entrypont", known), Some("entrypoint"));
        assert_eq!(nearest("evn", known), Some("env"));
        assert_eq!(nearest("platform", known), None);
    }
}
