//! What the channels have: their indexes, as far as the specs reach.

use std::time::Duration;

use rattler_conda_types::{Channel, MatchSpec, PackageName, RepoDataRecord, Subdir};
use rattler_networking::OfflineError;
use rattler_repodata_gateway::{
    ChannelConfig, Gateway, GatewayError, RepoData, SourceConfig,
    fetch::{CacheAction, FetchRepoDataError},
};
use rattler_solve::ChannelRepoData;
use reqwest::StatusCode;
use reqwest_middleware::ClientWithMiddleware;

use crate::{
    error::{Error, Result, chain},
    lock::Channels,
    space,
    store::Store,
};

/// The pauses before a channel is asked again.
const RETRY_PAUSES: [Duration; 3] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// What to read of the channels.
#[derive(Clone, Copy)]
pub struct IndexRequest<'a> {
    /// The channels.
    pub channels: &'a Channels,
    /// What the environment must hold.
    pub specs: &'a [MatchSpec],
    /// The platform of the image.
    pub platform: Subdir,
    /// Only what the cache has.
    pub offline: bool,
}

/// Everything that the channels have of what is asked for and needed, in priority order.
pub struct Index {
    data: Vec<RepoData>,
}

impl Index {
    /// Reads the channels.
    ///
    /// # Errors
    /// When a channel cannot be read; the error says which.
    pub async fn fetch(
        request: IndexRequest<'_>,
        client: &ClientWithMiddleware,
        store: &Store,
    ) -> Result<Self> {
        let gateway = gateway(&request, client, store);
        let has_mirrors = !request.channels.mirrors.is_empty();
        match patiently(has_mirrors, || query(&request, &gateway)).await {
            Ok(data) => Ok(Self { data }),
            Err(e) => match space::full_in(&e, &store.repodata_dir()) {
                Some(full) => Err(full),
                None => Err(unreadable(&request, &gateway, e).await),
            },
        }
    }

    /// The records of each channel and platform.
    pub(super) fn repodata(
        &self,
    ) -> impl Iterator<Item = ChannelRepoData<'_, impl IntoIterator<Item = &RepoDataRecord>>> {
        self.data.iter().map(|data| ChannelRepoData {
            records: data.iter(),
            multi_channel: data.multi_channel(),
        })
    }

    /// All records, in priority order.
    pub(super) fn records(&self) -> impl Iterator<Item = &RepoDataRecord> {
        self.data.iter().flat_map(RepoData::iter)
    }

    /// Whether a package there depends on the name or constrains it, as `__glibc`.
    pub fn mentions(&self, name: &str) -> bool {
        self.records().any(|record| {
            let record = &record.package_record;
            let mut specs = record.depends.iter().chain(&record.constrains);
            specs.any(|spec| PackageName::normalized_name_from_matchspec_str(spec) == name)
        })
    }
}

fn gateway(request: &IndexRequest<'_>, client: &ClientWithMiddleware, store: &Store) -> Gateway {
    let cache_action = match request.offline {
        true => CacheAction::ForceCacheOnly,
        false => CacheAction::default(),
    };
    Gateway::builder()
        .with_client(client.clone())
        .with_cache_dir(store.repodata_dir())
        .with_channel_config(ChannelConfig {
            default: SourceConfig {
                cache_action,
                ..SourceConfig::default()
            },
            ..ChannelConfig::default()
        })
        .finish()
}

async fn query(
    request: &IndexRequest<'_>,
    gateway: &Gateway,
) -> Result<Vec<RepoData>, GatewayError> {
    // By name only: a query by full spec would hide a channel's builds from strict priority.
    let names = request
        .specs
        .iter()
        .filter_map(|spec| spec.name.as_exact().cloned());
    let answer = gateway
        .query(
            request.channels.sources(),
            [request.platform, Subdir::NoArch],
            names.map(MatchSpec::from),
        )
        .recursive(true)
        .execute()
        .await?;
    Ok(answer.into_iter().collect())
}

/// Asks again, after growing pauses, while a failure looks passing.
async fn patiently<T, F>(has_mirrors: bool, mut ask: impl FnMut() -> F) -> Result<T, GatewayError>
where
    F: Future<Output = Result<T, GatewayError>>,
{
    for pause in RETRY_PAUSES {
        match ask().await {
            Err(error) if is_passing(&error, has_mirrors) => tokio::time::sleep(pause).await,
            done => return done,
        }
    }
    ask().await
}

/// Whether the server was busy or the connection broke, as opposed to never having come about;
/// where there are mirrors, the next one is asked.
fn is_passing(error: &GatewayError, has_mirrors: bool) -> bool {
    if let GatewayError::FetchRepoDataError(FetchRepoDataError::FailedToDownload(..)) = error {
        return true;
    }
    let Some(http) = http_error(error) else {
        return false;
    };
    match http.status() {
        Some(status) => status.is_server_error() || status.as_u16() == 429,
        None => has_mirrors || !http.is_connect(),
    }
}

fn http_error(error: &GatewayError) -> Option<&reqwest::Error> {
    match error {
        GatewayError::ReqwestError(http) => Some(http),
        GatewayError::FetchRepoDataError(FetchRepoDataError::HttpError(
            reqwest_middleware::Error::Reqwest(http),
        )) => Some(http),
        _ => None,
    }
}

/// Says which channel it is: a query of several does not, so each is asked by itself.
async fn unreadable(request: &IndexRequest<'_>, gateway: &Gateway, error: GatewayError) -> Error {
    for channel in request.channels.iter() {
        for subdir in [request.platform, Subdir::NoArch] {
            let names = gateway.names([channel.clone()], [subdir]);
            if let Err(error) = names.execute().await {
                return explain(channel, &error, request.offline);
            }
        }
    }
    // It reads now, or the failure was in what lies behind the index.
    let channels: Vec<_> = request
        .channels
        .iter()
        .map(Channel::canonical_name)
        .collect();
    Error::environment("a channel cannot be read")
        .at(channels.join(", "))
        .why(chain(&error))
        .hint("run the command again")
}

fn explain(channel: &Channel, error: &GatewayError, offline: bool) -> Error {
    let cannot = |what: &str| Error::environment(what).at(channel.canonical_name());
    if offline && is_offline(error) {
        return cannot("a channel's index is not in the cache, and offline nothing is fetched")
            .hint("run the command once without --offline");
    }
    if let GatewayError::SubdirNotFoundError(missing) = error {
        return cannot("there is no channel at this place")
            .why(format!("it has no repodata for {}", missing.subdir))
            .hint(
                "check the channel's name or URL in `channels:`; \
                 a channel has a noarch/repodata.json at least",
            );
    }
    let status = http_error(error).and_then(reqwest::Error::status);
    let hint = match status {
        Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            "sign in: a login in ~/.netrc or in RATTLER_AUTH_FILE, or a channel URL with a token \
             (https://host/t/TOKEN/channel); it is kept out of the lock and the image"
        }
        _ => "check the URL and the network, or a proxy (HTTPS_PROXY)",
    };
    cannot("a channel cannot be read")
        .why(chain(error))
        .hint(hint)
}

fn is_offline(error: &GatewayError) -> bool {
    let blocked = |error: &reqwest_middleware::Error| match error {
        reqwest_middleware::Error::Middleware(error) => error.is::<OfflineError>(),
        reqwest_middleware::Error::Reqwest(_) => false,
    };
    match error {
        GatewayError::FetchRepoDataError(FetchRepoDataError::NoCacheAvailable(_))
        | GatewayError::ShardedIndexNotCached(_)
        | GatewayError::ShardNotCached(_)
        | GatewayError::CacheError(_) => true,
        GatewayError::FetchRepoDataError(FetchRepoDataError::HttpError(error)) => blocked(error),
        GatewayError::ReqwestMiddlewareError(error) => error.is::<OfflineError>(),
        _ => false,
    }
}
