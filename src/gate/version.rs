//! CUDA and driver versions, read out of the forms that packages and people write.

use std::{cmp::Ordering, fmt, str::FromStr};

/// A CUDA version; the minor part is not known where only a suffix such as `-cu12` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cuda {
    /// The major version: what the names of the libraries carry.
    pub major: u32,
    /// The minor version.
    pub minor: Option<u32>,
}

impl Cuda {
    /// From a version: `11.8`, `12.9.86`, `13`.
    pub fn from_version(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        Some(Self {
            major: number(parts.next()?)?,
            minor: parts.next().and_then(number),
        })
    }

    /// From a tag within a build string or a local version: `cuda129_mkl_py312_h0`,
    /// `py3.9_cuda11.8_cudnn8.7.0_0`, `py39_cu118`, `cu118`, `cuda12`.
    ///
    /// Without a dot, the last digit is the minor version, unless there are two digits that make
    /// a major version of today (`cuda12`, but `cuda92`).
    pub fn from_tag(text: &str) -> Option<Self> {
        text.match_indices("cu").find_map(|(at, _)| {
            let (before, tagged) = text.split_at(at);
            // `icu73` is no CUDA.
            if before.ends_with(|c: char| c.is_alphabetic()) {
                return None;
            }
            let digits = tagged.strip_prefix("cuda").or(tagged.strip_prefix("cu"))?;
            Self::from_digits(digits)
        })
    }

    fn from_digits(text: &str) -> Option<Self> {
        let odd = |c: char| !c.is_ascii_digit() && c != '.';
        let version = text.split(odd).next().unwrap_or_default();
        if version.contains('.') {
            return Self::from_version(version);
        }
        let all = number(version)?;
        let (major, minor) = match version.len() {
            1 => (all, None),
            2 if all < 20 => (all, None),
            2 | 3 => (all / 10, Some(all % 10)),
            _ => return None,
        };
        Some(Self { major, minor })
    }

    /// Whether this one is certainly older than another; a minor part that is not known is not.
    pub fn is_before(self, other: Self) -> bool {
        match self.major.cmp(&other.major) {
            Ordering::Equal => match (self.minor, other.minor) {
                (Some(own), Some(its)) => own < its,
                _ => false,
            },
            order => order == Ordering::Less,
        }
    }
}

impl fmt::Display for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.minor {
            Some(minor) => write!(f, "{}.{minor}", self.major),
            None => write!(f, "{}", self.major),
        }
    }
}

fn number(text: &str) -> Option<u32> {
    // Longer ones are dates or hashes, not parts of a version.
    (text.len() <= 4).then(|| text.parse().ok())?
}

/// The numbers of a version, up to the first part that has none.
pub fn numbers(text: &str) -> Vec<u32> {
    let digits = |part: &str| {
        let end = part.find(|c: char| !c.is_ascii_digit());
        part.get(..end.unwrap_or(part.len()))?.parse().ok()
    };
    text.split('.').map_while(digits).collect()
}

/// Whether a version is at least another, parts that are not written counting as 0.
pub fn at_least(version: &str, least: &str) -> bool {
    let (mut own, mut least) = (numbers(version), numbers(least));
    let longest = own.len().max(least.len());
    own.resize(longest, 0);
    least.resize(longest, 0);
    own >= least
}

/// The version of an NVIDIA driver: `535`, `535.104`, `450.80.02`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver(String);

impl Driver {
    /// Whether it is at least that version; parts that are not written count as 0.
    pub fn at_least(&self, least: &str) -> bool {
        at_least(&self.0, least)
    }

    /// The newest CUDA version whose toolkit it runs all of: what conda calls `__cuda`.
    pub fn offers(&self) -> Option<Cuda> {
        super::drivers::newest_within(|least| self.at_least(least))
    }

    /// Whether the version is written only in part, and the rest decides whether it is at least
    /// another: `525` against `525.60.13`.
    pub fn may_reach(&self, least: &str) -> bool {
        numbers(least).starts_with(&numbers(&self.0))
    }
}

impl FromStr for Driver {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "write it as nvidia-smi shows it, such as 535.104.05";
        let parts: Vec<&str> = text.split('.').collect();
        let plain = |part: &&str| part.len() <= 4 && part.parse::<u32>().is_ok();
        if parts.len() > 4 || !parts.iter().all(plain) || text.contains('+') {
            return Err(format!("it is no driver version; {form}"));
        }
        match numbers(text).first() {
            // Drivers have had three digits since 2008, CUDA never.
            Some(100..=9999) => Ok(Self(text.to_owned())),
            _ => Err(format!("it looks like a CUDA version; {form}")),
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tags_of_real_builds() {
        for (text, version) in [
            ("py3.9_cuda11.8_cudnn8.7.0_0", Some("11.8")),
            ("py3.9_cuda10.2_cudnn7.6.5_0", Some("10.2")),
            ("py3.6_cuda9.0.176_cudnn7.3.0_1", Some("9.0")),
            ("cuda129_mkl_py312_h2ff76c1_300", Some("12.9")),
            ("cuda118py39h0fb4ba5_300", Some("11.8")),
            ("py39_cu118", Some("11.8")),
            ("cuda92py36h65efead_0", Some("9.2")),
            ("cu132", Some("13.2")),
            ("cuda12x", Some("12")),
            ("py3.9_cpu_0", None),
            ("cpu_mkl_py312_h7bab1f2_0", None),
            ("h0fb4ba5_0", None),
            ("icu73_h0fb4ba5_0", None),
        ] {
            let found = Cuda::from_tag(text).map(|cuda| cuda.to_string());
            assert_eq!(found.as_deref(), version, "{text}");
        }
    }

    #[test]
    fn drivers_compare_by_number() {
        let driver: Driver = "535.104".parse().unwrap();
        assert!(driver.at_least("535.54.03") && driver.at_least("450.80.02"));
        assert!(!driver.at_least("535.104.05") && driver.may_reach("535.104.05"));
        assert!(!driver.at_least("545.23.06") && !driver.may_reach("545.23.06"));
        let old: Driver = "450.80.02".parse().unwrap();
        assert!(old.at_least("450.80.2") && !old.at_least("450.102"));
        for bad in [
            "",
            "12.4",
            "535.",
            "535.x",
            "R535",
            "+535",
            "535.1.2.3.4",
            "99999",
        ] {
            assert!(bad.parse::<Driver>().is_err(), "{bad}");
        }
    }

    #[test]
    fn cuda_versions_compare() {
        let cuda = |text| Cuda::from_version(text).unwrap();
        assert!(cuda("11.8").is_before(cuda("12.1")) && cuda("12.1").is_before(cuda("12.10")));
        assert!(!cuda("12").is_before(cuda("12.4")) && !cuda("12.4").is_before(cuda("12")));
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,40}") {
            let _ = (Cuda::from_tag(&text), Cuda::from_version(&text), numbers(&text));
            let _ = text.parse::<Driver>();
        }
    }
}
