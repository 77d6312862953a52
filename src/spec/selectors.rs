//! Selectors in comments (`- cudatoolkit  # [linux64]`): conda-build's, which conda-lock reads in
//! environment files.

use std::fmt::Write as _;

use crate::machine::Machine;

/// The words that are true for every image (conda-build docs, "Preprocessing selectors").
const LINUX: [&str; 2] = ["linux", "unix"];
/// The words for other systems and machines. conda-build's `arm64` is Apple's and Windows' name.
const OTHERS: [&str; 18] = [
    "win",
    "win32",
    "win64",
    "win-64",
    "osx",
    "osx64",
    "osx-64",
    "osx-arm64",
    "arm64",
    "linux32",
    "armv6l",
    "armv7l",
    "ppc64le",
    "linux-ppc64le",
    "s390x",
    "linux-s390x",
    "emscripten",
    "wasm32",
];

/// The words of one machine.
const fn own(machine: Machine) -> &'static [&'static str] {
    match machine {
        Machine::Amd64 => &["linux64", "linux-64", "x86", "x86_64"],
        Machine::Arm64 => &["aarch64", "linux-aarch64"],
    }
}

/// The text with every line blank whose selector is for other platforms, so that places stay; and
/// a warning for each selector that is not known, whose line stays.
pub(super) fn apply(text: &str, file: &str, machine: Machine) -> (String, Vec<String>) {
    let mut kept = String::with_capacity(text.len());
    let mut warnings = Vec::new();
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let body = line.trim_end_matches(['\n', '\r']);
        match selector(body).map(|selector| (selector, holds(selector, machine))) {
            Some((_, Some(false))) => {
                // The line end alone: an empty line.
                let _ = write!(kept, "{}", &line[body.len()..]);
                continue;
            }
            Some((selector, None)) => warnings.push(format!(
                "{file}:{}: selector [{}] is not known, the line is used",
                number + 1,
                crate::spec::source::quoted(selector).trim_matches('\'')
            )),
            _ => {}
        }
        kept.push_str(line);
    }
    (kept, warnings)
}

/// What stands in brackets in a line's comment, when the line has something before it.
fn selector(line: &str) -> Option<&str> {
    let comment = comment(line)?;
    let (_, rest) = comment.split_once('[')?;
    let (inner, _) = rest.split_once(']')?;
    Some(inner.trim())
}

/// The comment after a line's content: from a `#` behind a blank and outside quotes (YAML 1.2,
/// 6.6).
fn comment(line: &str) -> Option<&str> {
    let mut quote = None;
    let mut before = ' ';
    let mut content = false;
    for (at, c) in line.char_indices() {
        match (quote, c) {
            (None, '#') if before == ' ' || before == '\t' => {
                return content.then(|| line.get(at..)).flatten();
            }
            // A quote opens where a value may begin.
            (None, '"' | '\'') if " \t[{,:-".contains(before) => quote = Some(c),
            (Some(open), _) if c == open => quote = None,
            _ => {}
        }
        content |= !c.is_whitespace();
        before = c;
    }
    None
}

/// The value of words joined by `not`, `and` and `or`; `None` when a word is not known.
fn holds(selector: &str, machine: Machine) -> Option<bool> {
    let mut any = false;
    for side in split(selector, "or") {
        let mut all = true;
        for term in split(&side, "and") {
            all &= value(&term, machine)?;
        }
        any |= all;
    }
    Some(any)
}

fn split(text: &str, word: &str) -> Vec<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let parts = words.split(|other| *other == word);
    parts.map(|part| part.join(" ")).collect()
}

fn value(term: &str, machine: Machine) -> Option<bool> {
    let of_others = |other: Machine| own(other).contains(&term);
    match term.strip_prefix("not ") {
        Some(rest) => value(rest, machine).map(|holds| !holds),
        None if LINUX.contains(&term) || own(machine).contains(&term) => Some(true),
        None if OTHERS.contains(&term) || Machine::ALL.into_iter().any(of_others) => Some(false),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(text: &str) -> (Vec<String>, Vec<String>) {
        let (kept, warnings) = apply(text, "env.yml", Machine::Amd64);
        (kept.lines().map(str::to_owned).collect(), warnings)
    }

    #[test]
    fn lines_of_other_platforms_go_and_places_stay() {
        let text = "dependencies:\n  - a  # [win]\n  - b # [linux64]\n  - c # only here [osx]\n\
                    \x20 - d # [not win]\r\n  - e # [linux and not x86_64]\r\n  - f # [osx or unix]\n\
                    # [win]\n  - \"g # [win]\"\n  - h#[win]\n  - i='#' # [win]\n  - j # see [1\n";
        let (kept, warnings) = lines(text);
        assert_eq!(
            kept,
            [
                "dependencies:",
                "",
                "  - b # [linux64]",
                "",
                "  - d # [not win]",
                "",
                "  - f # [osx or unix]",
                "# [win]",
                "  - \"g # [win]\"",
                "  - h#[win]",
                "",
                "  - j # see [1"
            ]
        );
        assert_eq!(warnings, [""; 0]);
    }

    #[test]
    fn each_machine_has_words_of_its_own() {
        let holds = |words, machine| holds(words, machine);
        for (words, amd64, arm64) in [
            ("linux", true, true),
            ("x86_64", true, false),
            ("linux64", true, false),
            ("aarch64", false, true),
            ("linux and not linux-aarch64", true, false),
            ("arm64", false, false),
        ] {
            assert_eq!(holds(words, Machine::Amd64), Some(amd64), "{words}");
            assert_eq!(holds(words, Machine::Arm64), Some(arm64), "{words}");
        }
    }

    #[test]
    fn what_is_not_known_stays_with_a_warning() {
        let (kept, warnings) = lines("- a  # [py>=38]\n- b # [win or]\n- c # []\n");
        assert_eq!(kept.len(), 3);
        assert!(kept.iter().all(|line| !line.is_empty()));
        assert_eq!(warnings.len(), 3);
        assert_eq!(
            warnings[0],
            "env.yml:1: selector [py>=38] is not known, the line is used"
        );
    }

    proptest! {
        #[test]
        fn never_panics_and_keeps_the_lines(text in "(- | #|\\[|\\]|win|not |or|and|'|\"|é|\r|\n){0,40}") {
            let (kept, _) = apply(&text, "f", Machine::Arm64);
            prop_assert_eq!(kept.matches('\n').count(), text.matches('\n').count());
        }
    }
}
