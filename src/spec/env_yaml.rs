//! A conda environment file (`env.yml`), as `conda env create` reads and `conda env export`
//! writes it.

use std::path::{Component, Path, PathBuf};

use rattler_conda_types::{Channel, ChannelConfig, MatchSpec, ParseStrictness};
use url::Url;

use crate::{
    error::{Error, Result},
    machine::Machine,
    spec::{
        PipSection, check, expand, pip, selectors,
        source::{Place, Source, quoted},
        yaml::{self, Node, Value},
    },
};

/// The channel used when a file names none: `defaults`, conda's own fallback, needs a licence
/// in larger organisations.
pub const DEFAULT_CHANNEL: &str = "conda-forge";

const KEYS: &[&str] = &[
    "name",
    "channels",
    "dependencies",
    "prefix",
    "variables",
    "platforms",
];

/// A channel as an environment file names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelName {
    /// A name, a URL, or for a path the absolute `file://` URL that it resolves to; variables
    /// such as `$TOKEN` stand in it as they are written.
    pub text: String,
    /// The line in the file, from 1; 0 for the default channel.
    pub line: usize,
    /// The column in the file, from 1.
    pub column: usize,
}

/// One entry of `dependencies:`.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The entry as the user wrote it.
    pub text: String,
    /// The same, parsed; its name is always an exact one.
    pub match_spec: MatchSpec,
    /// The line in the file, from 1; 0 for a spec that no file names.
    pub line: usize,
    /// The column in the file, from 1.
    pub column: usize,
}

/// A parsed environment file.
#[derive(Clone, Debug, Default)]
pub struct EnvYaml {
    /// The name of the file, for `file:line:column` in later errors.
    pub file: String,
    /// The environment's name, usable as a folder's.
    pub name: Option<String>,
    /// The channels, the most preferred first; never empty, `nodefaults` left out.
    pub channels: Vec<ChannelName>,
    /// What is asked for, in file order; never empty.
    pub specs: Vec<Spec>,
    /// The pip packages that go over them.
    pub pip: PipSection,
    /// Environment variables for the image, in file order.
    pub variables: Vec<(String, String)>,
    /// The platforms that it is for, in conda's words; empty when it does not say.
    pub platforms: Vec<String>,
    /// Where it says so.
    pub platforms_at: Place,
    /// What was read but has no effect, in words.
    pub warnings: Vec<String>,
}

impl Spec {
    /// Where it stands in its file.
    pub fn place(&self) -> Place {
        Place {
            line: self.line,
            column: self.column,
        }
    }

    /// Parses a match spec that stands in no file; line and column are 0.
    ///
    /// # Errors
    /// The reason, in words, when it is no match spec or of a kind that cannot be locked.
    pub fn parse(text: &str) -> Result<Self, String> {
        let match_spec =
            MatchSpec::from_str(text, ParseStrictness::Lenient).map_err(|e| e.to_string())?;
        if match_spec.url.is_some() {
            return Err("a URL is not supported as a spec; name the package, and its channel under 'channels:'".into());
        }
        let build = match_spec.build.as_ref().map(ToString::to_string);
        if build.is_some_and(|build| build.contains(['=', ' '])) {
            return Err("it has more parts than package, version and build".into());
        }
        if match_spec.name.as_exact().is_none() {
            return Err("it names no single package".into());
        }
        if text.starts_with(['.', '/', '~']) {
            return Err("a path is not supported in a spec; put it under 'channels:'".into());
        }
        let channel = text.split_once("::").map_or("", |(channel, _)| channel);
        if channel.contains(['@', '$']) || channel.contains("/t/") {
            return Err(
                "a login is not supported in a spec; put the channel under 'channels:'".into(),
            );
        }
        Ok(Self {
            text: text.to_owned(),
            match_spec,
            line: 0,
            column: 0,
        })
    }
}

impl EnvYaml {
    /// Reads an environment file's bytes; see [`EnvYaml::parse`].
    ///
    /// # Errors
    /// As [`EnvYaml::parse`], and when the bytes are not UTF-8.
    pub fn parse_bytes(bytes: &[u8], file: &str, dir: &Path, machine: Machine) -> Result<Self> {
        Self::parse(utf8(bytes, file)?, file, dir, machine)
    }

    /// Parses an environment file.
    ///
    /// `file` is the name that errors show; `dir` is the folder it lies in, against which
    /// relative channel paths are resolved. Lines with a selector for other machines are left out.
    ///
    /// # Errors
    /// An input error with the place, for anything conda would not take either, for keys it
    /// does not know, and for pip packages that would have to be built.
    pub fn parse(text: &str, file: &str, dir: &Path, machine: Machine) -> Result<Self> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let (text, warnings) = selectors::apply(text, file, machine);
        let source = Source { file, text: &text };
        let root = yaml::parse(source)?;
        let Value::Map(items) = &root.value else {
            return Err(not_an_environment(source, &root));
        };
        let mut env = Self {
            file: file.to_owned(),
            warnings,
            ..Self::default()
        };
        for (key, value) in items {
            env.take(source, dir, key, value)?;
        }
        if env.specs.is_empty() {
            return Err(Error::input(format!("{file} asks for no packages"))
                .at(file)
                .hint("list packages under 'dependencies:', such as '  - python=3.12'"));
        }
        env.default_channel();
        Ok(env)
    }

    fn take(&mut self, source: Source, dir: &Path, key: &Node, value: &Node) -> Result<()> {
        match key.scalar().unwrap_or_default() {
            "name" => self.name = name(source, value)?,
            "channels" => self.channels = channels(source, dir, value)?,
            "dependencies" => self.dependencies(source, dir, value)?,
            "variables" => self.variables = variables(source, value)?,
            "prefix" => self.warnings.push(format!(
                "{}:{}: 'prefix:' is ignored, it names a folder of another machine; the image's prefix is set in imgbuild.yaml",
                source.file, key.place.line
            )),
            "platforms" => self.platforms(source, value)?,
            _ => return source.unknown_key(key, KEYS),
        }
        Ok(())
    }

    fn dependencies(&mut self, source: Source, dir: &Path, value: &Node) -> Result<()> {
        for item in source.list(value, "dependencies")? {
            match &item.value {
                Value::Map(entries) => self.sub_section(source, dir, entries)?,
                _ => self.specs.push(spec(source, item)?),
            }
        }
        Ok(())
    }

    fn sub_section(&mut self, source: Source, dir: &Path, entries: &[(Node, Node)]) -> Result<()> {
        for (key, value) in entries {
            let name = key.scalar().unwrap_or_default();
            if name != "pip" {
                let what = format!("{} is not a package spec", quoted(name));
                return Err(source
                    .error(key.place, what, "a map stands where a package is expected")
                    .hint("write package, package>=1.2, package=1.2 or package=1.2=build"));
            }
            let items = source.list(value, "pip")?;
            self.pip.add(source, dir, items, pip::Host::real())?;
        }
        Ok(())
    }

    /// conda-lock's key.
    fn platforms(&mut self, source: Source, value: &Node) -> Result<()> {
        let names = source.list(value, "platforms")?;
        let names = names.iter().filter_map(Node::scalar).map(str::to_owned);
        self.platforms = names.collect();
        self.platforms_at = value.place;
        match self.machines().is_empty() {
            false => Ok(()),
            true => Err(source.error(
                value.place,
                "the environment is for no platform that images are built for",
                "'platforms:' lists neither linux-64 nor linux-aarch64",
            )),
        }
    }

    /// Those of its platforms that images are built for; empty when it does not say.
    pub fn machines(&self) -> Vec<Machine> {
        let all = Machine::ALL.into_iter();
        all.filter(|machine| self.lists(*machine)).collect()
    }

    fn lists(&self, machine: Machine) -> bool {
        let subdir = machine.subdir();
        self.platforms.iter().any(|name| name == subdir.as_str())
    }

    /// Refuses a machine that the file is not for.
    ///
    /// # Errors
    /// When it names platforms, and not the machine's.
    pub fn check_machine(&self, machine: Machine) -> Result<()> {
        if self.platforms.is_empty() || self.lists(machine) {
            return Ok(());
        }
        let Place { line, column } = self.platforms_at;
        let error = Error::input(format!("the environment is not for {}", machine.subdir()))
            .at(format!("{}:{line}:{column}", self.file))
            .why("'platforms:' does not list it");
        Err(match self.machines().first() {
            Some(other) => error.hint(format!("build for another one: --platform {other}")),
            None => error,
        })
    }

    fn default_channel(&mut self) {
        if self.channels.is_empty() {
            self.channels.push(ChannelName {
                text: DEFAULT_CHANNEL.into(),
                line: 0,
                column: 0,
            });
        }
    }
}

/// The text of a file's bytes, for the parsers of this module's neighbours too.
pub(super) fn utf8<'a>(bytes: &'a [u8], file: &str) -> Result<&'a str> {
    std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = 1 + before.iter().filter(|b| **b == b'\n').count();
        Error::input(format!("{file} is not UTF-8 text"))
            .at(format!("{file}:{line}"))
            .why(format!("byte {} is not UTF-8", error.valid_up_to() + 1))
            .hint("save the file as UTF-8")
    })
}

fn not_an_environment(source: Source, root: &Node) -> Error {
    let why = match root.value {
        Value::Null => "the file is empty".to_owned(),
        _ => format!(
            "it holds {} instead of keys such as 'dependencies:'",
            root.kind()
        ),
    };
    source
        .error(
            Place::default(),
            format!("{} is not a conda environment file", source.file),
            why,
        )
        .hint("start from a ready one: imgbuild init --list")
}

fn name(source: Source, value: &Node) -> Result<Option<String>> {
    if value.value == Value::Null {
        return Ok(None);
    }
    let name = source.text(value, "name")?;
    check::env_name(&name).map_err(|why| {
        let what = format!("environment name {} cannot be a folder's", quoted(&name));
        source.error(value.place, what, why)
    })?;
    Ok(Some(name))
}

fn channels(source: Source, dir: &Path, value: &Node) -> Result<Vec<ChannelName>> {
    let mut channels: Vec<ChannelName> = Vec::new();
    for item in source.list(value, "channels")? {
        let text = source.text(item, "a channel")?;
        if text == "nodefaults" {
            continue;
        }
        let text = resolve_channel(&text, dir).map_err(|why| {
            source
                .error(
                    item.place,
                    format!("{} is not a channel", quoted(&text)),
                    why,
                )
                .hint("use a name (conda-forge), a URL, or a path (./channel)")
        })?;
        if channels.iter().all(|c| c.text != text) {
            let Place { line, column } = item.place;
            channels.push(ChannelName { text, line, column });
        }
    }
    Ok(channels)
}

fn resolve_channel(text: &str, dir: &Path) -> Result<String, String> {
    if text.trim().is_empty() || text.chars().any(|c| c.is_control() || c == ' ') {
        return Err("it is empty or holds blanks".into());
    }
    let is_path =
        ["./", "../", "/", "~/"].iter().any(|p| text.starts_with(p)) || text == "." || text == "..";
    if is_path {
        return path_url(text, dir);
    }
    if expand::has_variables(text) {
        return Ok(text.to_owned());
    }
    let config = ChannelConfig::default_with_root_dir(dir.to_path_buf());
    Channel::from_str(text, &config).map_err(|e| e.to_string())?;
    Ok(text.to_owned())
}

fn path_url(text: &str, dir: &Path) -> Result<String, String> {
    let path = match text.strip_prefix("~/") {
        Some(rest) => directories::BaseDirs::new()
            .ok_or("no home folder is known")?
            .home_dir()
            .join(rest),
        None => dir.join(text),
    };
    let path = std::path::absolute(path).map_err(|e| e.to_string())?;
    let url =
        Url::from_directory_path(without_dots(&path)).map_err(|()| "the path makes no URL")?;
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// A path without `.` and `..`, by its words alone.
pub(crate) fn without_dots(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean
}

/// Reads one match spec of a list, with an error that shows the place and the forms there are.
pub(super) fn spec(source: Source, item: &Node) -> Result<Spec> {
    let text = source.text(item, "a package")?;
    let mut spec = Spec::parse(text.trim()).map_err(|why| {
        source
            .error(
                item.place,
                format!("{} is not a package spec", quoted(&text)),
                why,
            )
            .hint("write package, package>=1.2, package=1.2 or package=1.2=build")
    })?;
    spec.line = item.place.line;
    spec.column = item.place.column;
    Ok(spec)
}

fn variables(source: Source, value: &Node) -> Result<Vec<(String, String)>> {
    let mut variables = Vec::new();
    for (key, value) in source.map(value, "variables")? {
        let name = source.text(key, "a variable's name")?;
        let text = source.text(value, &format!("variable {}", quoted(&name)))?;
        check::variable(&name, &text).map_err(|why| {
            source.error(key.place, format!("{} is no variable", quoted(&name)), why)
        })?;
        variables.push((name, text));
    }
    Ok(variables)
}

#[cfg(test)]
#[path = "env_yaml_tests.rs"]
mod tests;
