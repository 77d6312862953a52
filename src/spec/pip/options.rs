//! The options that stand in a requirements file.

use url::Url;

use super::{
    PipSection,
    reader::{Reader, absolute, must_be_built},
};
use crate::{
    error::{Error, Result},
    spec::source::{Place, nearest, quoted},
};

/// What pip allows in a file and imgbuild takes, with the short forms.
const KNOWN: [(&str, &str); 11] = [
    ("--index-url", "-i"),
    ("--extra-index-url", ""),
    ("--find-links", "-f"),
    ("--no-index", ""),
    ("--pre", ""),
    ("--requirement", "-r"),
    ("--constraint", "-c"),
    ("--require-hashes", ""),
    ("--prefer-binary", ""),
    ("--only-binary", ""),
    ("--editable", "-e"),
];

impl Reader<'_> {
    /// Takes a line of options.
    pub(super) fn options(&self, line: &str, place: Place, into: &mut PipSection) -> Result<()> {
        let mut rest = line;
        while let Some((word, after)) = next_word(rest) {
            let (name, joined) = split_option(&word);
            rest = after;
            let mut value = || -> Result<String> {
                if let Some(value) = &joined {
                    return Ok(value.clone());
                }
                let (value, after) = next_word(rest)
                    .ok_or_else(|| self.wrong(place, &name, "is not followed by a value"))?;
                rest = after;
                Ok(value)
            };
            let sources = &mut into.sources;
            match name.as_str() {
                "--index-url" => sources.index_url = Some(self.index(&value()?, place)?),
                "--extra-index-url" => {
                    let url = self.index(&value()?, place)?;
                    sources.extra_index_urls.push(url);
                }
                "--find-links" => {
                    let links = self.links(&value()?)?;
                    sources.find_links.push(links);
                }
                "--no-index" => sources.no_index = true,
                "--pre" => sources.prereleases = true,
                "--require-hashes" => into.require_hashes = true,
                // Wheels are all that is taken.
                "--prefer-binary" => {}
                "--only-binary" => {
                    value()?;
                }
                "--requirement" => {
                    let file = value()?;
                    self.file(&file, place, self.constraints, into)?;
                }
                "--constraint" => {
                    let file = value()?;
                    self.file(&file, place, true, into)?;
                }
                "--editable" => {
                    let what = format!("{} is an editable install", quoted(line));
                    return Err(must_be_built(self.source, place, what));
                }
                _ => return Err(self.unknown(&name, place)),
            }
        }
        Ok(())
    }

    fn index(&self, text: &str, place: Place) -> Result<Url> {
        // The text may hold a secret: it is not quoted.
        let url: Url = text
            .parse()
            .map_err(|e| self.wrong(place, "an index", &format!("has no valid URL: {e}")))?;
        if !matches!(url.scheme(), "http" | "https" | "file") {
            return Err(self.wrong(place, "an index", "must be an http(s) or file URL"));
        }
        Ok(url)
    }

    /// A URL as it is, a path as an absolute one.
    fn links(&self, text: &str) -> Result<String> {
        if text.contains("://") {
            return Ok(text.to_owned());
        }
        let path = absolute(&self.dir.join(text))?;
        // `./wheels` and `wheels` are the same folder.
        let path: std::path::PathBuf = path.components().collect();
        Ok(path.display().to_string())
    }

    fn wrong(&self, place: Place, what: &str, why: &str) -> Error {
        let text = format!("{what} {why}");
        self.source.error(
            place,
            text,
            "the line is read as pip reads a requirements file",
        )
    }

    fn unknown(&self, name: &str, place: Place) -> Error {
        let what = format!("option {} is not supported in a pip section", quoted(name));
        let known: Vec<&str> = KNOWN.iter().map(|(long, _)| *long).collect();
        match name {
            "--trusted-host" => self
                .source
                .error(place, what, "it turns the check of certificates off")
                .hint(
                    "an http:// index needs no such option; for a CA of your own set SSL_CERT_FILE",
                ),
            "--no-binary" => must_be_built(self.source, place, what),
            _ => {
                let why = format!("known options: {}", known.join(", "));
                let error = self.source.error(place, what, why);
                match nearest(name, known.iter().copied()) {
                    Some(near) => error.hint(format!("did you mean '{near}'?")),
                    None => error,
                }
            }
        }
    }
}

/// An option's long name, and the value that is joined to it: `--x=value`, `-fvalue`.
fn split_option(word: &str) -> (String, Option<String>) {
    if word.starts_with("--") {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word, None),
        };
        return (name.to_owned(), value);
    }
    let short = KNOWN
        .iter()
        .find(|(_, short)| !short.is_empty() && word.starts_with(short));
    match short {
        Some((long, short)) => {
            let value = word.strip_prefix(short).unwrap_or_default();
            let value = value.strip_prefix('=').unwrap_or(value);
            let value = (!value.is_empty()).then(|| value.to_owned());
            ((*long).to_owned(), value)
        }
        None => (word.to_owned(), None),
    }
}

/// The first word, quotes removed, and the rest behind it.
fn next_word(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start();
    if text.is_empty() {
        return None;
    }
    let mut word = String::new();
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (None, c) if c.is_whitespace() => return Some((word, &text[at..])),
            (_, c) => word.push(c),
        }
    }
    Some((word, ""))
}
