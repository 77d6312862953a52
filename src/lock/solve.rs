//! Solving: specs and channels to exact packages, for the target and never for the builder.

use std::{collections::HashSet, time::Duration};

use rattler_conda_types::{
    Channel, GenericVirtualPackage, MatchSpec, RepoDataRecord, Subdir, Version,
    package::CondaArchiveType,
};
use rattler_repodata_gateway::{
    ChannelConfig, Gateway, GatewayError, RepoData, SourceConfig,
    fetch::{CacheAction, FetchRepoDataError},
};
use rattler_solve::{ChannelPriority, SolveError, SolverImpl, SolverTask, resolvo::Solver};
use rattler_virtual_packages::{Cuda, LibC};
use reqwest_middleware::ClientWithMiddleware;
use url::Url;

use super::LockedEnv;
use crate::{
    error::{Error, Result, chain},
    store::Store,
};

/// The glibc that conda-forge's own compilers target; every current base image has a newer one.
const GLIBC: &str = "2.28";

/// The pauses before a channel is asked again.
const RETRY_PAUSES: [Duration; 3] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// The most lines of a solver's explanation that a person reads.
const MAX_REASON_LINES: usize = 14;

/// What the machine that runs the image offers. Nothing of it is read off the builder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VirtualPackages {
    /// `__cuda`: the CUDA version of the target's driver, if it has one.
    pub cuda: Option<String>,
    /// `__glibc` of the base image; `CONDA_OVERRIDE_GLIBC` sets it (conda docs, "Managing virtual
    /// packages").
    pub glibc: Option<String>,
}

impl VirtualPackages {
    /// The glibc of the image.
    pub fn glibc(&self) -> &str {
        self.glibc.as_deref().unwrap_or(GLIBC)
    }

    /// All of them, as the solver takes them.
    ///
    /// # Errors
    /// When a version is none.
    pub fn list(&self, platform: Subdir) -> Result<Vec<GenericVirtualPackage>> {
        let mut packages =
            rattler_virtual_packages::VirtualPackages::baseline_for_platform(platform);
        packages.cuda = self
            .cuda
            .as_deref()
            .map(|text| version("--cuda", text).map(|version| Cuda { version }))
            .transpose()?;
        packages.libc = Some(LibC {
            family: "glibc".into(),
            version: version("CONDA_OVERRIDE_GLIBC", self.glibc())?,
        });
        Ok(packages.into_generic_virtual_packages().collect())
    }
}

fn version(name: &str, text: &str) -> Result<Version> {
    text.parse()
        .map_err(|e| Error::input(format!("{name} '{text}' is not a version")).why(chain(&e)))
}

/// What to solve.
pub struct SolveRequest<'a> {
    /// The channels in priority order.
    pub channels: &'a [Channel],
    /// What the environment must hold.
    pub specs: &'a [MatchSpec],
    /// The platform of the image.
    pub platform: Subdir,
    /// What the target machine offers.
    pub virtual_packages: &'a VirtualPackages,
    /// Packages published later do not count.
    pub exclude_newer: Option<jiff::Timestamp>,
    /// Packages that are kept where the specs allow it.
    pub keep: &'a [RepoDataRecord],
    /// How the channels' order counts.
    pub channel_priority: ChannelPriority,
    /// Only indexes that are kept from before are read.
    pub offline: bool,
}

/// Finds the packages, with strict channel priority as conda has it by default.
///
/// # Errors
/// When a channel cannot be read, or no set of packages meets the specs.
pub async fn solve(
    request: SolveRequest<'_>,
    client: ClientWithMiddleware,
    store: &Store,
) -> Result<LockedEnv> {
    let answer = patiently(|| query(&request, client.clone(), store)).await;
    let available = answer.map_err(|e| unreadable(request.channels, &e))?;
    missing_names(&available, &request)?;
    let task = SolverTask {
        specs: request.specs.to_vec(),
        virtual_packages: request.virtual_packages.list(request.platform)?,
        channel_priority: request.channel_priority,
        exclude_newer: request.exclude_newer.map(Into::into),
        locked_packages: kept(&available, request.keep),
        ..SolverTask::from_iter(&available)
    };
    let solved = Solver
        .solve(task)
        .map_err(|e| unsolvable(&e, request.virtual_packages.cuda.as_deref()))?;
    let records: Vec<RepoDataRecord> = solved
        .records
        .into_iter()
        .filter(|record| CondaArchiveType::try_from(record.url.path()).is_some())
        .collect();
    let channels = request
        .channels
        .iter()
        .map(|channel| channel.base_url.to_string())
        .collect();
    Ok(LockedEnv::new(channels, records))
}

/// The packages to keep, each as its channel describes it now: metadata is patched after the
/// fact, a build may have been replaced under its name, and what was withdrawn is not kept.
fn kept<'a>(available: &'a [RepoData], keep: &[RepoDataRecord]) -> Vec<&'a RepoDataRecord> {
    let wanted: HashSet<&Url> = keep.iter().map(|record| &record.url).collect();
    available
        .iter()
        .flat_map(RepoData::iter)
        .filter(|record| wanted.contains(&record.url))
        .collect()
}

/// Everything that the channels have of what is asked for and needed.
async fn query(
    request: &SolveRequest<'_>,
    client: ClientWithMiddleware,
    store: &Store,
) -> Result<Vec<RepoData>, GatewayError> {
    let cache_action = match request.offline {
        true => CacheAction::ForceCacheOnly,
        false => CacheAction::CacheOrFetch,
    };
    let gateway = Gateway::builder()
        .with_client(client)
        .with_channel_config(ChannelConfig {
            default: SourceConfig {
                cache_action,
                ..SourceConfig::default()
            },
            ..ChannelConfig::default()
        })
        .with_cache_dir(store.repodata_dir())
        .finish();
    // By name only: a query by full spec would hide a channel's builds from strict priority.
    let names = request
        .specs
        .iter()
        .filter_map(|spec| spec.name.as_exact().cloned());
    let answer = gateway
        .query(
            request.channels.iter().cloned(),
            [request.platform, Subdir::NoArch],
            names.map(MatchSpec::from),
        )
        .recursive(true)
        .execute()
        .await?;
    Ok(answer.into_iter().collect())
}

/// Asks again, after growing pauses, while a failure looks passing.
async fn patiently<T, F>(mut ask: impl FnMut() -> F) -> Result<T, GatewayError>
where
    F: Future<Output = Result<T, GatewayError>>,
{
    for pause in RETRY_PAUSES {
        match ask().await {
            Err(error) if is_passing(&error) => tokio::time::sleep(pause).await,
            done => return done,
        }
    }
    ask().await
}

/// Whether the server was busy or the connection broke, as opposed to never having come about.
fn is_passing(error: &GatewayError) -> bool {
    let http = match error {
        GatewayError::ReqwestError(http) => http,
        GatewayError::FetchRepoDataError(FetchRepoDataError::HttpError(
            reqwest_middleware::Error::Reqwest(http),
        )) => http,
        GatewayError::FetchRepoDataError(FetchRepoDataError::FailedToDownload(..)) => return true,
        _ => return false,
    };
    match http.status() {
        Some(status) => status.is_server_error() || status.as_u16() == 429,
        None => !http.is_connect(),
    }
}

/// A name that no channel has deserves its own words rather than a solver's.
fn missing_names(available: &[RepoData], request: &SolveRequest<'_>) -> Result<()> {
    for spec in request.specs {
        let Some(name) = spec.name.as_exact() else {
            continue;
        };
        let found = available
            .iter()
            .flat_map(|data| data.iter())
            .any(|record| record.package_record.name == *name);
        if !found {
            return Err(Error::input(format!(
                "no channel has a package named '{}'",
                name.as_source()
            ))
            .why(format!("searched {}", channel_list(request.channels)))
            .hint("check the spelling, or add the channel that has it to `channels:`"));
        }
    }
    Ok(())
}

fn channel_list(channels: &[Channel]) -> String {
    let names: Vec<_> = channels.iter().map(|c| c.canonical_name()).collect();
    names.join(", ")
}

fn unreadable(channels: &[Channel], error: &GatewayError) -> Error {
    if let GatewayError::SubdirNotFoundError(missing) = error {
        return Error::environment("there is no channel at this place")
            .at(missing.channel.canonical_name())
            .why(format!("it has no repodata for {}", missing.subdir))
            .hint(
                "check the channel's name or URL in `channels:`; \
                 a channel has a noarch/repodata.json at least",
            );
    }
    Error::environment("a channel cannot be read")
        .at(channel_list(channels))
        .why(chain(error))
        .hint("check the URL and the network, or a proxy (HTTPS_PROXY)")
}

fn unsolvable(error: &SolveError, cuda: Option<&str>) -> Error {
    let SolveError::Unsolvable(reasons) = error else {
        return Error::input("the environment cannot be solved").why(chain(error));
    };
    let reason = reasons.join("\n");
    let mut lines: Vec<&str> = reason.lines().map(str::trim_end).collect();
    let cut = lines.len().saturating_sub(MAX_REASON_LINES);
    lines.truncate(MAX_REASON_LINES);
    let mut text = lines.join("\n");
    if cut > 0 {
        text.push_str(&format!("\n... and {cut} lines more"));
    }
    let hint = match (reason.contains("__cuda"), cuda) {
        (false, _) => "loosen one of the specs named above".into(),
        (true, None) => "the image is for machines with GPUs: give the CUDA version that their \
             driver offers, such as --cuda 12.9 (or `cuda:` in imgbuild.yaml, or \
             CONDA_OVERRIDE_CUDA)"
            .into(),
        (true, Some(given)) => format!(
            "the image is for drivers with CUDA {given}: loosen one of the specs named above, or \
             give a newer one if the machines have it"
        ),
    };
    Error::input("no set of packages meets all specs")
        .why(text)
        .hint(hint)
}
