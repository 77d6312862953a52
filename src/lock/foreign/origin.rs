//! Where a lock says that a package comes from, checked and without secrets.

use rattler_conda_types::{
    PackageName, PackageRecord, RepoDataRecord, Subdir, VersionWithSource,
    package::CondaArchiveIdentifier,
};
use url::Url;

use crate::package::origin::{channel, file_name, public_url, subdir};

/// Why a package cannot be used, and the way out. Neither quotes a URL as it was given: it may
/// hold a password.
#[derive(Debug)]
pub(super) struct Refusal {
    pub why: String,
    pub hint: String,
}

pub(super) type Checked<T> = Result<T, Refusal>;

pub(super) fn refusal<T>(why: impl Into<String>, hint: impl Into<String>) -> Checked<T> {
    Err(Refusal {
        why: why.into(),
        hint: hint.into(),
    })
}

const LOCK_AGAIN: &str = "lock the environment again with the tool that wrote the file";

/// The address of a conda package.
#[derive(Debug)]
pub(super) struct Origin {
    /// The address, without credentials.
    pub url: Url,
    /// Whether credentials were left out.
    pub secret: bool,
    identifier: CondaArchiveIdentifier,
    subdir: Subdir,
}

impl Origin {
    /// Reads a URL.
    pub fn parse(text: &str, platform: Subdir) -> Checked<Self> {
        match Url::parse(text) {
            Ok(url) => Self::of(&url, platform),
            Err(e) => refusal(format!("its URL cannot be read: {e}"), LOCK_AGAIN),
        }
    }

    /// Checks a URL: that of a conda package, by its scheme and name, for this platform.
    pub fn of(url: &Url, platform: Subdir) -> Checked<Self> {
        let (url, secret) = without_secrets(url);
        if !matches!(url.scheme(), "http" | "https" | "file") {
            let why = format!("its URL is of scheme '{}'", url.scheme());
            return refusal(why, "use a channel that is read over https: or file:");
        }
        if url.path().contains("$%7B") || url.as_str().contains("${") {
            return refusal(
                "its URL has an environment variable",
                "write the channel's plain URL into the lock",
            );
        }
        let Some(identifier) = identifier(&url) else {
            return refusal(
                format!("{} is not the URL of a conda package", url),
                "its last part must be NAME-VERSION-BUILD.conda or .tar.bz2",
            );
        };
        let subdir = subdir(&url);
        match subdir {
            Some(subdir) if subdir != platform && subdir != Subdir::NoArch => refusal(
                format!("it is for {subdir}; images are for {platform}"),
                format!("lock the environment for {platform} too"),
            ),
            _ => Ok(Self {
                url,
                secret,
                identifier,
                subdir: subdir.unwrap_or(platform),
            }),
        }
    }

    /// What the address alone says of a package; all else is completed from the archive.
    pub fn record(self) -> Checked<RepoDataRecord> {
        let identifier = self.identifier.identifier.clone();
        let name: PackageName = match identifier.name.parse() {
            Ok(name) => name,
            Err(e) => {
                return refusal(
                    format!("its file name has no package name: {e}"),
                    LOCK_AGAIN,
                );
            }
        };
        let version: VersionWithSource = match identifier.version.parse() {
            Ok(version) => version,
            Err(e) => return refusal(format!("its file name has no version: {e}"), LOCK_AGAIN),
        };
        let build =
            rattler_conda_types::package::BuildString::new_unchecked(identifier.build_string);
        let mut package_record = PackageRecord::new(name, version, build);
        package_record.subdir = self.subdir.to_string();
        Ok(RepoDataRecord {
            package_record,
            channel: Some(channel(&self.url)),
            identifier: self.identifier.into(),
            url: self.url,
        })
    }
}

/// The same package with its address checked and cleaned; the lock's words must agree with it.
pub(super) fn checked(record: RepoDataRecord, platform: Subdir) -> Checked<(RepoDataRecord, bool)> {
    let origin = Origin::of(&record.url, platform)?;
    let secret = origin.secret;
    let own = origin.record()?;
    let (said, named) = (&record.package_record, &own.package_record);
    agrees(
        "name",
        said.name.as_normalized(),
        named.name.as_normalized(),
    )?;
    if said.version != named.version {
        agrees("version", &said.version.as_str(), &named.version.as_str())?;
    }
    agrees("build", said.build.as_str(), named.build.as_str())?;
    Ok((
        RepoDataRecord {
            package_record: record.package_record,
            ..own
        },
        secret,
    ))
}

/// Whether what the lock says is what the file name says.
pub(super) fn agrees(what: &str, said: &str, named: &str) -> Checked<()> {
    if said == named {
        return Ok(());
    }
    refusal(
        format!("the lock says {what} {said}, its file name {named}"),
        LOCK_AGAIN,
    )
}

/// The parts of the file's name; only those whose characters packages have (CEP 26).
fn identifier(url: &Url) -> Option<CondaArchiveIdentifier> {
    let name = file_name(url)?;
    let usual = |c: char| c.is_ascii_alphanumeric() || "._+!-=~".contains(c);
    let found = CondaArchiveIdentifier::try_from_filename(&name)?;
    let parts = &found.identifier;
    let whole = !parts.name.is_empty() && !parts.version.is_empty();
    (whole && name.chars().all(usual)).then_some(found)
}

/// The URL without what is secret in it, and whether there was more than a fragment, which holds
/// hashes.
pub(super) fn without_secrets(given: &Url) -> (Url, bool) {
    let url = public_url(given);
    let mut plain = given.clone();
    plain.set_fragment(None);
    let secret = url != plain;
    (url, secret)
}

/// A text of a parser, which may quote URLs, without what they hold of secrets.
pub(super) fn hide_secrets(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for word in text.split_inclusive([' ', '\n', '\'', '"', '`']) {
        match word.split_once("://") {
            None => shown.push_str(word),
            Some((scheme, rest)) => {
                let end = rest
                    .trim_end_matches([' ', '\n', '\'', '"', '`', ')', ','])
                    .len();
                let (address, tail) = rest.split_at(end);
                let of_scheme = |c: char| c.is_ascii_alphanumeric() || c == '+';
                let (lead, scheme) = scheme.split_at(scheme.trim_end_matches(of_scheme).len());
                shown.push_str(lead);
                match Url::parse(&format!("{scheme}://{address}")) {
                    Ok(url) => shown.push_str(without_secrets(&url).0.as_str()),
                    Err(_) => shown.push_str("(a URL)"),
                }
                shown.push_str(tail);
            }
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Subdir = Subdir::Linux64;

    #[test]
    fn addresses_tell_all_of_a_thin_record() {
        let url = "https://me:pw@host/t/tk-1/a/label/b/linux-64/x264-1!164.3095-h16_2.tar.bz2#md5";
        let origin = Origin::parse(url, HERE).unwrap();
        assert!(origin.secret);
        let record = origin.record().unwrap();
        assert_eq!(
            record.url.as_str(),
            "https://host/a/label/b/linux-64/x264-1!164.3095-h16_2.tar.bz2"
        );
        assert_eq!(record.channel.as_deref(), Some("https://host/a/label/b/"));
        let package = &record.package_record;
        let parts = (
            package.name.as_normalized(),
            package.version.to_string(),
            package.build.as_str(),
            package.subdir.as_str(),
        );
        assert_eq!(parts, ("x264", "1!164.3095".into(), "h16_2", "linux-64"));

        let folder = Origin::parse("file:///srv/t/x/noarch/a-1%2B2-0.conda", HERE).unwrap();
        assert!(!folder.secret);
        assert_eq!(folder.identifier.identifier.version, "1+2");
    }

    #[test]
    fn other_addresses_are_refused_without_their_secrets() {
        for (url, words) in [
            (
                "https://u:pw@h/linux-64/a-1-0.whl",
                "not the URL of a conda",
            ),
            (
                "https://u:pw@h/linux-64/a-1.conda",
                "not the URL of a conda",
            ),
            (
                "https://u:pw@h/linux-64/a%2Fb-1-0.conda",
                "not the URL of a conda",
            ),
            (
                "https://u:pw@h/linux-64/a%00-1-0.conda",
                "not the URL of a conda",
            ),
            ("https://u:pw@h/linux-64/", "not the URL of a conda"),
            ("https://u:pw@h/win-64/a-1-0.conda", "for win-64"),
            (
                "git+https://u:pw@h/noarch/a-1-0.conda",
                "scheme 'git+https'",
            ),
            (
                "https://u:pw@h/${CH}/noarch/a-1-0.conda",
                "environment variable",
            ),
            (
                "https://u:pw@${H}/noarch/a-1-0.conda",
                "environment variable",
            ),
            ("noarch/a-1-0.conda", "cannot be read"),
        ] {
            let refused = Origin::parse(url, HERE).unwrap_err();
            assert!(refused.why.contains(words), "{url}: {}", refused.why);
            assert!(!refused.why.contains("pw"), "{}", refused.why);
        }
        let odd = Origin::parse("https://h/noarch/a-x!y!z-0.conda", HERE).unwrap();
        assert!(odd.record().unwrap_err().why.contains("no version"));
    }

    #[test]
    fn texts_lose_secrets_only() {
        for (text, shown) in [
            ("no address: at all", "no address: at all"),
            (
                "missing (https://u:pw@h/t/tk/x/a-1-0.conda), or 'http://h/b'",
                "missing (https://h/x/a-1-0.conda), or 'http://h/b'",
            ),
            (
                "at git+ssh://me:pw@h/x.git done",
                "at git+ssh://h/x.git done",
            ),
            ("bad https://u:pw@[/x", "bad (a URL)"),
        ] {
            assert_eq!(hide_secrets(text), shown);
        }
    }
}
