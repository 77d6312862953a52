//! Lines of a `pip:` section, and of the requirements files that it names.
//!
//! As pip reads them (pip docs, "Requirements File Format"): a backslash joins lines, `#` at the
//! start or behind a blank begins a comment, `${NAME}` is an environment variable, and what
//! begins with a dash is an option. What cannot become a wheel in a lock is refused by name.

use std::{
    cell::Cell,
    path::{Path, PathBuf},
};

use pep508_rs::{Pep508Error, Requirement, VersionOrUrl};
use url::Url;

use super::{Host, PipRequirement, PipSection};
use crate::{
    digest::Digest,
    error::{Error, Result},
    spec::{
        source::{Place, Source, quoted},
        yaml::Node,
    },
};

/// How deep requirements files may name each other; a circle goes deeper.
const MAX_DEPTH: usize = 10;
/// The most requirements files of one section: each may name many others, and they again.
const MAX_FILES: usize = 100;
/// The longest requirement in bytes, hashes left out: its parser's work grows with its nesting.
const MAX_REQUIREMENT: usize = 2000;
/// What a source distribution's name ends with.
const SDISTS: [&str; 6] = [".tar.gz", ".zip", ".tar.bz2", ".tgz", ".tar.xz", ".tar"];

/// Where lines are taken from, and what they mean there.
pub(super) struct Reader<'a> {
    /// For errors.
    pub source: Source<'a>,
    /// The folder that relative paths start at: that of the file.
    pub dir: &'a Path,
    pub host: Host<'a>,
    /// Whether the lines only limit versions (`-c`).
    pub constraints: bool,
    /// How many files name each other on the way to this one.
    pub depth: usize,
    /// How many files were read so far.
    pub files: &'a Cell<usize>,
}

impl PipSection {
    /// Adds the items of a `pip:` list.
    ///
    /// # Errors
    /// An input error with the place of the first line that is wrong or not supported.
    pub fn add(
        &mut self,
        source: Source<'_>,
        dir: &Path,
        items: &[Node],
        host: Host<'_>,
    ) -> Result<()> {
        let reader = Reader {
            source,
            dir,
            host,
            constraints: false,
            depth: 0,
            files: &Cell::new(0),
        };
        for item in items {
            let text = source.text(item, "a pip package")?;
            for (_, line) in logical_lines(&text) {
                reader.line(&line, item.place, self)?;
            }
        }
        Ok(())
    }
}

impl Reader<'_> {
    fn line(&self, line: &str, place: Place, into: &mut PipSection) -> Result<()> {
        let expanded = self.expand(line, place)?;
        if line.starts_with('-') {
            return self.options(&expanded, place, into);
        }
        let requirement = self.requirement(line, &expanded, place)?;
        match self.constraints {
            true => into.constraints.push(requirement),
            false => into.requirements.push(requirement),
        }
        Ok(())
    }

    /// Reads a requirements file named by a line.
    pub(super) fn file(
        &self,
        name: &str,
        place: Place,
        constraints: bool,
        into: &mut PipSection,
    ) -> Result<()> {
        let wrong = |why: String| {
            let what = format!("the requirements file {} cannot be read", quoted(name));
            self.source.error(place, what, why)
        };
        if name.contains("://") {
            return Err(wrong("only files of this machine are read".into())
                .hint("download it and name the file"));
        }
        if self.depth == MAX_DEPTH {
            return Err(wrong(format!(
                "files name each other more than {MAX_DEPTH} deep"
            )));
        }
        self.files.set(self.files.get() + 1);
        if self.files.get() > MAX_FILES {
            return Err(wrong(format!("it is the {}th", self.files.get()))
                .hint("put the lines into fewer files"));
        }
        let path = self.dir.join(name);
        let bytes =
            (self.host.read)(&path).map_err(|e| wrong(format!("{}: {e}", path.display())))?;
        let file = path.display().to_string();
        let text = crate::spec::env_yaml::utf8(&bytes, &file)?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let reader = Reader {
            source: Source { file: &file, text },
            dir: path.parent().unwrap_or(self.dir),
            host: self.host,
            constraints,
            depth: self.depth + 1,
            files: self.files,
        };
        for (line, text) in logical_lines(reader.source.text) {
            reader.line(&text, Place { line, column: 1 }, into)?;
        }
        Ok(())
    }

    /// Replaces `${NAME}`; pip leaves an unset one as it is, which no server would understand.
    fn expand(&self, line: &str, place: Place) -> Result<String> {
        let mut out = String::new();
        let mut rest = line;
        while let Some(at) = rest.find("${") {
            let (before, after) = rest.split_at(at);
            out.push_str(before);
            let name: String = after[2..]
                .chars()
                .take_while(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || *c == '_')
                .collect();
            let end = 2 + name.len();
            if name.is_empty() || !after[end..].starts_with('}') {
                out.push_str("${");
                rest = &after[2..];
                continue;
            }
            let value = (self.host.variable)(&name).ok_or_else(|| {
                let what = format!("the environment variable {name} is not set");
                self.source
                    .error(place, what, "the line asks for its value")
                    .hint(format!("set it: export {name}=..."))
            })?;
            out.push_str(&value);
            rest = &after[end + 1..];
        }
        out.push_str(rest);
        Ok(out)
    }

    fn requirement(&self, text: &str, line: &str, place: Place) -> Result<PipRequirement> {
        let (line, mut hashes) = self.hashes(line, place)?;
        if line.len() > MAX_REQUIREMENT {
            let why = format!("it is longer than {MAX_REQUIREMENT} bytes");
            return Err(self.not_a_requirement(text, place, why));
        }
        self.refuse(text, line, place)?;
        let pep508 = match bare_target(line) {
            Some((target, rest)) => self.named(text, target, rest, place)?,
            None => line.to_owned(),
        };
        let parsed = parse(&pep508).map_err(|why| self.not_a_requirement(text, place, why))?;
        if let Some(VersionOrUrl::Url(url)) = &parsed.version_or_url {
            let fragment = url.fragment().unwrap_or_default();
            let hash = fragment
                .split('&')
                .find_map(|part| part.strip_prefix("sha256="));
            hashes.extend(hash.and_then(|hash| hash.parse::<Digest>().ok()));
        }
        Ok(PipRequirement {
            text: text.to_owned(),
            file: self.source.file.to_owned(),
            line: place.line,
            column: place.column,
            included: self.depth > 0,
            pep508,
            parsed,
            hashes,
        })
    }

    fn not_a_requirement(&self, text: &str, place: Place, why: String) -> Error {
        let what = format!("{} is not a pip requirement", quoted(text));
        self.source
            .error(place, what, why)
            .hint("write package, package==1.2, package[extra]>=1.2 or package @ https://.../x.whl")
    }

    /// Splits `--hash=sha256:...` off a requirement.
    fn hashes<'l>(&self, line: &'l str, place: Place) -> Result<(&'l str, Vec<Digest>)> {
        let Some(at) = line.find(" --") else {
            return Ok((line, Vec::new()));
        };
        let (requirement, options) = line.split_at(at);
        let mut hashes = Vec::new();
        let mut words = options.split_whitespace();
        while let Some(word) = words.next() {
            let value = match word.strip_prefix("--hash") {
                Some("") => words.next(),
                Some(rest) => rest.strip_prefix('='),
                None => {
                    let what = format!("option {} of a requirement is not supported", quoted(word));
                    let why = "it steers how a package is built, and only ready wheels are taken";
                    return Err(self.source.error(place, what, why));
                }
            };
            // Other algorithms say the same of the same file; a lock has the sha256.
            let hash = value.and_then(|value| value.parse().ok()).ok_or_else(|| {
                let what = format!("{} is no hash that can be checked", quoted(word));
                self.source
                    .error(place, what, "it is not sha256: and 64 hexadecimal digits")
            })?;
            hashes.push(hash);
        }
        Ok((requirement.trim_end(), hashes))
    }

    /// Refuses what would have to be built.
    fn refuse(&self, text: &str, line: &str, place: Place) -> Result<()> {
        let target = line.split_once(" @ ").map_or(line, |(_, url)| url).trim();
        let target = target.split_whitespace().next().unwrap_or_default();
        let scheme = target.split_once("://").map_or("", |(scheme, _)| scheme);
        let vcs = ["git", "hg", "svn", "bzr"]
            .iter()
            .find(|vcs| scheme == **vcs || scheme.starts_with(&format!("{vcs}+")));
        let path = target.split(['#', '?']).next().unwrap_or_default();
        let what = if let Some(vcs) = vcs {
            format!("{} is a {vcs} repository", quoted(text))
        } else if SDISTS.iter().any(|end| path.ends_with(end)) {
            format!("{} is a source distribution", quoted(text))
        } else if is_target(target) && !without_extras(path).ends_with(".whl") {
            format!("{} is no wheel", quoted(text))
        } else {
            return Ok(());
        };
        Err(must_be_built(self.source, place, what))
    }

    /// `name @ URL` for a wheel given by its bare URL or path (PEP 427 says the name).
    fn named(&self, text: &str, target: &str, rest: &str, place: Place) -> Result<String> {
        let wrong = |why: &str| self.not_a_requirement(text, place, why.into());
        let path = without_extras(target);
        let extras = target.strip_prefix(path).unwrap_or_default();
        let url = match path.contains("://") {
            true => path.parse().map_err(|e| wrong(&format!("{e}")))?,
            false => Url::from_file_path(absolute(&self.dir.join(path))?)
                .map_err(|()| wrong("the path makes no URL"))?,
        };
        let file = url.path_segments().and_then(Iterator::last);
        let name = file.and_then(|file| file.split('-').next());
        let name = name.filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| wrong("the file's name says no package"))?;
        let marker = match rest.is_empty() {
            true => String::new(),
            false => format!(" {rest}"),
        };
        Ok(format!("{name}{extras} @ {url}{marker}"))
    }
}

/// The way out for everything that is no wheel.
pub(super) fn must_be_built(source: Source<'_>, place: Place, what: String) -> Error {
    source
        .error(
            place,
            what,
            "only ready wheels are taken: building one runs its code",
        )
        .hint(
            "build it once (pip wheel --no-deps -w wheels ...), add '--find-links ./wheels' and \
             name the package; your own code goes into the image with --code",
        )
}

/// The parser's own error type shows the text by indices that are wrong for non-ASCII text.
fn parse(line: &str) -> Result<Requirement<Url>, String> {
    // The grammar has no others, and the parser cuts markers at bytes.
    if let Some(c) = line.chars().find(|c| !c.is_ascii()) {
        return Err(format!(
            "it holds {}, which is not ASCII; in a URL write it percent-encoded",
            quoted(&c.escape_unicode().to_string())
        ));
    }
    check_names(line)?;
    line.parse()
        .map_err(|error: Pep508Error<Url>| error.message.to_string())
}

/// Refuses names that the parser panics at: those that end with a separator.
fn check_names(line: &str) -> Result<(), String> {
    let part = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    let end = line.find(|c| !part(c)).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    let extras = rest.trim_start().strip_prefix('[').unwrap_or_default();
    let extras = extras.split(']').next().unwrap_or_default();
    for name in extras.split(',').map(str::trim).chain([name]) {
        if !name.chars().all(part) || name.ends_with(['.', '-', '_']) {
            return Err(format!(
                "{} is no name of a package or an extra",
                quoted(name)
            ));
        }
    }
    Ok(())
}

/// A bare URL or path at the start of a line, and what follows it.
fn bare_target(line: &str) -> Option<(&str, &str)> {
    let (target, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    is_target(target).then_some((target, rest.trim_start()))
}

/// Whether a word is a URL or a path, as pip tells: it has a separator, or begins with a dot, or
/// is a wheel's file name.
fn is_target(word: &str) -> bool {
    word.contains('/') || word.starts_with('.') || without_extras(word).ends_with(".whl")
}

/// `x.whl` of `x.whl[extra]`.
fn without_extras(target: &str) -> &str {
    match target.rfind('[') {
        Some(at) if target.ends_with(']') => &target[..at],
        _ => target,
    }
}

pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::io("find", path, e))
}

/// Lines with their numbers, joined at a backslash, comments and blank lines left out.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (index, line) in text.lines().enumerate() {
        let comment = line.trim_start().starts_with('#');
        let (number, mut whole) = open.take().unwrap_or((index + 1, String::new()));
        match line.strip_suffix('\\') {
            Some(part) if !comment => {
                whole.push_str(part);
                open = Some((number, whole));
            }
            _ => {
                // A comment behind a joined line ends it.
                whole.push_str(if comment { " " } else { "" });
                whole.push_str(line);
                lines.push((number, whole));
            }
        }
    }
    lines.extend(open);
    lines
        .into_iter()
        .map(|(number, line)| (number, without_comment(&line).trim().to_owned()))
        .filter(|(_, line)| !line.is_empty())
        .collect()
}

fn without_comment(line: &str) -> &str {
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        if c == '#' && before.is_whitespace() {
            return &line[..at];
        }
        before = c;
    }
    line
}
