//! conda's own configuration, as far as it says where packages come from.
//!
//! Files, their order and how they merge: conda docs, "Using the .condarc conda configuration
//! file" and "Configuration": later files win; of lists the later file's items come first, of
//! maps the later file's keys win.

mod keys;

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rattler_solve::ChannelPriority;

use crate::{
    error::{Error, Exit, Result},
    spec::source::Source,
};

/// What the condarc files of a machine say, merged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Condarc {
    /// `channels`: used where an environment file names none.
    pub channels: Vec<String>,
    /// `channel_alias`: the URL that a channel's name is put behind.
    pub channel_alias: Option<String>,
    /// `custom_channels`: the URLs that channels of these names lie below.
    pub custom_channels: BTreeMap<String, String>,
    /// `custom_multichannels`: names that stand for several channels.
    pub custom_multichannels: BTreeMap<String, Vec<String>>,
    /// `default_channels`: what `defaults` stands for.
    pub default_channels: Vec<String>,
    /// `mirrored_channels`, mamba's key: where a channel's files are fetched from instead.
    pub mirrored_channels: BTreeMap<String, Vec<String>>,
    /// `channel_priority`.
    pub channel_priority: Option<ChannelPriority>,
    /// `ssl_verify`.
    pub ssl_verify: Option<SslVerify>,
    /// `proxy_servers`: proxies by the scheme of the URL, or `all`.
    pub proxy_servers: BTreeMap<String, String>,
    /// `remote_connect_timeout_secs`.
    pub connect_timeout: Option<Duration>,
    /// `remote_read_timeout_secs`.
    pub read_timeout: Option<Duration>,
    /// Keys that say something which is not followed, with their files.
    pub(crate) ignored: Vec<String>,
}

/// How servers' certificates are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SslVerify {
    /// Against the system's authorities.
    System,
    /// Not at all.
    Off,
    /// Against the authorities of this PEM file.
    Bundle(PathBuf),
}

impl Condarc {
    /// Reads the files of this machine in conda's order, then conda's environment variables.
    ///
    /// # Errors
    /// When a file that is there cannot be read, or says something that has no meaning.
    pub fn load() -> Result<Self> {
        let mut merged = Self::default();
        for path in search_path(|name| env::var_os(name)) {
            for file in files(&path)? {
                let Some(text) = read(&file)? else { continue };
                let name = file.display().to_string();
                merged.over(Self::parse(&text, &name, |name| env::var(name).ok())?);
            }
        }
        merged.over(keys::from_variables(|name| env::var(name).ok())?);
        Ok(merged)
    }

    /// Parses one file of that name; `variable` gives the variables that its values may name.
    ///
    /// # Errors
    /// With the place, when it says something that has no meaning.
    pub fn parse(
        text: &str,
        file: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        keys::parse(Source { file, text }, variable)
    }

    /// What a user should know, in one warning at most.
    pub fn warning(&self) -> Option<String> {
        (!self.ignored.is_empty()).then(|| {
            format!(
                "imgbuild does not follow these keys of condarc: {}",
                self.ignored.join(", ")
            )
        })
    }

    /// Lays a file of higher precedence over what is known.
    fn over(&mut self, later: Self) {
        prepend(&mut self.channels, later.channels);
        prepend(&mut self.default_channels, later.default_channels);
        prepend(&mut self.ignored, later.ignored);
        self.custom_channels.extend(later.custom_channels);
        self.custom_multichannels.extend(later.custom_multichannels);
        self.mirrored_channels.extend(later.mirrored_channels);
        self.proxy_servers.extend(later.proxy_servers);
        replace(&mut self.channel_alias, later.channel_alias);
        replace(&mut self.channel_priority, later.channel_priority);
        replace(&mut self.ssl_verify, later.ssl_verify);
        replace(&mut self.connect_timeout, later.connect_timeout);
        replace(&mut self.read_timeout, later.read_timeout);
    }
}

fn replace<T>(old: &mut Option<T>, new: Option<T>) {
    if new.is_some() {
        *old = new;
    }
}

fn prepend(old: &mut Vec<String>, mut new: Vec<String>) {
    let earlier = std::mem::take(old);
    new.extend(earlier);
    for item in new {
        if !old.contains(&item) {
            old.push(item);
        }
    }
}

/// conda's search path on Linux, the lowest precedence first; folders hold files of any name.
fn search_path(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let set = |name: &str| variable(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    // conda sets CONDA_ROOT for itself; an activated shell has CONDA_EXE, which is $CONDA_ROOT/bin/conda.
    let root = set("CONDA_ROOT").or_else(|| {
        let exe = set("CONDA_EXE")?;
        Some(exe.parent()?.parent()?.to_owned())
    });
    let home = set("HOME");
    let below = |dir: &Option<PathBuf>, rest: &str| dir.as_ref().map(|dir| dir.join(rest));
    let folders = [
        Some("/etc/conda".into()),
        Some("/var/lib/conda".into()),
        root,
        below(&set("XDG_CONFIG_HOME"), "conda"),
        below(&home, ".config/conda"),
        below(&home, ".conda"),
    ];
    let in_folder = |dir: PathBuf| [".condarc", "condarc", "condarc.d"].map(|name| dir.join(name));
    let mut paths: Vec<PathBuf> = folders.into_iter().flatten().flat_map(in_folder).collect();
    paths.extend(below(&home, ".condarc"));
    paths.extend(set("CONDA_PREFIX").into_iter().flat_map(in_folder));
    paths.extend(set("CONDARC"));
    paths
}

/// The path itself, or the YAML files of a folder by name.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path).map_err(|e| Error::io("read", path, e))?;
    let is_yaml = |path: &PathBuf| {
        let kind = path.extension().and_then(|kind| kind.to_str());
        matches!(kind, Some("yml" | "yaml"))
    };
    let paths = entries.flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = paths.filter(is_yaml).collect();
    files.sort();
    Ok(files)
}

/// The text of a file; nothing when there is none, as conda has it.
fn read(path: &Path) -> Result<Option<String>> {
    // Opening a pipe or a device could wait for ever.
    if !path.is_file() {
        return Ok(None);
    }
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", path, e).with_exit(Exit::Input)),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
