//! What a lock was made under, besides the specs and channels: the same answer is only asked for
//! again while these are the same.

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use rattler_solve::ChannelPriority;
use url::Url;

use crate::{base::BaseSource, digest::Digest, secret::without_credentials, spec::PipSources};

/// The base image that a lock is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockedBase {
    /// What `base:` names: a registry reference as written, `docker-daemon:REF`, or the kind alone
    /// (`oci`) for files of this machine, whose paths are nobody else's.
    pub reference: String,
    /// The digest of the manifest; for archives without one, of the config.
    pub digest: Digest,
}

impl LockedBase {
    /// What a lock calls this base; `None` for `scratch`, which has nothing to lock.
    pub fn reference_of(source: &BaseSource) -> Option<String> {
        Some(match source {
            BaseSource::Scratch => return None,
            BaseSource::OciLayout(_) => "oci".into(),
            BaseSource::OciArchive(_) => "oci-archive".into(),
            BaseSource::DockerArchive(_) => "docker-archive".into(),
            BaseSource::DockerDaemon(_) | BaseSource::Registry(_) => source.to_string(),
        })
    }
}

/// What the solver was told besides specs and channels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// The virtual packages of the target, as `name=version=build`, by name.
    pub virtual_packages: Vec<String>,
    /// How the channels' order counts.
    pub channel_priority: ChannelPriority,
    /// Packages published later did not count.
    pub exclude_newer: Option<Timestamp>,
    /// What pip packages were chosen under; absent when there are none.
    pub pip: Option<PipConditions>,
}

/// What pip packages were chosen under.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PipConditions {
    /// The names of the requirements, normalised (PEP 503), with their extras, sorted.
    pub names: Vec<String>,
    /// The indexes in order, without credentials.
    pub indexes: Vec<String>,
    /// The places of `--find-links`.
    pub find_links: Vec<String>,
    /// Whether pre-releases counted.
    pub prereleases: bool,
}

/// The index that pip asks when nothing is said.
const PYPI: &str = "https://pypi.org/simple";

/// A place of `--find-links` as a lock may have it.
fn shown(place: &str) -> String {
    match place.parse::<Url>() {
        Ok(url) if url.has_host() => clean(&url),
        _ => place.to_owned(),
    }
}

impl PipConditions {
    /// The conditions of requirements of these names, which need not be sorted.
    pub fn new(mut names: Vec<String>, sources: &PipSources) -> Self {
        names.sort();
        names.dedup();
        let mut indexes = Vec::new();
        if !sources.no_index {
            let main = sources.index_url.as_ref().map(clean);
            indexes.push(main.unwrap_or_else(|| PYPI.into()));
        }
        indexes.extend(sources.extra_index_urls.iter().map(clean));
        Self {
            names,
            indexes,
            find_links: sources
                .find_links
                .iter()
                .map(|place| shown(place))
                .collect(),
            prereleases: sources.prereleases,
        }
    }
}

/// A URL without user and password, and without the slash at its end that means nothing.
pub(super) fn clean(url: &Url) -> String {
    let url = without_credentials(url);
    url.as_str().trim_end_matches('/').to_owned()
}

impl Conditions {
    /// The version of a virtual package, such as that of `__cuda`.
    pub fn version_of(&self, name: &str) -> Option<&str> {
        self.virtual_packages.iter().find_map(|package| {
            let rest = package.strip_prefix(name)?.strip_prefix('=')?;
            rest.split('=').next()
        })
    }
}

/// Reads `--exclude-newer`: an RFC 3339 time, or a date, which means the whole day, as in uv.
///
/// A day is one of UTC: uv takes the machine's time zone, which would give other machines another
/// lock.
///
/// # Errors
/// The forms there are, in words.
pub fn cutoff(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let wrong = || "it is neither a date (2026-03-31) nor an RFC 3339 time (2026-03-31T12:00:00Z)";
    let date: Date = (text.len() == "2026-03-31".len())
        .then(|| text.parse().ok())
        .flatten()
        .ok_or_else(wrong)?;
    let last = date.at(23, 59, 59, 999_000_000);
    last.to_zoned(TimeZone::UTC)
        .map(|time| time.timestamp())
        .map_err(|_| wrong().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_the_whole_day_in_utc() {
        let shown = |text| cutoff(text).map(|time| time.to_string());
        assert_eq!(shown("2024-02-29").unwrap(), "2024-02-29T23:59:59.999Z");
        assert_eq!(
            shown("2024-02-29T12:00:00+02:00").unwrap(),
            "2024-02-29T10:00:00Z"
        );
        for bad in [
            "",
            "2023-02-29",
            "2024",
            "yesterday",
            "2024-02-29T12:00:00",
            "20240229",
            "7 days",
            "-009999-01-01",
        ] {
            assert!(shown(bad).is_err(), "{bad}: {:?}", shown(bad));
        }
    }

    #[test]
    fn local_bases_are_known_by_their_bytes() {
        let name = |text: &str| LockedBase::reference_of(&text.parse().unwrap());
        assert_eq!(name("oci:/home/me/base:v1").as_deref(), Some("oci"));
        assert_eq!(name("debian:12").as_deref(), Some("debian:12"));
        assert_eq!(name("scratch"), None);
    }

    #[test]
    fn versions_of_virtual_packages() {
        let conditions = Conditions {
            virtual_packages: vec!["__cuda=13.2=0".into(), "__cudax=1=0".into()],
            ..Conditions::default()
        };
        assert_eq!(conditions.version_of("__cuda"), Some("13.2"));
        assert_eq!(conditions.version_of("__glibc"), None);
    }
}
