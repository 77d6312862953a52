//! Channel names, URLs and folders to channels.

use std::path::Path;

use rattler_conda_types::{Channel, ChannelConfig};

use crate::error::{Error, Result, chain};

/// What conda means by `defaults` on Linux (conda docs, `default_channels`).
const DEFAULTS: [&str; 2] = [
    "https://repo.anaconda.com/pkgs/main",
    "https://repo.anaconda.com/pkgs/r",
];

/// Resolves channels in priority order: names below the channel alias, URLs as they are, and
/// relative paths against `dir`.
///
/// # Errors
/// When a channel is neither a name, a URL nor a path.
pub fn resolve_channels(names: &[String], dir: &Path) -> Result<Vec<Channel>> {
    let config = ChannelConfig::default_with_root_dir(dir.to_path_buf());
    let mut channels = Vec::new();
    for name in names {
        let expanded = match name.as_str() {
            "defaults" => DEFAULTS.to_vec(),
            other => vec![other],
        };
        for text in expanded {
            let channel = Channel::from_str(text, &config).map_err(|e| {
                Error::input(format!("'{text}' is not a channel"))
                    .why(chain(&e))
                    .hint("use a channel name, a URL, or a folder")
            })?;
            channels.push(channel);
        }
    }
    Ok(channels)
}

/// Whether a package's URL is one of this channel's: `CHANNEL/SUBDIR/FILE`.
pub(super) fn holds(channel: &str, package: &url::Url) -> bool {
    let rest = package.as_str().strip_prefix(channel.trim_end_matches('/'));
    rest.and_then(|rest| rest.strip_prefix('/'))
        .is_some_and(|rest| rest.matches('/').count() == 1)
}
