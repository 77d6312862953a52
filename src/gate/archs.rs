//! Which architectures a build of torch has code for.

use super::version::{Cuda, at_least};

/// The architectures of PyTorch's own builds for x86-64 (its wheels, and the packages of the
/// channel `pytorch`), from its build scripts: the CUDA version, the first torch and the first
/// torch after it that has another list, and the list. 6.1 of the conda packages is left out: it
/// runs 6.0's code.
///
/// Sources: pytorch/builder `manywheel/build_cuda.sh` and `conda/pytorch-nightly/build.sh`,
/// pytorch/pytorch `.ci/manywheel/build_cuda.sh`, pytorch issue 182250 (2.10 and 2.11 for 12.8),
/// and torch 2.15's `PYTORCH_RELEASES_CODE_CC` (13.x).
const BUILDS: &[(&str, &str, &str, &[u32])] = &[
    ("10.2", "1.5", "1.13", &[37, 50, 60, 70]),
    ("11.3", "1.10", "1.13", &[37, 50, 60, 70, 75, 80, 86]),
    ("11.6", "1.12", "2.0", &[37, 50, 60, 70, 75, 80, 86]),
    ("11.7", "1.13", "2.1", &[37, 50, 60, 70, 75, 80, 86]),
    ("11.8", "2.0", "2.0.1", &[37, 50, 60, 70, 75, 80, 86]),
    ("11.8", "2.0.1", "2.8", &[37, 50, 60, 70, 75, 80, 86, 90]),
    ("12.1", "2.1", "2.6", &[50, 60, 70, 75, 80, 86, 90]),
    ("12.4", "2.4", "2.7", &[50, 60, 70, 75, 80, 86, 90]),
    ("12.6", "2.6", "3", &[50, 60, 70, 75, 80, 86, 90]),
    ("12.8", "2.7", "2.8", &[75, 80, 86, 90, 100, 120]),
    ("12.8", "2.8", "2.11", &[70, 75, 80, 86, 90, 100, 120]),
    ("12.8", "2.11", "3", &[75, 80, 86, 90, 100, 120]),
    ("12.9", "2.8", "2.11", &[70, 75, 80, 86, 90, 100, 120]),
    ("13.0", "2.9", "3", &[75, 80, 86, 90, 100, 120]),
    ("13.2", "2.15", "3", &[75, 80, 86, 90, 100, 120]),
    ("13.4", "2.15", "3", &[75, 80, 86, 90, 100, 120]),
];

/// What every build needs for an architecture, whoever made it: the first CUDA whose compiler
/// knows its generation (NVIDIA, CUDA Toolkit release notes), and the first torch that was made
/// for it.
const NEEDS: &[(u32, &str, &str)] = &[
    (70, "9.0", "1.0"),
    (80, "11.0", "1.7"),
    (90, "11.8", "2.0.1"),
    (100, "12.8", "2.7"),
];

/// The generations that a CUDA version's compiler has left behind: the lowest architecture that
/// it still compiles for.
const LEFT_BEHIND: &[(&str, u32)] = &[("11.0", 35), ("12.0", 50), ("13.0", 75)];

/// The list of PyTorch's own build of that version, where it is known.
pub fn official(torch: &str, cuda: Cuda) -> Option<&'static [u32]> {
    let cuda = cuda.to_string();
    BUILDS
        .iter()
        .find(|(its, from, until, _)| {
            cuda == *its && at_least(torch, from) && !at_least(torch, until)
        })
        .map(|(.., list)| *list)
}

/// Whether code of a list runs on a GPU: of the same major version, and the same or an earlier
/// minor one (NVIDIA, CUDA C++ Programming Guide, "Binary Compatibility").
pub fn runs(list: &[u32], gpu: u32) -> bool {
    list.iter()
        .any(|code| code / 10 == gpu / 10 && code % 10 <= gpu % 10)
}

/// Why no build of that torch for that CUDA can have code for a GPU; `None` when one can.
pub fn ruled_out(torch: &str, cuda: Cuda, gpu: u32) -> Option<String> {
    let version = cuda.to_string();
    let need = NEEDS.iter().rev().find(|(from, ..)| gpu >= *from);
    if let Some((_, least_cuda, least_torch)) = need {
        let old_cuda = Cuda::from_version(least_cuda).is_some_and(|least| cuda.is_before(least));
        if old_cuda || !at_least(torch, least_torch) {
            return Some(format!(
                "sm_{gpu} needs torch {least_torch} and CUDA {least_cuda} or later"
            ));
        }
    }
    let lowest = LEFT_BEHIND
        .iter()
        .rev()
        .find(|(since, _)| at_least(&version, since));
    let (since, lowest) = lowest.filter(|(_, lowest)| gpu < *lowest)?;
    Some(format!(
        "CUDA {since} and later have nothing for GPUs before sm_{lowest}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(torch: &str, cuda: &str) -> Option<&'static [u32]> {
        official(torch, Cuda::from_version(cuda).unwrap())
    }

    #[test]
    fn lists_of_known_builds() {
        let ends = |torch, cuda| {
            let list = list(torch, cuda)?;
            Some((*list.first()?, *list.last()?))
        };
        assert_eq!(ends("1.12.0", "11.3"), Some((37, 86)));
        assert_eq!(ends("2.0.0", "11.8"), Some((37, 86)));
        assert_eq!(ends("2.0.1", "11.8"), Some((37, 90)));
        assert_eq!(ends("2.4.1", "12.1"), Some((50, 90)));
        assert_eq!(ends("2.7.1", "12.8"), Some((75, 120)));
        assert_eq!(ends("2.10.0", "12.8"), Some((70, 120)));
        assert_eq!(ends("2.11.0", "12.8"), Some((75, 120)));
        assert_eq!(ends("2.15.0", "13.2"), Some((75, 120)));
        assert_eq!(list("2.15.0", "14.0"), None);
        assert_eq!(list("1.8.0", "11.1"), None);
    }

    #[test]
    fn code_runs_within_a_major_version() {
        let cu132 = list("2.15.0", "13.2").unwrap();
        for gpu in [75, 80, 86, 89, 90, 100, 103, 120, 121] {
            assert!(runs(cu132, gpu), "{gpu}");
        }
        for gpu in [37, 52, 60, 61, 70] {
            assert!(!runs(cu132, gpu), "{gpu}");
        }
        assert!(!runs(&[86], 80) && !runs(&[90], 100));
    }

    #[test]
    fn what_no_build_can_have() {
        let out = |torch, cuda, gpu| {
            ruled_out(torch, Cuda::from_version(cuda).unwrap(), gpu).unwrap_or_default()
        };
        assert_eq!(
            out("1.12.0", "11.3", 90),
            "sm_90 needs torch 2.0.1 and CUDA 11.8 or later"
        );
        assert_eq!(
            out("2.6.0", "12.8", 120),
            "sm_120 needs torch 2.7 and CUDA 12.8 or later"
        );
        assert_eq!(
            out("2.0.0", "12", 90),
            "sm_90 needs torch 2.0.1 and CUDA 11.8 or later"
        );
        assert!(out("2.10.0", "13.0", 70).contains("before sm_75"));
        assert!(out("2.1.0", "12.1", 37).contains("before sm_50"));
        for (torch, cuda, gpu) in [
            ("2.10.0", "12.9", 90),
            ("2.10.0", "12.9", 70),
            ("2.10.0", "12", 60),
            ("1.12.0", "11.3", 37),
            ("2.0.1", "11.8", 90),
        ] {
            assert_eq!(out(torch, cuda, gpu), "", "{torch} {cuda} {gpu}");
        }
    }

    /// The lists say nothing that the limits deny.
    #[test]
    fn lists_and_limits_agree() {
        for (cuda, torch, _, list) in BUILDS {
            let cuda = Cuda::from_version(cuda).unwrap();
            for arch in *list {
                assert_eq!(
                    ruled_out(torch, cuda, *arch),
                    None,
                    "{torch} {cuda} sm_{arch}"
                );
            }
        }
    }
}
