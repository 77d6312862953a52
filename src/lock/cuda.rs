//! What an environment's specs say of CUDA, and whether what was solved is what they asked for.

use std::{cmp::Ordering, collections::BTreeSet, fmt};

use rattler_conda_types::{
    MatchSpec, PackageName, PackageNameMatcher, ParseStrictness, RepoDataRecord, VersionSpec,
    version_spec::{EqualityOperator, LogicalOperator, RangeOperator, StrictRangeOperator},
};

use crate::{
    error::{Error, Result},
    spec::{Spec, source::quoted},
};

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
/// Of those, the ones that choose between builds of torch without saying `__cuda`.
const SELECTORS: [&str; 2] = ["pytorch-cuda", "cudatoolkit"];
/// Packages of which torch's CUDA can be read, the nearest to torch first.
const RUNTIMES: [&str; 3] = ["pytorch-cuda", "cudatoolkit", "cuda-version"];
/// Packages that are torch.
const TORCH: [&str; 2] = ["pytorch", "libtorch"];

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
    fn agrees(self, other: Self) -> bool {
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
pub(super) fn least(spec: &VersionSpec) -> Option<CudaVersion> {
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

/// Constraints that leave only the builds of torch that name a CUDA.
pub(super) fn gpu_builds() -> Vec<MatchSpec> {
    let spec = |name: &&str| {
        let text = format!("{name} * *cuda*");
        MatchSpec::from_str(&text, ParseStrictness::Lenient).ok()
    };
    TORCH.iter().filter_map(spec).collect()
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

/// The CUDA that an image is for: what is solved against, and what torch's build is held to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CudaTarget {
    /// `__cuda`: what the drivers offer.
    pub version: Option<String>,
    /// The release that pins name, when they name one.
    pinned: Option<CudaVersion>,
    /// Whether a CPU build of torch is a mistake.
    gpu: bool,
    /// Where the version came from, in words, when it was derived.
    pub derived: Option<String>,
}

impl CudaTarget {
    /// What was given (`--cuda`, imgbuild.yaml, CONDA_OVERRIDE_CUDA), else what the pins say.
    /// `file` is the environment file's name.
    ///
    /// # Errors
    /// When GPU builds are asked for and nothing says for which CUDA.
    pub fn resolve<'a>(
        given: Option<&str>,
        specs: impl IntoIterator<Item = &'a Spec>,
        file: &str,
    ) -> Result<Self> {
        let intent = cuda_intent(specs);
        let mut target = Self {
            version: given.map(str::to_owned),
            gpu: given.is_some() && !matches!(intent, CudaIntent::Cpu(_)),
            ..Self::default()
        };
        match intent {
            CudaIntent::Version {
                version,
                exact,
                spec,
            } => {
                target.pinned = exact.then_some(version);
                target.gpu = true;
                if given.is_none() {
                    target.version = Some(version.to_string());
                    target.derived = Some(format!(
                        "__cuda {version}, from {} ({file}:{})",
                        spec.text, spec.line
                    ));
                }
            }
            CudaIntent::Unversioned(spec) if given.is_none() => return Err(no_version(spec, file)),
            _ => {}
        }
        Ok(target)
    }

    /// Constraints that keep the solver to builds for this CUDA where packages do not say it
    /// themselves by `__cuda`; the first set that can be met counts.
    pub(super) fn constraints(&self) -> Vec<Vec<MatchSpec>> {
        let given = self.version.as_deref().and_then(CudaVersion::parse);
        let sets = match (self.pinned, given.filter(|_| self.gpu)) {
            (Some(pin), _) => vec![prefix(pin)],
            (None, Some(offered)) => vec![prefix(offered), below_next_major(offered)],
            (None, None) => vec![None],
        };
        sets.into_iter().map(selectors).collect()
    }

    /// Refuses a torch that is not what was asked for: a CPU build, one of another release than
    /// the pins', or one of a newer major than the drivers offer.
    ///
    /// # Errors
    /// The build, what was asked for, and what to write instead.
    pub(super) fn check<'a>(
        &self,
        records: &[RepoDataRecord],
        available: impl Iterator<Item = &'a RepoDataRecord>,
    ) -> Result<()> {
        let torch = |record: &&RepoDataRecord| TORCH.contains(&name(record));
        match records.iter().find(torch).filter(|_| self.gpu) {
            Some(record) => self
                .check_build(record, built_for(record, records))
                .map_err(|error| match others(record, available).as_slice() {
                    [] => error,
                    some => error.why(format!(
                        "{} {} is there for CUDA {}",
                        name(record),
                        record.package_record.version,
                        some.join(", ")
                    )),
                }),
            None => Ok(()),
        }
    }

    fn check_build(&self, record: &RepoDataRecord, found: Flavour) -> Result<()> {
        let offered = self.version.as_deref().and_then(CudaVersion::parse);
        let wanted = self.pinned.or(offered);
        let what = |is: &str| {
            let wanted = wanted.map_or_else(String::new, |version| format!(" {version}"));
            Error::input(format!("CUDA{wanted} is asked for, but torch {is}"))
                .at(record.identifier.to_string())
                .why(format!("from {}", record.channel.as_deref().unwrap_or("?")))
        };
        match found {
            Flavour::Cpu | Flavour::Unsaid => Err(what("is a CPU build").hint(
                "no build for that CUDA fits the other specs: ask for another CUDA or torch \
                 version, or leave --cuda and the CUDA pins out to get CPU builds",
            )),
            Flavour::Cuda(Some(built)) if self.pinned.is_some_and(|pin| !pin.agrees(built)) => {
                Err(what(&format!("is built for CUDA {built}")).hint(
                    "say it in the words of torch's channel: pytorch-cuda=VERSION for `pytorch`, \
                     cuda-version=VERSION for conda-forge",
                ))
            }
            Flavour::Cuda(Some(built)) if offered.is_some_and(|o| built.major > o.major) => {
                Err(what(&format!("is built for CUDA {built}")).hint(
                    "drivers run builds of their own major version and of older ones: ask for an \
                     older torch, or give --cuda what newer drivers offer",
                ))
            }
            Flavour::Cuda(_) => Ok(()),
        }
    }
}

fn no_version(spec: &Spec, file: &str) -> Error {
    Error::input(format!(
        "{} asks for GPU builds, but nothing says for which CUDA",
        quoted(&spec.text)
    ))
    .at(format!("{file}:{}:{}", spec.line, spec.column))
    .why("the machine that builds may have no GPU, and is not asked")
    .hint(
        "give what the machines' drivers offer, such as --cuda 12.9 (or `cuda:` in imgbuild.yaml, \
         or CONDA_OVERRIDE_CUDA), or pin cuda-version=12.9",
    )
}

fn prefix(version: CudaVersion) -> Option<VersionSpec> {
    parse_version_spec(&format!("{version}.*"))
}

fn below_next_major(version: CudaVersion) -> Option<VersionSpec> {
    parse_version_spec(&format!("<{}.0a0", version.major + 1))
}

fn parse_version_spec(text: &str) -> Option<VersionSpec> {
    VersionSpec::from_str(text, rattler_conda_types::ParseStrictness::Lenient).ok()
}

fn selectors(version: Option<VersionSpec>) -> Vec<MatchSpec> {
    let Some(version) = version else {
        return Vec::new();
    };
    let names = SELECTORS.iter().filter_map(|name| name.parse().ok());
    names
        .map(|name| MatchSpec {
            name: PackageNameMatcher::Exact(name),
            version: Some(version.clone()),
            ..MatchSpec::default()
        })
        .collect()
}

fn name(record: &RepoDataRecord) -> &str {
    record.package_record.name.as_normalized()
}

/// The CUDA releases that builds of the same version are for, by their build strings.
fn others<'a>(
    torch: &RepoDataRecord,
    available: impl Iterator<Item = &'a RepoDataRecord>,
) -> Vec<String> {
    let same = |record: &&RepoDataRecord| {
        name(record) == name(torch)
            && record.package_record.version == torch.package_record.version
            && record.channel == torch.channel
    };
    let release = |record: &RepoDataRecord| match flavour(record.package_record.build.as_ref()) {
        Flavour::Cuda(version) => version,
        _ => None,
    };
    let releases: BTreeSet<CudaVersion> = available.filter(same).filter_map(release).collect();
    releases.iter().map(ToString::to_string).collect()
}

/// What a build of torch is for: the CUDA package that it depends on tells more than its name.
fn built_for(torch: &RepoDataRecord, all: &[RepoDataRecord]) -> Flavour {
    let record = &torch.package_record;
    let depends: Vec<_> = record
        .depends
        .iter()
        .map(|spec| PackageName::normalized_name_from_matchspec_str(spec))
        .collect();
    let runtime = RUNTIMES
        .iter()
        .filter(|runtime| depends.iter().any(|name| name == *runtime))
        .find_map(|runtime| all.iter().find(|record| name(record) == *runtime));
    if let Some(runtime) = runtime {
        let version = runtime.package_record.version.to_string();
        return Flavour::Cuda(CudaVersion::parse(&version));
    }
    match flavour(record.build.as_ref()) {
        Flavour::Unsaid
            if depends
                .iter()
                .any(|n| n == "__cuda" || n.starts_with("cuda")) =>
        {
            Flavour::Cuda(None)
        }
        said => said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs(texts: &[&str]) -> Vec<Spec> {
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

    #[test]
    fn what_is_given_wins_over_pins_and_is_not_told_again() {
        let pins = specs(&["python=3.9", "pytorch-cuda=11.8"]);
        let target = CudaTarget::resolve(None, &pins, "env.yml").unwrap();
        assert_eq!(target.version.as_deref(), Some("11.8"));
        let told = "__cuda 11.8, from pytorch-cuda=11.8 (env.yml:2)";
        assert_eq!(target.derived.as_deref(), Some(told));
        let target = CudaTarget::resolve(Some("12.9"), &pins, "env.yml").unwrap();
        assert_eq!(target.version.as_deref(), Some("12.9"));
        assert_eq!(target.derived, None);
        let constraints = |target: &CudaTarget| -> Vec<String> {
            let texts = |set: Vec<MatchSpec>| set.iter().map(ToString::to_string).collect();
            let sets: Vec<Vec<String>> = target.constraints().into_iter().map(texts).collect();
            sets.iter().map(|set| set.join(", ")).collect()
        };
        assert_eq!(
            constraints(&target),
            ["pytorch-cuda 11.8.*, cudatoolkit 11.8.*"]
        );

        let loose = specs(&["pytorch"]);
        let target = CudaTarget::resolve(Some("12.1"), &loose, "env.yml").unwrap();
        assert_eq!(
            constraints(&target),
            [
                "pytorch-cuda 12.1.*, cudatoolkit 12.1.*",
                "pytorch-cuda <13.0a0, cudatoolkit <13.0a0"
            ]
        );
        let none = CudaTarget::resolve(None, &loose, "env.yml").unwrap();
        assert_eq!(constraints(&none), [""]);
        assert_eq!(none, CudaTarget::default());
        let cpu = specs(&["pytorch", "cpuonly"]);
        let cpu = CudaTarget::resolve(Some("12.1"), &cpu, "env.yml").unwrap();
        assert_eq!(constraints(&cpu), [""]);
    }

    #[test]
    fn gpu_builds_need_a_version() {
        let error = CudaTarget::resolve(None, &specs(&["python", "pytorch-gpu"]), "env.yml");
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("env.yml:2") && error.contains("--cuda"),
            "{error}"
        );
    }
}
