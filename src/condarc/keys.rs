//! The keys of one condarc file.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use rattler_solve::ChannelPriority;

use super::{Condarc, SslVerify};
use crate::{
    error::{Error, Result},
    spec::{
        check,
        source::{Source, quoted},
        yaml::{self, Node, Value},
    },
};

/// The longest time that a server may be waited for.
const LONGEST: f64 = 86_400.0;

/// Keys of conda that say nothing about what is solved or fetched: they are for its own shell,
/// folders and output (conda docs, "Settings").
const NO_CONCERN: &[&str] = &[
    "add_pip_as_python_dependency",
    "aggressive_update_packages",
    "allow_cycles",
    "allow_softlinks",
    "always_copy",
    "always_softlink",
    "always_yes",
    "anaconda_anon_usage",
    "anaconda_upload",
    "auto_activate",
    "auto_activate_base",
    "auto_stack",
    "auto_update_conda",
    "binstar_upload",
    "bld_path",
    "changeps1",
    "channel_notices",
    "clobber",
    "conda-build",
    "conda_build",
    "console",
    "croot",
    "default_activation_env",
    "default_python",
    "default_threads",
    "dev",
    "envs_dirs",
    "envs_path",
    "env_prompt",
    "error_upload_url",
    "execute_threads",
    "experimental",
    "fetch_threads",
    "force_reinstall",
    "json",
    "local_repodata_ttl",
    "no_lock",
    "no_plugins",
    "notify_outdated_conda",
    "number_channel_notices",
    "override_channels_enabled",
    "path_conflict",
    "pip_interop_enabled",
    "pkgs_dirs",
    "plugins",
    "quiet",
    "register_envs",
    "remote_backoff_factor",
    "remote_max_retries",
    "repodata_threads",
    "report_errors",
    "root_prefix",
    "rollback_enabled",
    "safety_checks",
    "separate_format_cache",
    "shortcuts",
    "show_channel_urls",
    "signing_metadata_url_base",
    "solver",
    "solver_ignore_timestamps",
    "subdir",
    "subdirs",
    "target_prefix_override",
    "unsatisfiable_hints",
    "unsatisfiable_hints_check_depth",
    "update_modifier",
    "use_index_cache",
    "use_lockfiles",
    "verbosity",
    "verify_threads",
];

/// Parses a condarc file. `variable` gives the environment variables that conda expands in URLs
/// and paths.
///
/// # Errors
/// An input error with the place, for malformed YAML and for values without a meaning.
pub(super) fn parse(
    source: Source<'_>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Condarc> {
    let mut found = Condarc::default();
    let reader = Reader {
        source,
        variable: &variable,
    };
    if source.text.trim().is_empty() {
        return Ok(found);
    }
    for (key, value) in source.map(&yaml::parse(source)?, source.file)? {
        reader.take(&mut found, key, value)?;
    }
    // conda's marks on precedence (conda docs, "Obtaining information from the .condarc file").
    for mark in ["#!final", "#!top", "#!bottom"] {
        if source.text.contains(mark) {
            found.ignored.push(format!("{mark} ({})", source.file));
        }
    }
    Ok(found)
}

/// The settings that conda takes from environment variables over its files.
///
/// # Errors
/// When a value has no meaning.
pub(super) fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Condarc> {
    let set = |name: &str| variable(name).filter(|text| !text.is_empty());
    let priority = set("CONDA_CHANNEL_PRIORITY").map(|text| {
        priority(&text).ok_or_else(|| {
            Error::input(format!(
                "CONDA_CHANNEL_PRIORITY {} is unknown",
                quoted(&text)
            ))
            .hint("use strict, flexible or disabled")
        })
    });
    let bundle = set("REQUESTS_CA_BUNDLE").map(|path| SslVerify::Bundle(path.into()));
    Ok(Condarc {
        channel_alias: set("CONDA_CHANNEL_ALIAS"),
        channel_priority: priority.transpose()?,
        ssl_verify: set("CONDA_SSL_VERIFY")
            .map(|text| ssl_verify(&text))
            .or(bundle),
        ..Condarc::default()
    })
}

struct Reader<'a> {
    source: Source<'a>,
    variable: &'a dyn Fn(&str) -> Option<String>,
}

impl Reader<'_> {
    fn take(&self, found: &mut Condarc, key: &Node, value: &Node) -> Result<()> {
        let name = key.scalar().unwrap_or_default();
        match name {
            "channels" | "channel" => found.channels.extend(self.one_or_more(value, name)?),
            "channel_alias" => found.channel_alias = self.optional(value, name)?,
            "custom_channels" => found.custom_channels = self.pairs(value, name)?,
            "custom_multichannels" => found.custom_multichannels = self.lists(value, name)?,
            "default_channels" => found.default_channels = self.one_or_more(value, name)?,
            "mirrored_channels" => found.mirrored_channels = self.lists(value, name)?,
            "channel_priority" => found.channel_priority = Some(self.priority(value)?),
            "ssl_verify" | "verify_ssl" => {
                found.ssl_verify = self.optional(value, name)?.map(|text| ssl_verify(&text));
            }
            "proxy_servers" => {
                for (scheme, url) in self.pairs(value, name)? {
                    match scheme.as_str() {
                        "http" | "https" | "all" => {
                            found.proxy_servers.insert(scheme, url);
                        }
                        _ => self.ignore(found, &format!("proxy_servers: {scheme}")),
                    }
                }
            }
            "remote_connect_timeout_secs" => found.connect_timeout = self.seconds(value, name)?,
            "remote_read_timeout_secs" => found.read_timeout = self.seconds(value, name)?,
            _ if NO_CONCERN.contains(&name) => {}
            _ => self.ignore(found, name),
        }
        Ok(())
    }

    fn ignore(&self, found: &mut Condarc, key: &str) {
        let key = quoted(key);
        let key = key.trim_matches('\'');
        found.ignored.push(format!("{key} ({})", self.source.file));
    }

    fn text(&self, node: &Node, name: &str) -> Result<String> {
        let text = self.source.text(node, name)?;
        Ok(expand(&text, self.variable))
    }

    fn optional(&self, node: &Node, name: &str) -> Result<Option<String>> {
        match node.value {
            Value::Null => Ok(None),
            _ => self.text(node, name).map(Some),
        }
    }

    /// A list, or a single item: conda takes `channels: conda-forge` as well.
    fn one_or_more(&self, node: &Node, name: &str) -> Result<Vec<String>> {
        if node.scalar().is_some() {
            return Ok(vec![self.text(node, name)?]);
        }
        let items = self.source.list(node, name)?;
        items.iter().map(|item| self.text(item, name)).collect()
    }

    fn pairs(&self, node: &Node, name: &str) -> Result<BTreeMap<String, String>> {
        let mut pairs = BTreeMap::new();
        for (key, value) in self.source.map(node, name)? {
            let word = self.source.text(key, name)?;
            if let Some(text) = self.optional(value, name)? {
                pairs.insert(word, text);
            }
        }
        Ok(pairs)
    }

    fn lists(&self, node: &Node, name: &str) -> Result<BTreeMap<String, Vec<String>>> {
        let entries = self.source.map(node, name)?.iter();
        entries
            .map(|(key, value)| Ok((self.source.text(key, name)?, self.one_or_more(value, name)?)))
            .collect()
    }

    fn priority(&self, node: &Node) -> Result<ChannelPriority> {
        let text = self.source.text(node, "channel_priority")?;
        priority(&text).ok_or_else(|| {
            let what = format!("channel_priority {} is unknown", quoted(&text));
            let why = "it is none of strict, flexible and disabled";
            self.source.error(node.place, what, why)
        })
    }

    fn seconds(&self, node: &Node, name: &str) -> Result<Option<Duration>> {
        let Some(text) = self.optional(node, name)? else {
            return Ok(None);
        };
        let seconds = text.parse().ok().filter(|s| *s > 0.0 && *s <= LONGEST);
        match seconds.and_then(|s| Duration::try_from_secs_f64(s).ok()) {
            Some(time) => Ok(Some(time)),
            None => {
                let what = format!("{name} {} is no time", quoted(&text));
                let why = format!("it must be a number of seconds up to {LONGEST}");
                Err(self.source.error(node.place, what, why))
            }
        }
    }
}

/// `strict`, `flexible`, `disabled`, and the booleans of older condas (conda docs,
/// `channel_priority`).
fn priority(text: &str) -> Option<ChannelPriority> {
    let old = || match boolean(text)? {
        true => Some(ChannelPriority::Flexible),
        false => Some(ChannelPriority::Disabled),
    };
    check::priority(&text.to_ascii_lowercase())
        .ok()
        .or_else(old)
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

fn ssl_verify(text: &str) -> SslVerify {
    match (boolean(text), text) {
        (Some(true), _) | (_, "truststore") => SslVerify::System,
        (Some(false), _) => SslVerify::Off,
        (None, path) => SslVerify::Bundle(at_home(path)),
    }
}

fn at_home(path: &str) -> PathBuf {
    let home = directories::BaseDirs::new().map(|dirs| dirs.home_dir().to_owned());
    match (path.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => path.into(),
    }
}

/// `$NAME` and `${NAME}` as Python's `os.path.expandvars` has it, which conda uses: what is not
/// set stays as it is.
fn expand(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> String {
    let mut parts = text.split('$');
    let mut done = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = match part.strip_prefix('{').and_then(|p| p.split_once('}')) {
            Some(pair) => pair,
            None => {
                let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
                part.split_at(part.find(|c| !is_name(c)).unwrap_or(part.len()))
            }
        };
        match variable(name).filter(|_| !name.is_empty()) {
            Some(value) => {
                done.push_str(&value);
                done.push_str(rest);
            }
            None => {
                done.push('$');
                done.push_str(part);
            }
        }
    }
    done
}
