//! `imgbuild.yaml`, beside the environment file: what flags can say, kept in a file.
//! Its schema is documented in docs/imgbuild.yaml.md.

use std::path::{Path, PathBuf};

use crate::{
    base::BaseSource,
    error::{Error, Result},
    explain,
    spec::{
        CodeSpec, MAX_LAYERS, MinicondaChoice, Overrides, ProbeSpec, check, env_yaml,
        source::{Source, quoted},
        words,
        yaml::{self, Node, Value},
    },
};

/// The name of the file.
pub const FILE: &str = "imgbuild.yaml";

const KEYS: &[&str] = &[
    "base",
    "platforms",
    "tags",
    "code",
    "user",
    "workdir",
    "env",
    "entrypoint",
    "cmd",
    "labels",
    "annotations",
    "prefix",
    "cuda",
    "driver",
    "gpu",
    "allow",
    "channel_priority",
    "miniconda",
    "layers",
    "pip_overwrites",
    "compile",
    "compression",
    "probe",
];

/// Parses an `imgbuild.yaml`.
///
/// `file` is the name that errors show; `dir` is the folder it lies in, against which relative
/// paths are resolved. An empty file sets nothing.
///
/// # Errors
/// An input error with the place, for unknown keys and for values that no build could use.
pub fn parse(text: &str, file: &str, dir: &Path) -> Result<Overrides> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let source = Source { file, text };
    let root = yaml::parse(source)?;
    let reader = Reader { source, dir };
    let mut config = Overrides::default();
    for (key, value) in source.map(&root, file)? {
        reader.take(&mut config, key, value)?;
    }
    Ok(config)
}

struct Reader<'a> {
    source: Source<'a>,
    dir: &'a Path,
}

impl Reader<'_> {
    fn take(&self, config: &mut Overrides, key: &Node, value: &Node) -> Result<()> {
        let name = key.scalar().unwrap_or_default();
        match name {
            "platforms" => config.machines = self.one_or_more(value, name, str::parse)?,
            "base" => config.base = Some(self.base(value)?),
            "tags" => config.tags = self.tags(value)?,
            "code" => config.code = Some(self.code(value)?),
            "user" => {
                let user = self.source.text(value, name)?;
                self.check(value, name, &user, check::user(&user))?;
                config.user = Some(user);
            }
            "workdir" => config.workdir = Some(self.checked(value, name, check::absolute)?),
            "cuda" => config.cuda = Some(self.checked(value, name, check::cuda)?),
            "driver" => config.fleet.driver = Some(self.checked(value, name, str::parse)?),
            "gpu" => config.fleet.gpus = self.one_or_more(value, name, str::parse)?,
            "allow" => config.fleet.allow = self.one_or_more(value, name, explain::allowable)?,
            "channel_priority" => {
                config.channel_priority = Some(self.checked(value, name, check::priority)?);
            }
            "prefix" => config.prefix = Some(self.checked(value, name, check::prefix)?),
            "env" => config.env = self.pairs(value, name, check::variable)?,
            "labels" => config.labels = self.pairs(value, name, |key, _| check::label(key))?,
            "annotations" => {
                config.annotations = self.pairs(value, name, |key, _| check::label(key))?
            }
            "entrypoint" => config.entrypoint = Some(self.command(value, name)?),
            "cmd" => config.cmd = Some(self.command(value, name)?),
            "miniconda" => config.miniconda = Some(self.miniconda(value)?),
            "layers" => config.layers = self.layers(value)?,
            "pip_overwrites" => config.pip_overwrites = Some(self.source.boolean(value, name)?),
            "compile" => config.compile = Some(self.source.boolean(value, name)?),
            "compression" => config.compression = Some(self.checked(value, name, str::parse)?),
            "probe" => config.probe = self.probe(value)?,
            _ => return self.source.unknown_key(key, KEYS),
        }
        Ok(())
    }

    /// Puts the place under a check's reason.
    fn check<T>(
        &self,
        node: &Node,
        name: &str,
        text: &str,
        result: Result<T, String>,
    ) -> Result<T> {
        result.map_err(|why| {
            self.source.error(
                node.place,
                format!("{name} {} is not usable", quoted(text)),
                why,
            )
        })
    }

    fn checked<T>(
        &self,
        node: &Node,
        name: &str,
        check: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T> {
        let text = self.source.text(node, name)?;
        self.check(node, name, &text, check(&text))
    }

    /// A list, or a single item that stands for a list of one.
    fn one_or_more<T>(
        &self,
        value: &Node,
        name: &str,
        check: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>> {
        if value.scalar().is_some() {
            return Ok(vec![self.checked(value, name, check)?]);
        }
        let items = self.source.list(value, name)?;
        items
            .iter()
            .map(|item| self.checked(item, name, &check))
            .collect()
    }

    fn base(&self, value: &Node) -> Result<BaseSource> {
        let text = self.source.text(value, "base")?;
        let base: BaseSource =
            self.check(value, "base", &text, text.parse().map_err(first_line))?;
        Ok(match base {
            BaseSource::OciLayout(path) => BaseSource::OciLayout(self.path(&path)),
            BaseSource::OciArchive(path) => BaseSource::OciArchive(self.path(&path)),
            BaseSource::DockerArchive(path) => BaseSource::DockerArchive(self.path(&path)),
            BaseSource::Registry(name) => {
                self.check(value, "base", &name, check::reference(&name))?;
                BaseSource::Registry(name)
            }
            BaseSource::Scratch | BaseSource::DockerDaemon(_) => base,
        })
    }

    fn path(&self, path: &str) -> String {
        self.dir.join(path).to_string_lossy().into_owned()
    }

    fn tags(&self, value: &Node) -> Result<Vec<String>> {
        let tags = self.source.list(value, "tags")?;
        tags.iter()
            .map(|tag| self.checked(tag, "tag", check::tag))
            .collect()
    }

    fn code(&self, value: &Node) -> Result<CodeSpec> {
        let Value::Map(items) = &value.value else {
            let code: CodeSpec = self.checked(value, "code", str::parse)?;
            return Ok(self.at_home(code));
        };
        let mut dir = None;
        let mut dest = CodeSpec::DEFAULT_DEST.to_owned();
        for (key, value) in items {
            match key.scalar().unwrap_or_default() {
                "path" => dir = Some(PathBuf::from(self.source.text(value, "path")?)),
                "dest" => dest = self.checked(value, "dest", check::own_folder)?,
                _ => return self.source.unknown_key(key, &["path", "dest"]),
            }
        }
        let missing = || {
            self.source.error(
                value.place,
                "code has no folder",
                "the key 'path' is missing",
            )
        };
        let dir = dir.ok_or_else(missing)?;
        Ok(self.at_home(CodeSpec { dir, dest }))
    }

    fn at_home(&self, code: CodeSpec) -> CodeSpec {
        CodeSpec {
            dir: self.dir.join(code.dir),
            ..code
        }
    }

    fn pairs(
        &self,
        value: &Node,
        name: &str,
        check: impl Fn(&str, &str) -> Result<(), String>,
    ) -> Result<Vec<(String, String)>> {
        let mut pairs = Vec::new();
        for (key, value) in self.source.map(value, name)? {
            let word = self.source.text(key, name)?;
            let text = self
                .source
                .text(value, &format!("{name}: {}", quoted(&word)))?;
            self.check(key, name, &word, check(&word, &text))?;
            pairs.push((word, text));
        }
        Ok(pairs)
    }

    fn command(&self, value: &Node, name: &str) -> Result<Vec<String>> {
        if value.scalar().is_some() {
            return self.checked(value, name, words::split);
        }
        let words = self.source.list(value, name)?;
        words
            .iter()
            .map(|word| self.source.text(word, name))
            .collect()
    }

    fn miniconda(&self, value: &Node) -> Result<MinicondaChoice> {
        let Value::Map(items) = &value.value else {
            return Ok(match self.source.boolean(value, "miniconda")? {
                true => MinicondaChoice::On(Vec::new()),
                false => MinicondaChoice::Off,
            });
        };
        let mut packages = Vec::new();
        for (key, value) in items {
            match key.scalar().unwrap_or_default() {
                "packages" => {
                    for item in self.source.list(value, "packages")? {
                        packages.push(env_yaml::spec(self.source, item)?);
                    }
                }
                _ => return self.source.unknown_key(key, &["packages"]),
            }
        }
        Ok(MinicondaChoice::On(packages))
    }

    fn layers(&self, value: &Node) -> Result<Option<u32>> {
        let mut max = None;
        for (key, value) in self.source.map(value, "layers")? {
            match key.scalar().unwrap_or_default() {
                "max" => max = Some(self.source.number(value, "layers: max", MAX_LAYERS)?),
                _ => return self.source.unknown_key(key, &["max"]),
            }
        }
        Ok(max)
    }

    fn probe(&self, value: &Node) -> Result<ProbeSpec> {
        let mut probe = ProbeSpec::default();
        for (key, value) in self.source.map(value, "probe")? {
            match key.scalar().unwrap_or_default() {
                "gpus" => probe.gpus = Some(self.source.number(value, "probe: gpus", 64)?),
                "nproc" => probe.nproc = Some(self.source.number(value, "probe: nproc", 1024)?),
                "timeout" => {
                    probe.timeout =
                        Some(self.source.number(value, "probe: timeout", 86_400)?.into())
                }
                "shm_size" => {
                    probe.shm_size = Some(self.checked(value, "probe: shm_size", check::size)?)
                }
                "min_efficiency" => {
                    probe.min_efficiency =
                        Some(self.source.number(value, "probe: min_efficiency", 100)?)
                }
                _ => {
                    return self.source.unknown_key(
                        key,
                        &["gpus", "nproc", "timeout", "shm_size", "min_efficiency"],
                    );
                }
            }
        }
        Ok(probe)
    }
}

/// The reason of an error alone; the place and the known forms come with ours.
fn first_line(error: Error) -> String {
    error
        .to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
