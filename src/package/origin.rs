//! What a package's URL says of where it comes from: the same whichever lock named it.

use std::str::FromStr;

use percent_encoding::percent_decode_str;
use rattler_conda_types::{ChannelUrl, Subdir};
use url::Url;

use super::archive::ArchiveKind;
use crate::secret::without_credentials;

/// The URL as it may stand in an image: without user, password, token (conda's `/t/TOKEN/`, see
/// "Secure channels" in its docs), query and fragment.
pub fn public_url(url: &Url) -> Url {
    let mut url = without_credentials(url);
    url.set_query(None);
    url.set_fragment(None);
    // Servers behind a path of their own have tokens too (conda, `split_anaconda_token`).
    if url.scheme() != "file"
        && let Some((before, rest)) = url.path().split_once("/t/")
        && let Some((_, after)) = rest.split_once('/')
    {
        let path = format!("{before}/{after}");
        url.set_path(&path);
    }
    url
}

/// The channel: all before the subdir and the file (conda docs, "What is a conda channel?").
pub fn channel(url: &Url) -> String {
    let mut base = public_url(url);
    if let Ok(mut segments) = base.path_segments_mut() {
        segments.pop().pop();
    }
    // With a slash at the end, as rattler writes channels.
    ChannelUrl::from(base).to_string()
}

/// The subdir, when the URL has one where channels do.
pub fn subdir(url: &Url) -> Option<Subdir> {
    let folder = url.path_segments()?.rev().nth(1)?;
    Subdir::from_str(folder).ok()
}

/// The file name less its extension: `name-version-build`.
pub fn dist(url: &Url) -> Option<String> {
    let file = file_name(url)?;
    let kind = ArchiveKind::from_file_name(&file)?;
    file.strip_suffix(kind.extension()).map(str::to_owned)
}

/// The file name.
pub fn file_name(url: &Url) -> Option<String> {
    let last = url.path_segments()?.next_back()?;
    Some(percent_decode_str(last).decode_utf8().ok()?.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn secrets_go_and_the_rest_stays() {
        for (given, public) in [
            (
                "https://user:pw@host/t/tk-1/ch/noarch/a-1-0.conda?sig=x#md5",
                "https://host/ch/noarch/a-1-0.conda",
            ),
            ("https://host/t/a-1-0.conda", "https://host/t/a-1-0.conda"),
            (
                "https://host/conda/t/tk-1/ch/noarch/a-1-0.conda",
                "https://host/conda/ch/noarch/a-1-0.conda",
            ),
            (
                "file:///srv/t/tk/noarch/a-1-0.conda",
                "file:///srv/t/tk/noarch/a-1-0.conda",
            ),
        ] {
            assert_eq!(public_url(&url(given)).as_str(), public);
        }
    }

    #[test]
    fn urls_are_read_as_channels_write_them() {
        let given = url("https://u:p@host/t/tk/a/b/linux-64/x264-1!164.3095-h1+2_0.tar.bz2");
        assert_eq!(channel(&given), "https://host/a/b/");
        assert_eq!(subdir(&given), Some(Subdir::Linux64));
        assert_eq!(dist(&given).as_deref(), Some("x264-1!164.3095-h1+2_0"));
        let encoded = url("file:///ch/noarch/a-1%212-0.conda");
        assert_eq!(dist(&encoded).as_deref(), Some("a-1!2-0"));
        assert_eq!(subdir(&encoded), Some(Subdir::NoArch));
        assert_eq!(subdir(&url("file:///home/me/a-1-0.conda")), None);
        assert_eq!(dist(&url("https://host/a.whl")), None);
    }
}
