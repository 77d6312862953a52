//! Channel names, URLs and folders to channels, as conda resolves them.

use std::{collections::HashMap, path::Path, sync::Arc};

use rattler_conda_types::{Channel, ChannelConfig, MatchSpec};
use rattler_networking::mirror_middleware::Mirror;
use rattler_repodata_gateway::{MultiSource, Source};
use url::Url;

use super::{
    WantedChannel,
    credentials::{Credentials, mirror},
};
use crate::{
    condarc::Condarc,
    error::{Error, Result, chain},
    spec::{
        ChannelName, EnvYaml, Spec,
        env_yaml::DEFAULT_CHANNEL,
        expand,
        source::{Place, quoted},
    },
};

/// The name that stands for `default_channels`.
const DEFAULTS: &str = "defaults";
/// What `defaults` means on Linux (conda docs, `default_channels`).
const DEFAULT_CHANNELS: [&str; 2] = [
    "https://repo.anaconda.com/pkgs/main",
    "https://repo.anaconda.com/pkgs/r",
];
/// conda's own `custom_channels`.
const CUSTOM_CHANNELS: [(&str, &str); 3] = [
    ("pkgs/main", "https://repo.anaconda.com"),
    ("pkgs/r", "https://repo.anaconda.com"),
    ("pkgs/pro", "https://repo.anaconda.com"),
];

/// Channels of one priority: one, or those that a name such as `defaults` stands for.
#[derive(Clone)]
struct Tier {
    /// The name, where it stands for several.
    name: Option<String>,
    channels: Vec<Channel>,
}

/// Where packages may come from, in priority order. No URL in it has a credential.
#[derive(Clone, Default)]
pub struct Channels {
    tiers: Vec<Tier>,
    /// The URL of each, and where the environment file names it, in the order of the tiers.
    pub wanted: Vec<WantedChannel>,
    /// What names meant, for specs that name their channel.
    by_text: HashMap<String, Channel>,
    /// The URLs that names for several channels stand for.
    multi: HashMap<String, Vec<String>>,
    /// The credentials that the URLs carried.
    pub credentials: Credentials,
    /// Where files below a URL are fetched from instead.
    pub mirrors: HashMap<Url, Vec<Mirror>>,
    /// What a user should know, in words.
    pub warnings: Vec<String>,
}

impl Channels {
    /// Resolves the channels of an environment file, those of condarc where the file names none,
    /// and behind them the channels that only specs name (`channel::package`), as conda does.
    ///
    /// `variable` gives the variables that the file's URLs may name.
    ///
    /// # Errors
    /// When a channel is neither a name, a URL nor a path, or a variable is not set.
    pub fn resolve(
        env: &EnvYaml,
        specs: &[&Spec],
        condarc: &Condarc,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let resolver = Resolver { condarc };
        let mut channels = Self::default();
        // Line 0 is the default's: the file names none.
        let is_default = env.channels.iter().all(|channel| channel.line == 0);
        match is_default && !condarc.channels.is_empty() {
            true => {
                for text in &condarc.channels {
                    channels.push(&resolver, text, Place::default())?;
                }
            }
            false => {
                for channel in &env.channels {
                    channels.push_named(&resolver, env, channel, &variable)?;
                }
                if is_default && !env.channels.is_empty() {
                    channels.warnings.push(format!(
                        "{}: no channels are named, {DEFAULT_CHANNEL} is used; write \
                         'channels: [{DEFAULT_CHANNEL}]' to say so",
                        env.file
                    ));
                }
            }
        }
        for spec in specs {
            if let Some(text) = channel_text(&spec.match_spec) {
                channels.push(&resolver, &text, spec.place())?;
            }
        }
        channels.take_configured(&resolver)?;
        Ok(channels)
    }

    /// A channel of the file, its variables expanded; no error shows what they hold.
    fn push_named(
        &mut self,
        resolver: &Resolver<'_>,
        env: &EnvYaml,
        channel: &ChannelName,
        variable: &impl Fn(&str) -> Option<String>,
    ) -> Result<()> {
        let place = Place {
            line: channel.line,
            column: channel.column,
        };
        let at = format!("{}:{}:{}", env.file, place.line, place.column);
        let text = &channel.text;
        let expanded = expand(text, variable).map_err(|name| {
            Error::input(format!("the variable {name} is not set"))
                .at(&at)
                .why(format!("{} needs it", quoted(text)))
                .hint(format!(
                    "export {name}=..., or keep the login in rattler's auth file"
                ))
        })?;
        self.push(resolver, &expanded, place)
            .map_err(|e| match expanded == *text {
                true => e.at(&at),
                false => Error::input(format!("{} is not a channel", quoted(text)))
                    .at(&at)
                    .why("with the values of its variables it is neither a name nor a URL"),
            })
    }

    fn push(&mut self, resolver: &Resolver<'_>, text: &str, place: Place) -> Result<()> {
        if text == "nodefaults" {
            return Ok(());
        }
        let members = resolver.members(text);
        let name = members.is_some().then(|| text.to_owned());
        let mut channels = Vec::new();
        let mut urls = Vec::new();
        for member in members.unwrap_or_else(|| vec![text.to_owned()]) {
            let channel = self.channel(resolver, &member)?;
            urls.push(channel.base_url.to_string());
            if !self.has(&channel) && !channels.contains(&channel) {
                self.wanted.push(WantedChannel {
                    url: channel.base_url.to_string(),
                    place,
                });
                channels.push(channel);
            }
        }
        if let Some(name) = &name {
            self.multi.insert(name.clone(), urls);
        }
        if !channels.is_empty() {
            self.tiers.push(Tier { name, channels });
        }
        Ok(())
    }

    fn channel(&mut self, resolver: &Resolver<'_>, text: &str) -> Result<Channel> {
        let url = self.credentials.take(&resolver.url(text)?);
        let channel = Channel::from_url(url);
        self.by_text.insert(text.to_owned(), channel.clone());
        Ok(channel)
    }

    fn has(&self, channel: &Channel) -> bool {
        self.iter().any(|known| known.base_url == channel.base_url)
    }

    /// Takes what condarc says of places that nothing here names: a lock that is given may.
    fn take_configured(&mut self, resolver: &Resolver<'_>) -> Result<()> {
        for url in resolver.configured()? {
            self.credentials.take(&url);
        }
        for (name, urls) in &resolver.condarc.mirrored_channels {
            let channel = self.channel(resolver, name)?;
            let mut mirrors = Vec::new();
            for text in urls {
                mirrors.push(mirror(mirror_url(text)?));
            }
            if !mirrors.is_empty() {
                self.mirrors
                    .insert(channel.base_url.url().clone().into(), mirrors);
            }
        }
        Ok(())
    }

    /// The channels in priority order.
    pub fn iter(&self) -> impl Iterator<Item = &Channel> {
        self.tiers.iter().flat_map(|tier| &tier.channels)
    }

    /// Their URLs, as a lock has them.
    pub fn urls(&self) -> Vec<String> {
        self.iter().map(|c| c.base_url.to_string()).collect()
    }

    /// The specs for the solver: what they call a channel means what `channels:` would mean by it.
    pub fn specs<'a>(&self, specs: impl IntoIterator<Item = &'a Spec>) -> Vec<WantedSpec> {
        let known = |spec: &MatchSpec| self.by_text.get(&channel_text(spec)?).cloned();
        specs
            .into_iter()
            .map(|wanted| {
                let mut spec = wanted.match_spec.clone();
                if let Some(channel) = known(&spec) {
                    spec.channel = Some(Arc::new(channel));
                }
                WantedSpec {
                    from: self.places(&spec),
                    spec,
                    text: wanted.text.clone(),
                    place: wanted.place(),
                }
            })
            .collect()
    }

    /// The URLs that a spec's channel stands for.
    fn places(&self, spec: &MatchSpec) -> Vec<String> {
        let Some(channel) = &spec.channel else {
            return Vec::new();
        };
        let several = channel.name.as_ref().and_then(|name| self.multi.get(name));
        match several {
            Some(urls) => urls.clone(),
            None => vec![channel.base_url.to_string()],
        }
    }

    /// What the repodata gateway is asked for.
    pub(super) fn sources(&self) -> Vec<Source> {
        let source = |tier: &Tier| -> Vec<Source> {
            let channels = tier.channels.iter().cloned().map(Source::from).collect();
            match &tier.name {
                // Fails for none and for duplicates only, and there are neither.
                Some(name) => MultiSource::new(name.as_str(), channels)
                    .map(Source::from)
                    .into_iter()
                    .collect(),
                None => channels,
            }
        };
        self.tiers.iter().flat_map(source).collect()
    }
}

/// A spec as the solver takes it, and where it stands.
#[derive(Clone, Debug)]
pub struct WantedSpec {
    /// The spec.
    pub spec: MatchSpec,
    /// The same as the user wrote it.
    pub text: String,
    /// Its place in the file.
    pub place: Place,
    /// The URLs of the channels that it may come from; empty when it names none.
    pub from: Vec<String>,
}

/// The URL that another tool's lock means by a channel's name; as conda resolves it without
/// settings of this machine.
pub(super) fn plain_urls(name: &str) -> Vec<String> {
    let condarc = Condarc::default();
    let resolver = Resolver { condarc: &condarc };
    let names = resolver
        .members(name)
        .unwrap_or_else(|| vec![name.to_owned()]);
    let urls = names.iter().filter_map(|name| resolver.url(name).ok());
    urls.map(|url| Channel::from_url(url).base_url.to_string())
        .collect()
}

/// Whether a package's URL is one of this channel's: `CHANNEL/SUBDIR/FILE`.
pub(super) fn holds(channel: &str, package: &Url) -> bool {
    let rest = package.as_str().strip_prefix(channel.trim_end_matches('/'));
    rest.and_then(|rest| rest.strip_prefix('/'))
        .is_some_and(|rest| rest.matches('/').count() == 1)
}

/// How a spec names its channel.
fn channel_text(spec: &MatchSpec) -> Option<String> {
    let channel = spec.channel.as_ref()?;
    let alias = default_config().channel_alias;
    let url = channel.base_url.url();
    match (&channel.name, url.as_str().strip_prefix(alias.as_str())) {
        (Some(name), Some(_)) => Some(name.clone()),
        _ => Some(url.to_string()),
    }
}

fn default_config() -> ChannelConfig {
    // Paths have become URLs when the environment file was read.
    ChannelConfig::default_with_root_dir(Path::new("/").to_path_buf())
}

struct Resolver<'a> {
    condarc: &'a Condarc,
}

impl Resolver<'_> {
    /// What a name stands for, if it stands for several channels.
    fn members(&self, text: &str) -> Option<Vec<String>> {
        if let Some(members) = self.condarc.custom_multichannels.get(text) {
            return Some(members.clone());
        }
        let configured = &self.condarc.default_channels;
        (text == DEFAULTS).then(|| match configured.is_empty() {
            true => DEFAULT_CHANNELS.map(str::to_owned).to_vec(),
            false => configured.clone(),
        })
    }

    /// The URL of one channel, with its credential if it has one.
    fn url(&self, text: &str) -> Result<Url> {
        let mut config = default_config();
        if let Some(alias) = &self.condarc.channel_alias {
            config.channel_alias = base_url(alias, "channel_alias")?;
        }
        let not_one = |why: String| {
            Error::input(format!("{} is not a channel", quoted(text)))
                .why(why)
                .hint("use a channel name, a URL, or a folder")
        };
        if text.trim().is_empty() || text.chars().any(char::is_control) {
            return Err(not_one("it is empty or holds control characters".into()));
        }
        if let Some(parent) = self.custom(text) {
            return base_url(&parent, "custom_channels")?
                .join(text.trim_start_matches('/'))
                .map_err(|e| not_one(chain(&e)));
        }
        let channel = Channel::from_str(text, &config).map_err(|e| not_one(chain(&e)))?;
        Ok(channel.base_url.url().clone().into())
    }

    /// The URLs of condarc, in which credentials may stand.
    fn configured(&self) -> Result<Vec<Url>> {
        let condarc = self.condarc;
        let mut urls = Vec::new();
        if let Some(alias) = &condarc.channel_alias {
            urls.push(base_url(alias, "channel_alias")?);
        }
        for url in condarc.custom_channels.values() {
            urls.push(base_url(url, "custom_channels")?);
        }
        let members = condarc.custom_multichannels.values().flatten();
        let named = members
            .chain(&condarc.channels)
            .chain(&condarc.default_channels);
        urls.extend(named.filter_map(|text| Url::parse(text).ok()));
        Ok(urls)
    }

    /// The URL that a custom channel lies below; the longest name that fits counts, so that
    /// `team` covers `team/label/dev` too, as in conda.
    fn custom(&self, text: &str) -> Option<String> {
        let mut name = text.trim_end_matches('/');
        loop {
            if let Some(url) = self.condarc.custom_channels.get(name) {
                return Some(url.clone());
            }
            if let Some((_, url)) = CUSTOM_CHANNELS.iter().find(|(own, _)| *own == name) {
                return Some((*url).to_owned());
            }
            name = name.rsplit_once('/')?.0;
        }
    }
}

/// A mirror's URL: as it is, for a token in it is sent to the mirror only.
fn mirror_url(text: &str) -> Result<Url> {
    let url = base_url(text, "mirrored_channels")?;
    match url.username().is_empty() && url.password().is_none() {
        true => Ok(url),
        false => Err(Error::input("a mirror's URL holds a password")
            .at(url)
            .hint("put the login into ~/.netrc or rattler's auth file")),
    }
}

/// A URL that names are put behind; conda takes one without a scheme as well.
fn base_url(text: &str, key: &str) -> Result<Url> {
    let text = text.trim_end_matches('/');
    let full = match text {
        path if path.starts_with('/') => format!("file://{path}/"),
        url if url.contains("://") => format!("{url}/"),
        host => format!("https://{host}/"),
    };
    Url::parse(&full)
        .map_err(|e| Error::input(format!("condarc's {key} {} is not a URL", quoted(text))).why(e))
}

#[cfg(test)]
#[path = "channels_tests.rs"]
mod tests;
