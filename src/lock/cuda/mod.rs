//! The CUDA that an image is for: derived from an environment's pins where nothing says it, and held
//! against what was solved.

mod intent;

use std::collections::BTreeSet;

use rattler_conda_types::{
    MatchSpec, PackageName, PackageNameMatcher, ParseStrictness, RepoDataRecord, VersionSpec,
};

pub(in crate::lock) use intent::least;
pub use intent::{CudaIntent, CudaVersion, Flavour, cuda_intent, flavour};

use crate::{
    error::{Error, Result},
    spec::{Spec, source::quoted},
};

/// Packages that choose between builds of torch without saying `__cuda`.
const SELECTORS: [&str; 2] = ["pytorch-cuda", "cudatoolkit"];
/// Packages of which torch's CUDA can be read, the nearest to torch first.
const RUNTIMES: [&str; 3] = ["pytorch-cuda", "cudatoolkit", "cuda-version"];
/// Packages that are torch.
const TORCH: [&str; 2] = ["pytorch", "libtorch"];

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
    VersionSpec::from_str(text, ParseStrictness::Lenient).ok()
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

/// Constraints that leave only the builds of torch that name a CUDA.
pub(in crate::lock) fn gpu_builds() -> Vec<MatchSpec> {
    let spec = |name: &&str| {
        let text = format!("{name} * *cuda*");
        MatchSpec::from_str(&text, ParseStrictness::Lenient).ok()
    };
    TORCH.iter().filter_map(spec).collect()
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
    use super::{intent::tests::specs, *};

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
