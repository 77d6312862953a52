//! What specs and build strings say of CUDA.

use std::{cmp::Ordering, fmt};

use rattler_conda_types::{
    MatchSpec, PackageName, VersionSpec,
    version_spec::{EqualityOperator, LogicalOperator, RangeOperator, StrictRangeOperator},
};

use super::SELECTORS;
use crate::spec::Spec;

/// Packages whose version is a CUDA release's.
const RELEASES: [&str; 14] = [
    "pytorch-cuda",
    "cuda-version",
    "cudatoolkit",
    "cudatoolkit-dev",
    "cuda-toolkit",
    "cuda",
    "cuda-runtime",
    "cuda-libraries",
    "cuda-libraries-dev",
    "cuda-compiler",
    "cuda-nvcc",
    "cuda-cudart",
    "cuda-cudart-dev",
    "cuda-nvrtc",
];

/// A CUDA release: `11.8`, or only its major where no more is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CudaVersion {
    /// The major.
    pub major: u32,
    /// The minor, where it is said.
    pub minor: Option<u32>,
}

impl CudaVersion {
    /// Reads `11`, `11.8` or `11.8.0`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|part| part.parse().ok());
        let major = parts.next()??;
        let minor = parts.next().flatten();
        Some(Self { major, minor })
    }

    /// Whether both are the same release, as far as both say it.
    pub(super) fn agrees(self, other: Self) -> bool {
        let minors = self.minor.zip(other.minor);
        self.major == other.major && minors.is_none_or(|(a, b)| a == b)
    }
}

impl fmt::Display for CudaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.minor {
            Some(minor) => write!(f, "{}.{minor}", self.major),
            None => write!(f, "{}", self.major),
        }
    }
}

/// What the specs of an environment say of CUDA.
#[derive(Clone, Copy, Debug)]
pub enum CudaIntent<'a> {
    /// Nothing.
    None,
    /// CPU builds.
    Cpu(&'a Spec),
    /// Builds for GPUs, but not for which CUDA.
    Unversioned(&'a Spec),
    /// Builds for this CUDA; `exact` when only this release will do.
    Version {
        /// The release; the lowest that will do unless it is exact.
        version: CudaVersion,
        /// Whether no other release will do.
        exact: bool,
        /// The spec that says so.
        spec: &'a Spec,
    },
}

/// Reads off the pins which CUDA an environment wants: `pytorch-cuda=11.8`, `cuda-version>=12.4`,
/// `cudatoolkit=11.3`, `pytorch=*=*cuda118*`, `pytorch-gpu`, `cpuonly`.
///
/// Of several releases the highest counts, for it needs the newest driver.
pub fn cuda_intent<'a>(specs: impl IntoIterator<Item = &'a Spec>) -> CudaIntent<'a> {
    let mut best = CudaIntent::None;
    for spec in specs {
        let said = intent_of(spec);
        best = match (rank(&said)).cmp(&rank(&best)) {
            Ordering::Greater => said,
            _ => best,
        };
    }
    best
}

/// Pins say more than names, and GPU builds more than CPU builds: where both are asked for, the
/// solver has to refuse.
fn rank(intent: &CudaIntent<'_>) -> (u8, Option<CudaVersion>, bool) {
    match intent {
        CudaIntent::None => (0, None, false),
        CudaIntent::Cpu(_) => (1, None, false),
        CudaIntent::Unversioned(_) => (2, None, false),
        CudaIntent::Version { version, exact, .. } => (3, Some(*version), *exact),
    }
}

fn intent_of(spec: &Spec) -> CudaIntent<'_> {
    let name = name_of(&spec.match_spec);
    let pin = |version, exact| CudaIntent::Version {
        version,
        exact,
        spec,
    };
    if RELEASES.contains(&name) {
        let bound = spec.match_spec.version.as_ref().and_then(lowest);
        return match bound {
            Some((version, exact)) => pin(version, exact),
            // Libraries and compilers alone say nothing: people build on machines without GPUs.
            None if spec.match_spec.version.is_none() && !SELECTORS.contains(&name) => {
                CudaIntent::None
            }
            None => CudaIntent::Unversioned(spec),
        };
    }
    let build = spec.match_spec.build.as_ref().map(ToString::to_string);
    match build.as_deref().map(flavour) {
        Some(Flavour::Cuda(Some(version))) => pin(version, true),
        Some(Flavour::Cuda(None)) => CudaIntent::Unversioned(spec),
        Some(Flavour::Cpu) => CudaIntent::Cpu(spec),
        _ if name == "cpuonly" || name.ends_with("-cpu") => CudaIntent::Cpu(spec),
        _ if name.ends_with("-gpu") => CudaIntent::Unversioned(spec),
        _ => CudaIntent::None,
    }
}

/// The lowest major and minor that a version spec allows.
pub(in crate::lock) fn least(spec: &VersionSpec) -> Option<CudaVersion> {
    lowest(spec).map(|(version, _)| version)
}

fn name_of(spec: &MatchSpec) -> &str {
    spec.name.as_exact().map_or("", PackageName::as_normalized)
}

/// The lowest release that a version spec allows, and whether it is the only one.
fn lowest(spec: &VersionSpec) -> Option<(CudaVersion, bool)> {
    let release = |text: String| CudaVersion::parse(&text);
    match spec {
        VersionSpec::Exact(EqualityOperator::Equals, v) => Some((release(v.to_string())?, true)),
        VersionSpec::StrictRange(StrictRangeOperator::StartsWith, v) => {
            Some((release(v.to_string())?, true))
        }
        VersionSpec::StrictRange(StrictRangeOperator::Compatible, v) => {
            Some((release(v.to_string())?, false))
        }
        VersionSpec::Range(RangeOperator::Greater | RangeOperator::GreaterEquals, v) => {
            Some((release(v.to_string())?, false))
        }
        VersionSpec::Group(LogicalOperator::And, parts) => {
            let bounds = parts.iter().filter_map(lowest);
            bounds.max_by_key(|(version, exact)| (*exact, *version))
        }
        VersionSpec::Group(LogicalOperator::Or, parts) => {
            let bounds: Vec<_> = parts.iter().map(lowest).collect::<Option<_>>()?;
            let (first, exact) = *bounds.first()?;
            // Two releases are a choice, and not ours to make.
            bounds
                .iter()
                .all(|(version, _)| version.agrees(first))
                .then_some((first, exact))
        }
        _ => None,
    }
}

/// What a build string says of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// For GPUs, of this CUDA where it says it.
    Cuda(Option<CudaVersion>),
    /// For CPUs.
    Cpu,
    /// It does not say.
    Unsaid,
}

/// Reads a build string, or a pattern of one: `py3.9_cuda11.8_cudnn8.7.0_0`, `py39_cu118`,
/// `cuda129_mkl_py312_0`, `*cuda118*`, `cpu_generic_py39_1`.
pub fn flavour(build: &str) -> Flavour {
    let words = || build.split(['_', '*', '-']);
    if let Some(at) = build.find("cuda") {
        let digits = build.get(at + 4..).unwrap_or_default();
        return Flavour::Cuda(release(digits.trim_start_matches('_')));
    }
    let short = words().find_map(|word| release(word.strip_prefix("cu")?));
    match short {
        Some(version) => Flavour::Cuda(Some(version)),
        None if words().any(|word| word.starts_with("cpu")) => Flavour::Cpu,
        None => Flavour::Unsaid,
    }
}

/// `11.8_...`, `118...`, `92` or `12`: since CUDA 10 majors have two digits.
fn release(text: &str) -> Option<CudaVersion> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.'));
    let number = text[..end.unwrap_or(text.len())].trim_end_matches('.');
    if number.contains('.') {
        return CudaVersion::parse(number);
    }
    let major = if number.starts_with('1') { 2 } else { 1 };
    let (major, minor) = number.split_at_checked(major)?;
    Some(CudaVersion {
        major: major.parse().ok()?,
        minor: minor.parse().ok(),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::lock::cuda) fn specs(texts: &[&str]) -> Vec<Spec> {
        let spec = |(at, text): (usize, &&str)| Spec {
            line: at + 1,
            ..Spec::parse(text).unwrap()
        };
        texts.iter().enumerate().map(spec).collect()
    }

    fn intent(texts: &[&str]) -> String {
        match cuda_intent(&specs(texts)) {
            CudaIntent::None => "none".into(),
            CudaIntent::Cpu(spec) => format!("cpu by {}", spec.line),
            CudaIntent::Unversioned(spec) => format!("gpu by {}", spec.line),
            CudaIntent::Version {
                version,
                exact,
                spec,
            } => {
                let sign = if exact { "=" } else { ">=" };
                format!("{sign}{version} by {}", spec.line)
            }
        }
    }

    #[test]
    fn pins_say_which_cuda() {
        let cases: &[(&[&str], &str)] = &[
            (&["python=3.9", "pytorch", "numpy"], "none"),
            (&["pytorch", "pytorch-cuda=11.8"], "=11.8 by 2"),
            (&["pytorch-cuda 11.8"], "=11.8 by 1"),
            (&["cuda-version==12.4"], "=12.4 by 1"),
            (&["cuda-version 12.4.*"], "=12.4 by 1"),
            (&["cuda-version>=12.4"], ">=12.4 by 1"),
            (&["cuda-version>=12.4,<13"], ">=12.4 by 1"),
            (&["cuda-version 11.8|11.8.*"], "=11.8 by 1"),
            (&["cuda-version 11.8|12.1"], "gpu by 1"),
            (&["cuda-version<13"], "gpu by 1"),
            (&["cuda-version=12"], "=12 by 1"),
            (&["cudatoolkit=11.3.1"], "=11.3 by 1"),
            (&["cuda-nvcc=12.4.131", "pytorch"], "=12.4 by 1"),
            (&["pytorch=*=*cuda118*"], "=11.8 by 1"),
            (
                &["pytorch=1.12.1=py3.9_cuda11.3_cudnn8.3.2_0"],
                "=11.3 by 1",
            ),
            (&["torchvision=*=py39_cu117"], "=11.7 by 1"),
            (&["pytorch=2.5=cuda126*"], "=12.6 by 1"),
            (&["pytorch=*=*cuda*"], "gpu by 1"),
            (&["pytorch=*=cuda12*"], "=12 by 1"),
            (&["python", "pytorch-gpu=2.1"], "gpu by 2"),
            (&["tensorflow-gpu"], "gpu by 1"),
            (&["pytorch-cuda"], "gpu by 1"),
            (&["pytorch", "cpuonly"], "cpu by 2"),
            (&["pytorch=*=*cpu*"], "cpu by 1"),
            (&["pytorch-cpu"], "cpu by 1"),
            (&["pytorch-gpu", "cuda-version=12.6"], "=12.6 by 2"),
            (&["cuda-version>=12.0", "pytorch=*=*cuda126*"], "=12.6 by 2"),
            (&["cpuonly", "pytorch-gpu"], "gpu by 2"),
            (&["cudnn=8.9", "nccl", "cupy"], "none"),
            (&["cuda-nvcc", "cuda-cudart"], "none"),
        ];
        for (texts, expected) in cases {
            assert_eq!(intent(texts), *expected, "{texts:?}");
        }
    }

    #[test]
    fn build_strings() {
        let cuda = |text| Flavour::Cuda(CudaVersion::parse(text));
        let cases = [
            ("py3.9_cuda11.8_cudnn8.7.0_0", cuda("11.8")),
            ("py39_cu118", cuda("11.8")),
            ("cuda129_mkl_py312_h1_300", cuda("12.9")),
            ("cuda112py39h1", cuda("11.2")),
            ("py3.6_cuda9.2.148_cudnn7_0", cuda("9.2")),
            ("py27_cuda92_cudnn7_0", cuda("9.2")),
            ("cuda", Flavour::Cuda(None)),
            ("cuda_", Flavour::Cuda(None)),
            ("py3.9_cpu_0", Flavour::Cpu),
            ("cpu_generic_py39h1_0", Flavour::Cpu),
            ("py39h5f9d8c6_0", Flavour::Unsaid),
            ("py39_cublas_0", Flavour::Unsaid),
            ("", Flavour::Unsaid),
        ];
        for (build, expected) in cases {
            assert_eq!(flavour(build), expected, "{build}");
        }
    }
}
