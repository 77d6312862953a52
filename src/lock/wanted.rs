//! The channels of an environment file as they are searched, and the secrets that are needed there.

use std::path::Path;

use rattler_conda_types::{Channel, ChannelUrl, MatchSpec};
use rattler_networking::Authentication;
use url::Url;

use super::{WantedChannel, resolve_channels};
use crate::{
    error::{Error, Result},
    spec::{
        EnvYaml, Spec, expand,
        source::{Place, quoted},
    },
};

/// The channels to search, without their secrets, and the secrets.
#[derive(Clone, Default)]
pub struct Channels {
    /// For the solver, in priority order.
    pub list: Vec<Channel>,
    /// The same for a lock: their URLs and where they are named.
    pub wanted: Vec<WantedChannel>,
    /// The logins that the URLs held, by host.
    pub logins: Vec<(String, Authentication)>,
    /// The channel of each spec that names one, by the text before `::`.
    named: Vec<(String, Channel)>,
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
}

impl Channels {
    /// Resolves the channels of an environment file, then those that only a spec names
    /// (`channel::package`): conda searches these too, after the others.
    ///
    /// `variable` gives the variables that URLs may name.
    ///
    /// # Errors
    /// When a channel is none, or a variable is not set.
    pub fn resolve(
        env: &EnvYaml,
        specs: &[&[Spec]],
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let mut channels = Self::default();
        for channel in &env.channels {
            let place = Place {
                line: channel.line,
                column: channel.column,
            };
            channels.add(&channel.text, place, &env.file, &variable)?;
        }
        for spec in specs.iter().copied().flatten() {
            let Some(name) = channel_of(spec) else {
                continue;
            };
            if channels.named.iter().any(|(known, _)| known == name) {
                continue;
            }
            let first = channels.add(name, spec.place(), &env.file, &variable)?;
            channels
                .named
                .extend(first.map(|channel| (name.to_owned(), channel)));
        }
        Ok(channels)
    }

    /// The specs as the solver takes them, the channels that they name resolved as the others.
    pub fn specs(&self, specs: &[Spec]) -> Vec<WantedSpec> {
        let resolved = |spec: &Spec| {
            let mut match_spec = spec.match_spec.clone();
            let named = channel_of(spec)
                .and_then(|name| self.named.iter().find(|(known, _)| known == name));
            if let Some((_, channel)) = named {
                match_spec.channel = Some(channel.clone().into());
            }
            WantedSpec {
                spec: match_spec,
                text: spec.text.clone(),
                place: spec.place(),
            }
        };
        specs.iter().map(resolved).collect()
    }

    /// Adds what a text names, where it is not there yet; returns the first that it names.
    fn add(
        &mut self,
        text: &str,
        place: Place,
        file: &str,
        variable: &impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Channel>> {
        let at = format!("{file}:{}:{}", place.line, place.column);
        let expanded = expand(text, variable).map_err(|name| {
            Error::input(format!("the variable {name} is not set"))
                .at(&at)
                .why(format!("{} needs it", quoted(text)))
                .hint(format!(
                    "export {name}=..., or keep the login in rattler's auth file"
                ))
        })?;
        let mut first = None;
        let found = resolve_channels(std::slice::from_ref(&expanded), Path::new("/"));
        let found = found.map_err(|e| match expanded == text {
            true => e.at(&at),
            // Its words hold what the variables hold.
            false => Error::input(format!("{} is not a channel", quoted(text)))
                .at(&at)
                .why("with the values of its variables it is neither a name nor a URL"),
        })?;
        for mut channel in found {
            let (url, login) = without_login(channel.base_url.url());
            channel.base_url = ChannelUrl::from(url);
            self.log_in(&channel, login).map_err(|e| e.at(&at))?;
            first.get_or_insert_with(|| channel.clone());
            if self
                .list
                .iter()
                .all(|known| known.base_url != channel.base_url)
            {
                self.wanted.push(WantedChannel {
                    url: channel.base_url.to_string(),
                    place,
                });
                self.list.push(channel);
            }
        }
        Ok(first)
    }

    fn log_in(&mut self, channel: &Channel, login: Option<Authentication>) -> Result<()> {
        let host = channel.base_url.url().host_str().map(str::to_owned);
        let (Some(host), Some(login)) = (host, login) else {
            return Ok(());
        };
        match self.logins.iter().find(|(known, _)| *known == host) {
            Some((_, known)) if *known != login => Err(Error::input(format!(
                "two channels of {host} have different logins"
            ))
            .why("a login is one of the host")),
            Some(_) => Ok(()),
            None => {
                self.logins.push((host, login));
                Ok(())
            }
        }
    }
}

/// The text before `::`, less a subdir.
fn channel_of(spec: &Spec) -> Option<&str> {
    spec.match_spec.channel.as_ref()?;
    let (channel, _) = spec.text.split_once("::")?;
    Some(channel.trim())
}

/// A channel's URL, and the login that it holds: user and password, or a token where its path
/// begins with `/t/TOKEN/` (anaconda.org docs, "Tokens").
fn without_login(url: &Url) -> (Url, Option<Authentication>) {
    let mut clean = url.clone();
    let decode = |text: &str| {
        let bytes = percent_encoding::percent_decode_str(text);
        bytes.decode_utf8_lossy().into_owned()
    };
    let password = url.password().unwrap_or_default();
    // Neither fails where there is something to remove.
    let _ = clean.set_username("");
    let _ = clean.set_password(None);
    let rest = url.path().strip_prefix("/t/");
    if let Some((token, rest)) = rest.and_then(|rest| rest.split_once('/')) {
        clean.set_path(&format!("/{rest}"));
        return (clean, Some(Authentication::CondaToken(token.to_owned())));
    }
    let login =
        (!url.username().is_empty() || !password.is_empty()).then(|| Authentication::BasicHTTP {
            username: decode(url.username()),
            password: decode(password),
        });
    (clean, login)
}

#[cfg(test)]
#[path = "wanted_tests.rs"]
mod tests;
