//! What uv says when it finds no answer, in fewer words and with the way out.

use std::collections::BTreeMap;

use super::{installed::Installed, target::Target};
use crate::{
    error::{Error, Result},
    spec::{PipRequirement, PipSection},
};

/// The most lines of uv's explanation that a person reads.
const MAX_LINES: usize = 14;

/// What an error needs to know.
pub struct Context<'a> {
    /// The lines.
    pub section: &'a PipSection,
    /// The Python that they are for.
    pub target: &'a Target,
    /// What conda has.
    pub installed: &'a BTreeMap<String, Installed>,
    /// uv's version.
    pub uv: &'a str,
}

impl Context<'_> {
    /// The error that uv's stderr tells of.
    pub fn error(&self, stderr: &str) -> Error {
        let stderr = self.section.redacted(stderr);
        let text = explanation(&stderr);
        let error = match &stderr {
            said if said.contains("No solution found") => self.no_solution(&stderr, &text),
            said if said.contains("conflicting URLs") => {
                Error::input("the pip lines contradict each other").why(&text)
            }
            said if said.contains("inspect Python") || said.contains("Querying Python") => {
                self.interpreter(&text)
            }
            said if is_network(said) => Error::environment("a package index cannot be read")
                .why(&text)
                .hint("check the URL and the network, or a proxy (HTTPS_PROXY)"),
            _ => Error::input("uv cannot resolve the pip packages").why(&text),
        };
        match self.line_in(&text) {
            Some(line) => error.at(line.place()),
            None => error,
        }
    }

    fn no_solution(&self, stderr: &str, text: &str) -> Error {
        let unbuilt = [
            names_after(stderr, "Wheels are required for `"),
            names_after(stderr, "Wheels are available for `"),
        ]
        .concat();
        let conda: Vec<_> = self
            .installed
            .iter()
            .filter(|(name, _)| mentions(text, name))
            .collect();
        let error = match unbuilt.as_slice() {
            [] => Error::input("no set of pip packages meets all lines"),
            names => Error::input(format!(
                "{} has no wheel for {}",
                names.join(", "),
                self.target.words()
            )),
        };
        let mut error = error.why(text);
        for (name, installed) in &conda {
            error = error.why(format!(
                "{name} {} is the conda package {}, which pip must not replace",
                installed.version, installed.package
            ));
        }
        error.hint(self.way_out(
            stderr,
            &unbuilt,
            conda.first().map(|(_, has)| has.conda.as_str()),
        ))
    }

    fn way_out(&self, stderr: &str, unbuilt: &[String], conda: Option<&str>) -> String {
        if stderr.contains("--index-strategy") {
            return "the first index that has a package gives it, and --extra-index-url comes \
                    before --index-url; UV_INDEX_STRATEGY=unsafe-best-match takes the best \
                    version of all indexes, as pip does"
                .into();
        }
        if stderr.contains("401 Unauthorized") || stderr.contains("403 Forbidden") {
            return "the index asks for a login: put it into ~/.netrc, or write the URL with \
                    variables, such as https://${USER_NAME}:${TOKEN}@host/simple"
                .into();
        }
        if stderr.contains("exclude-newer") {
            return "the date of --exclude-newer leaves too little, or the index does not say \
                    when files were uploaded"
                .into();
        }
        if stderr.contains("network was disabled") {
            return "run it once without --offline".into();
        }
        if let Some(name) = unbuilt.first() {
            return format!(
                "take it from conda ('- {name}' under 'dependencies:') or another version of it, \
                 or build its wheel once (pip wheel --no-deps -w wheels {name}) and add \
                 '--find-links ./wheels'"
            );
        }
        match conda {
            Some(name) => format!(
                "ask conda for a {name} that fits ('- {name}=...' under 'dependencies:'), or \
                 loosen the pip line"
            ),
            None => "loosen one of the lines named above".into(),
        }
    }

    /// uv's warning that a stand-in has no extras, in words that name the conda package.
    pub fn missing_extra(&self, warning: &str) -> Option<String> {
        let (package, extra) = warning.split_once("does not have an extra named")?;
        let package = package.split('`').nth(1)?;
        let name = package.split([' ', '=']).next()?;
        let extra = extra.split('`').nth(1)?;
        let installed = self.installed.get(name)?;
        Some(format!(
            "something needs {name}[{extra}], and {name} is the conda package {}: name what the \
             extra needs in lines of its own",
            installed.package
        ))
    }

    /// uv did not understand the stand-in for the image's Python.
    fn interpreter(&self, text: &str) -> Error {
        let hint = match text.contains("ermission denied") {
            true => "the cache folder must allow programs to run: set IMGBUILD_CACHE_DIR",
            false => "imgbuild is tested with uv 0.7 to 0.13: pip install 'uv<0.14'",
        };
        Error::environment(format!("uv {} does not take the image's Python", self.uv))
            .why(text)
            .hint(hint)
    }

    /// The first requirement whose name the text has.
    fn line_in(&self, text: &str) -> Option<&PipRequirement> {
        let required = |line: &&PipRequirement| mentions(text, line.name());
        self.section.requirements.iter().find(required)
    }
}

/// Whether a text has a package's name as a word of its own.
fn mentions(text: &str, name: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let mut after = text[at + name.len()..].chars();
        let next = after.next();
        // A full stop may end a sentence.
        let ends = match next {
            Some('.') => after.next().is_none_or(|c| !part(c)),
            next => !next.is_some_and(part),
        };
        !before.is_some_and(part) && ends
    })
}

fn is_network(text: &str) -> bool {
    [
        "Failed to fetch",
        "client error",
        "error sending request",
        "Request failed",
    ]
    .iter()
    .any(|words| text.contains(words))
}

/// The words in backticks behind a phrase, each once.
fn names_after(text: &str, phrase: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (at, _) in text.match_indices(phrase) {
        let name = text[at + phrase.len()..]
            .split('`')
            .next()
            .unwrap_or_default();
        if !name.is_empty() && names.iter().all(|known| known != name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// uv's reasons without its marks, its hints, and its lines about progress.
fn explanation(stderr: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in stderr.lines() {
        let line = line
            .trim_start_matches([' ', '×', '╰', '─', '▶', '├', '│'])
            .trim_end();
        let line = ["error: ", "cause: ", "Caused by: "]
            .iter()
            .find_map(|mark| line.strip_prefix(mark))
            .unwrap_or(line);
        if line.starts_with("hint: ") || line.starts_with("[stdout]") {
            break;
        }
        let noise = ["warning: ", "Resolved ", "No solution found", "Using "];
        if !line.is_empty() && !noise.iter().any(|start| line.starts_with(start)) {
            lines.push(line.to_owned());
        }
    }
    let cut = lines.len().saturating_sub(MAX_LINES);
    lines.truncate(MAX_LINES);
    if cut > 0 {
        lines.push(format!("... and {cut} lines more"));
    }
    match lines.is_empty() {
        true => "uv gave no reason".into(),
        false => lines.join("\n"),
    }
}

/// uv's warnings, each in one line.
pub fn warnings(stderr: &str) -> Vec<&str> {
    let lines = stderr.lines();
    lines
        .filter_map(|line| line.strip_prefix("warning: "))
        .collect()
}

/// Lines that ask for what conda has in another version; uv would say so too, in more words.
///
/// # Errors
/// The first such line.
pub fn check_lines(context: &Context<'_>) -> Result<()> {
    let markers = context.target.markers()?;
    for line in &context.section.requirements {
        let Some(installed) = context.installed.get(line.name()) else {
            continue;
        };
        if !line.parsed.evaluate_markers(&markers, &[]) {
            continue;
        }
        let name = line.name();
        let has = format!(
            "the conda package {} brings {name} {}, and pip must not put another over it",
            installed.package, installed.version
        );
        let error = |what: String, hint: String| {
            Err(Error::input(what).at(line.place()).why(&has).hint(hint))
        };
        match &line.parsed.version_or_url {
            Some(pep508_rs::VersionOrUrl::VersionSpecifier(wanted))
                if !wanted.contains(&installed.version) =>
            {
                return error(
                    format!(
                        "pip asks for {name}{wanted}, and conda has {}",
                        installed.version
                    ),
                    format!(
                        "ask one of them: remove the pip line, or ask conda for '{}{wanted}' under \
                         'dependencies:'",
                        installed.conda
                    ),
                );
            }
            Some(pep508_rs::VersionOrUrl::Url(_)) => {
                return error(
                    format!("pip asks for a wheel of {name}, and conda has it already"),
                    "remove the pip line, or the conda package".into(),
                );
            }
            _ => {}
        }
        if let Some(extra) = line.parsed.extras.first() {
            return error(
                format!("the extra {name}[{extra}] cannot be had over a conda package"),
                format!("name what the extra needs in lines of its own, and {name} without it"),
            );
        }
    }
    Ok(())
}
