//! The HTTP client for channels.

use std::{collections::HashMap, fs, path::Path, time::Duration};

use rattler_networking::{
    AuthenticationMiddleware, AuthenticationStorage,
    authentication_storage::{
        AuthenticationStorageError,
        backends::{file::FileStorageError, netrc::NetRcStorage},
    },
    mirror_middleware::{Mirror, MirrorMiddleware},
    offline_middleware::OfflineMiddleware,
};
use reqwest::Certificate;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use url::Url;

use super::{channels::Channels, credentials::Credentials};
use crate::{
    condarc::{Condarc, SslVerify},
    error::{Error, Result, chain},
};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a socket may be silent; bounds a hung one, not a long download.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// How the client reaches the channels.
#[derive(Clone, Default)]
pub struct ClientOptions {
    /// Every request fails.
    pub offline: bool,
    /// The credentials that URLs carried.
    pub credentials: Credentials,
    /// Where files below a URL are fetched from instead.
    pub mirrors: HashMap<Url, Vec<Mirror>>,
    /// How certificates are checked; the system's way when absent.
    pub ssl_verify: Option<SslVerify>,
    /// Proxies by the scheme of the URL (`http`, `https`, `all`), before those that the
    /// environment names.
    pub proxies: Vec<(String, String)>,
    /// How long a connection may take to come about; 20 seconds when absent.
    pub connect_timeout: Option<Duration>,
    /// How long a socket may be silent; 60 seconds when absent.
    pub read_timeout: Option<Duration>,
}

impl ClientOptions {
    /// The options that condarc and the channels ask for.
    pub fn new(condarc: &Condarc, channels: &Channels, offline: bool) -> Self {
        Self {
            offline,
            credentials: channels.credentials.clone(),
            mirrors: channels.mirrors.clone(),
            ssl_verify: condarc.ssl_verify.clone(),
            proxies: condarc.proxy_servers.clone().into_iter().collect(),
            connect_timeout: condarc.connect_timeout,
            read_timeout: condarc.read_timeout,
        }
    }

    /// What a user should know, in words.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.ssl_verify == Some(SslVerify::Off) {
            let text = "servers' certificates are not checked (ssl_verify: false); packages are \
                        still verified by the hashes that the channels' indexes say";
            warnings.push(text.to_owned());
        }
        // The parser's reason may quote the file, and so a password.
        if let Err((path, _)) = NetRcStorage::from_env() {
            warnings.push(format!(
                "{} cannot be read as a netrc file; its logins are not used",
                path.display()
            ));
        }
        warnings
    }
}

/// A client that signs in with what URLs carried, else where rattler's auth file or `.netrc` has
/// a credential for the host.
///
/// # Errors
/// When the auth file or the CA bundle cannot be read, or TLS or a proxy cannot be set up.
pub fn http_client(options: &ClientOptions) -> Result<ClientWithMiddleware> {
    let client = tls(builder(options)?, options.ssl_verify.as_ref())?
        .build()
        .map_err(|e| broken(&e))?;
    let mut client = ClientBuilder::new(client);
    if options.offline {
        client = client.with(OfflineMiddleware);
    }
    let mut places = options.credentials.tokens();
    places.extend(options.mirrors.clone());
    if !places.is_empty() {
        client = client.with(MirrorMiddleware::from_map(places));
    }
    if !options.credentials.is_empty() {
        let credentials = options.credentials.clone();
        client = client.with_init(move |request| credentials.sign(request));
    }
    let storage = AuthenticationStorage::from_env_and_defaults().map_err(auth_file)?;
    let auth = AuthenticationMiddleware::from_auth_storage(storage);
    Ok(client.with(auth).build())
}

fn broken(error: &dyn std::error::Error) -> Error {
    Error::environment("cannot set up the HTTP client").why(chain(error))
}

fn builder(options: &ClientOptions) -> Result<reqwest::ClientBuilder> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("imgbuild/", env!("CARGO_PKG_VERSION")))
        // It would tell the next host a token in the path.
        .referer(false)
        .connect_timeout(options.connect_timeout.unwrap_or(CONNECT_TIMEOUT))
        .read_timeout(options.read_timeout.unwrap_or(READ_TIMEOUT));
    for (scheme, url) in &options.proxies {
        let proxy = match scheme.as_str() {
            "http" => reqwest::Proxy::http(url),
            "https" => reqwest::Proxy::https(url),
            _ => reqwest::Proxy::all(url),
        };
        let proxy = proxy.map_err(|e| {
            Error::input(format!("condarc's proxy for {scheme} is not a URL")).why(chain(&e))
        })?;
        // As for the proxies of the environment itself.
        builder = builder.proxy(proxy.no_proxy(reqwest::NoProxy::from_env()));
    }
    Ok(builder)
}

fn tls(
    builder: reqwest::ClientBuilder,
    verify: Option<&SslVerify>,
) -> Result<reqwest::ClientBuilder> {
    Ok(match verify {
        None | Some(SslVerify::System) => builder,
        Some(SslVerify::Off) => builder.tls_danger_accept_invalid_certs(true),
        Some(SslVerify::Bundle(path)) => builder.tls_certs_only(bundle(path)?),
    })
}

fn bundle(path: &Path) -> Result<Vec<Certificate>> {
    let hint = "ssl_verify in condarc (or REQUESTS_CA_BUNDLE) names a file of PEM certificates";
    let bytes = fs::read(path).map_err(|e| Error::io("read", path, e).hint(hint))?;
    let bad = |why: String| {
        Error::input(format!("{} holds no certificates", path.display()))
            .why(why)
            .hint(hint)
    };
    let certificates = Certificate::from_pem_bundle(&bytes).map_err(|e| bad(chain(&e)))?;
    if certificates.is_empty() {
        return Err(bad("no PEM certificate is in it".into()));
    }
    Ok(certificates)
}

fn auth_file(error: AuthenticationStorageError) -> Error {
    let what = Error::environment("the file of rattler's logins cannot be read")
        .hint("RATTLER_AUTH_FILE names it, else it is ~/.rattler/credentials.json");
    match error {
        // The parser's reason may quote the file, and so a password.
        AuthenticationStorageError::FileStorageError(FileStorageError::JSONError(path, e)) => what
            .at(format!("{}:{}:{}", path.display(), e.line(), e.column()))
            .why("it is not the JSON that rattler writes"),
        other => what.why(chain(&other)),
    }
}
