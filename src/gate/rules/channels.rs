//! Do the channels have a future, and may they be used?

use url::Url;

use super::warning;
use crate::gate::{Finding, Item, Manager};

pub(super) fn findings(items: &[&Item], channels: &[&str]) -> Vec<Finding> {
    [frozen(items), licence(items, channels)]
        .into_iter()
        .flatten()
        .collect()
}

fn frozen(items: &[&Item]) -> Option<Finding> {
    let from = named(items, |item| item.channel == "pytorch")?;
    let message = format!(
        "{from} from the channel 'pytorch', which gets nothing new since 2.5.1 (October 2024)"
    );
    let fix = "take pytorch from conda-forge (pytorch-gpu), or from PyPI under `pip:`";
    Some(warning("channel-frozen", message, fix))
}

/// A channel that is asked counts even where it gives no package.
fn licence(items: &[&Item], channels: &[&str]) -> Option<Finding> {
    let asked = || {
        let listed = channels.iter().any(|channel| is_defaults(channel));
        listed.then(|| "the channels are".to_owned())
    };
    let from = named(items, |item| is_anacondas(&item.host, &item.channel)).or_else(asked)?;
    let message = format!(
        "{from} from Anaconda's 'defaults', which need a licence from Anaconda in organisations \
         of 200 people or more"
    );
    let fix = "use conda-forge, with `nodefaults` in `channels:`";
    Some(warning("channel-licence", message, fix))
}

/// repo.anaconda.com, and the same packages under conda.anaconda.org.
fn is_anacondas(host: &str, channel: &str) -> bool {
    host == "repo.anaconda.com"
        || (host == "conda.anaconda.org" && matches!(channel, "main" | "anaconda" | "r"))
}

/// The same of a channel as a lock lists it: a URL, or a name.
fn is_defaults(channel: &str) -> bool {
    match Url::parse(channel) {
        Ok(url) => {
            let name = url.path().trim_end_matches('/').rsplit('/').next();
            is_anacondas(url.host_str().unwrap_or_default(), name.unwrap_or_default())
        }
        Err(_) => matches!(channel, "defaults" | "main" | "anaconda"),
    }
}

/// `python 3.9.16 and 3 more packages come`, for the conda packages that are meant.
fn named(items: &[&Item], meant: impl Fn(&Item) -> bool) -> Option<String> {
    let found: Vec<&&Item> = items
        .iter()
        .filter(|item| item.manager == Manager::Conda && meant(item))
        .collect();
    let known = found.iter().find(|item| item.name == "pytorch");
    let first = known.or_else(|| found.first())?;
    let name = format!("{} {}", first.name, first.version);
    Some(match found.len() - 1 {
        0 => format!("{name} comes"),
        1 => format!("{name} and 1 more package come"),
        n => format!("{name} and {n} more packages come"),
    })
}
