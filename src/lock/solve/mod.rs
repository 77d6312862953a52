//! Solving: specs and channels to exact packages, for the target and never for the builder.

mod query;
mod unsat;
mod virtual_packages;

use std::collections::HashSet;

use rattler_conda_types::{
    GenericVirtualPackage, MatchSpec, RepoDataRecord, Subdir, package::CondaArchiveType,
};
use rattler_solve::{ChannelPriority, SolveError, SolverImpl, SolverTask, resolvo::Solver};

use url::Url;

pub use query::{Index, IndexRequest};
pub use virtual_packages::{ASSUMED_GLIBC, VirtualPackages, glibc_unmet};

use super::{Channels, CudaTarget, LockedEnv};
use crate::error::{Error, Result, chain};

/// What to solve.
#[derive(Clone, Copy)]
pub struct SolveRequest<'a> {
    /// The channels in priority order.
    pub channels: &'a Channels,
    /// What the environment must hold.
    pub specs: &'a [MatchSpec],
    /// The platform of the image.
    pub platform: Subdir,
    /// What the target machine offers; its `cuda` is [`SolveRequest::cuda`]'s.
    pub virtual_packages: &'a VirtualPackages,
    /// The CUDA that torch's build is held to.
    pub cuda: &'a CudaTarget,
    /// How channels compete. Flexible is conda's: a lower channel is used for a package where the
    /// higher ones' builds of it do not fit, whatever their versions.
    pub priority: ChannelPriority,
    /// Packages published later do not count.
    pub exclude_newer: Option<jiff::Timestamp>,
    /// Packages that are kept where the specs allow it.
    pub keep: &'a [RepoDataRecord],
}

/// Finds the packages among what the channels have.
///
/// # Errors
/// When no set of packages meets the specs, or torch's build is not the one that was asked for.
pub fn solve(request: &SolveRequest<'_>, index: &Index) -> Result<LockedEnv> {
    missing_names(request, index)?;
    let attempt = Attempt {
        request,
        index,
        virtual_packages: request.virtual_packages.list(request.platform)?,
    };
    let (mut refused, mut unwanted) = (None, None);
    for constraints in request.cuda.constraints() {
        match attempt.run(request.specs, &constraints) {
            Ok(records) => match attempt.for_gpus(records, &constraints) {
                Ok(records) => return Ok(LockedEnv::new(request.channels.urls(), records)),
                Err(error) => unwanted = Some(error),
            },
            Err(SolveError::Unsolvable(reasons)) => refused = Some((reasons, constraints)),
            Err(other) => {
                return Err(Error::input("the environment cannot be solved").why(chain(&other)));
            }
        }
    }
    if let Some(error) = unwanted {
        return Err(error);
    }
    let (reasons, constraints) = refused.unwrap_or_default();
    Err(unsat::explain(&attempt, &reasons, &constraints))
}

/// One index, to be solved for more than one set of specs.
struct Attempt<'a> {
    request: &'a SolveRequest<'a>,
    index: &'a Index,
    virtual_packages: Vec<GenericVirtualPackage>,
}

impl Attempt<'_> {
    /// The records, if torch is what was asked for; else those with an older torch that is.
    fn for_gpus(
        &self,
        records: Vec<RepoDataRecord>,
        constraints: &[MatchSpec],
    ) -> Result<Vec<RepoDataRecord>> {
        let cuda = self.request.cuda;
        let checked = |records: &[RepoDataRecord]| cuda.check(records, self.index.records());
        let Err(refused) = checked(&records) else {
            return Ok(records);
        };
        let constraints = [constraints, &super::cuda::gpu_builds()].concat();
        match self.run(self.request.specs, &constraints) {
            Ok(older) if checked(&older).is_ok() => Ok(older),
            _ => Err(refused),
        }
    }

    fn run(
        &self,
        specs: &[MatchSpec],
        constraints: &[MatchSpec],
    ) -> Result<Vec<RepoDataRecord>, SolveError> {
        let task = SolverTask {
            specs: specs.to_vec(),
            constraints: constraints.to_vec(),
            virtual_packages: self.virtual_packages.clone(),
            channel_priority: self.request.priority,
            exclude_newer: self.request.exclude_newer.map(Into::into),
            locked_packages: kept(self.index, self.request.keep),
            ..self.index.repodata().collect::<SolverTask<Vec<_>>>()
        };
        let records = Solver.solve(task)?.records;
        let is_archive =
            |record: &RepoDataRecord| CondaArchiveType::try_from(record.url.path()).is_some();
        Ok(records.into_iter().filter(is_archive).collect())
    }
}

/// The packages to keep, each as its channel describes it now: metadata is patched after the
/// fact, a build may have been replaced under its name, and what was withdrawn is not kept.
fn kept<'a>(index: &'a Index, keep: &[RepoDataRecord]) -> Vec<&'a RepoDataRecord> {
    let wanted: HashSet<&Url> = keep.iter().map(|record| &record.url).collect();
    index
        .records()
        .filter(|record| wanted.contains(&record.url))
        .collect()
}

/// A name that no channel has deserves its own words rather than a solver's.
fn missing_names(request: &SolveRequest<'_>, index: &Index) -> Result<()> {
    for name in request.specs.iter().filter_map(|spec| spec.name.as_exact()) {
        let mut records = index.records();
        if !records.any(|record| record.package_record.name == *name) {
            let channels: Vec<_> = request
                .channels
                .iter()
                .map(|c| c.canonical_name())
                .collect();
            return Err(Error::input(format!(
                "no channel has a package named '{}'",
                name.as_source()
            ))
            .why(match request.platform {
                Subdir::Linux64 => format!("searched {}", channels.join(", ")),
                other => format!("searched {other} and noarch of {}", channels.join(", ")),
            })
            .hint("check the spelling, or add the channel that has it to `channels:`"));
        }
    }
    Ok(())
}
