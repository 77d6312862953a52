//! A repository in a registry: connected to, with credentials, retries, and errors in words.
//!
//! The protocol (OCI distribution-spec) is oci-client's; this module adds what a tool needs around
//! it. Blobs and manifests are asked for through [`Remote::client`].

use std::{future::Future, net::IpAddr, time::Duration};

use oci_client::{
    Client, Reference, RegistryOperation,
    client::{ClientConfig, ClientProtocol},
    errors::{OciDistributionError, OciErrorCode},
    secrets::RegistryAuth,
};

use super::auth::{self, Credential};
use crate::{
    error::{Error, Result, chain},
    report::Reporter,
};

/// How often a request is made before its failure counts.
const ATTEMPTS: u32 = 4;
/// The pause before the second attempt; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may be silent.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// A connected repository.
pub struct Remote {
    client: Client,
    reference: Reference,
    auth: RegistryAuth,
    operation: RegistryOperation,
    reporter: Reporter,
}

/// A failed attempt, and whether another one may fare better.
pub struct Failure {
    /// The error in words.
    pub error: Error,
    /// Whether it is worth another attempt.
    pub transient: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            error,
            transient: false,
        }
    }
}

/// Reads a reference, with Docker's defaults: `debian` is `docker.io/library/debian:latest`.
///
/// # Errors
/// When it is not a reference.
pub fn parse_reference(text: &str) -> Result<Reference> {
    text.parse().map_err(|e| {
        let hint = match text.to_lowercase() {
            lower if lower != text => format!("repository names are lower case: {lower}"),
            _ => "write it as [host[:port]/]repository[:tag][@sha256:digest]".into(),
        };
        Error::input(format!("'{text}' is not an image reference"))
            .why(chain(&e))
            .hint(hint)
    })
}

/// Whether a registry host is this machine, where plain HTTP is what test registries speak.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl Remote {
    /// Connects: finds the user's credential and logs in when the registry asks for it.
    ///
    /// # Errors
    /// When the reference is not one, the registry cannot be reached, or the login is refused.
    pub async fn connect(
        text: &str,
        operation: RegistryOperation,
        reporter: &Reporter,
    ) -> Result<Self> {
        let config = auth::config_path();
        Self::connect_with(text, operation, reporter, config).await
    }

    pub(crate) async fn connect_with(
        text: &str,
        operation: RegistryOperation,
        reporter: &Reporter,
        config: Option<std::path::PathBuf>,
    ) -> Result<Self> {
        let reference = parse_reference(text)?;
        let client = client(reference.resolve_registry())?;
        let (host, report) = (reference.registry().to_owned(), reporter.clone());
        let credential =
            crate::base::blocking(move || Ok(auth::credential(config.as_deref(), &host, &report)))
                .await?;
        let mut remote = Self {
            client,
            reference,
            auth: RegistryAuth::Anonymous,
            operation,
            reporter: reporter.clone(),
        };
        remote.auth = match credential {
            Credential::Anonymous => RegistryAuth::Anonymous,
            Credential::Password(user, password) => RegistryAuth::Basic(user, password),
            Credential::IdentityToken(token) => super::token::exchange(&remote, &token).await?,
        };
        remote.log_in().await?;
        Ok(remote)
    }

    /// Asked for explicitly, because oci-client drops the reason when a later request does it.
    async fn log_in(&self) -> Result<()> {
        self.retrying(|| async {
            let login = self
                .client
                .auth(&self.reference, &self.auth, self.operation);
            login.await.map(drop).map_err(|e| self.failure(e))
        })
        .await
    }

    /// The client, which holds the login.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The reference in full.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// What the login is for.
    pub fn operation(&self) -> RegistryOperation {
        self.operation
    }

    /// The login, for those of the client's calls that take one.
    pub fn auth(&self) -> &RegistryAuth {
        &self.auth
    }

    /// Whether requests are to be retried, and what went wrong in words.
    pub fn failure(&self, error: OciDistributionError) -> Failure {
        Failure {
            transient: is_transient(&error),
            error: self.explain(&error),
        }
    }

    /// Makes a request again, after a growing pause, while its failure looks passing.
    ///
    /// # Errors
    /// The last attempt's.
    pub async fn retrying<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut pause = FIRST_PAUSE;
        for left in (0..ATTEMPTS).rev() {
            match attempt().await {
                Ok(value) => return Ok(value),
                Err(failure) if !failure.transient || left == 0 => return Err(failure.error),
                Err(failure) => {
                    let text = failure.error.to_string();
                    let why = text
                        .lines()
                        .find_map(|line| line.trim().strip_prefix("why: "));
                    self.reporter.step(format_args!(
                        "{}: trying again in {} ms ({})",
                        self.reference.registry(),
                        pause.as_millis(),
                        why.unwrap_or(&text)
                    ));
                }
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Err(Error::environment("no attempt was made"))
    }

    fn verb(&self) -> &'static str {
        match self.operation {
            RegistryOperation::Pull => "pull",
            RegistryOperation::Push => "push to",
        }
    }

    /// One message that names the reference, the cause and the way out.
    pub fn explain(&self, error: &OciDistributionError) -> Error {
        let (reference, host) = (self.reference.whole(), self.reference.registry());
        let what = format!("cannot {} {reference}", self.verb());
        let login = match host {
            "docker.io" => "docker login".to_owned(),
            host => format!("docker login {host}"),
        };
        let failed = Error::environment(what).why(detail(error));
        match (status(error), &self.auth) {
            (Some(401 | 403), RegistryAuth::Anonymous) => {
                failed.hint(format!("check the name; if the image is private: {login}"))
            }
            (Some(401 | 403), _) => failed.hint(format!(
                "the login in Docker's config is not accepted for it: {login}"
            )),
            (Some(404), _) if self.operation == RegistryOperation::Pull => {
                Error::environment(format!("no image {reference}"))
                    .why(detail(error))
                    .hint("check the name and the tag")
            }
            (Some(429), _) => failed.hint(format!(
                "the registry limits requests; wait, or log in for a higher limit: {login}"
            )),
            _ => explain_connection(failed, error, host),
        }
    }
}

/// Adds the way out when no HTTP answer came at all.
fn explain_connection(failed: Error, error: &OciDistributionError, host: &str) -> Error {
    let OciDistributionError::RequestError(request) = error else {
        return failed;
    };
    let text = chain(request).to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if has(&[
        "certificate",
        "tls",
        "invalidcontenttype",
        "corrupt message",
    ]) {
        return failed.hint(format!(
            "{host} is spoken to over TLS (plain HTTP is for this machine's own registries only): \
             add its CA certificate to the system's trust store, or check the port"
        ));
    }
    if has(&["connection refused"]) {
        return failed.hint(format!(
            "nothing listens at {host}: start the registry, or check host and port"
        ));
    }
    if has(&["dns", "lookup", "resolve"]) {
        return failed.hint(format!(
            "the host name {host} is not known: check it, and the network"
        ));
    }
    failed.hint("check the network, and HTTPS_PROXY if there is a proxy")
}

fn client(registry: &str) -> Result<Client> {
    // Another part of the program may have chosen the provider already; either is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = ClientConfig {
        protocol: ClientProtocol::Https,
        connect_timeout: Some(CONNECT_TIMEOUT),
        read_timeout: Some(READ_TIMEOUT),
        use_monolithic_push: true,
        user_agent: concat!("imgbuild/", env!("CARGO_PKG_VERSION")),
        platform_resolver: None,
        ..ClientConfig::default()
    };
    if is_loopback(registry) {
        config.protocol = ClientProtocol::Http;
        // A proxy of its own turns off that of the environment, which must never be asked for
        // this machine (Go's clients behave so, reqwest does not); NO_PROXY then skips it.
        config.http_proxy = Some("http://127.0.0.1:9".into());
        config.no_proxy = Some("localhost,127.0.0.0/8,::1".into());
    }
    Client::try_from(config)
        .map_err(|e| Error::environment("cannot make an HTTP client").why(chain(&e)))
}

fn status(error: &OciDistributionError) -> Option<u16> {
    match error {
        OciDistributionError::ServerError { code, .. } => Some(*code),
        OciDistributionError::UnauthorizedError { .. }
        | OciDistributionError::AuthenticationFailure(_) => Some(401),
        OciDistributionError::ImageManifestNotFoundError(_) => Some(404),
        OciDistributionError::RequestError(e) => e.status().map(|s| s.as_u16()),
        OciDistributionError::RegistryError { envelope, .. } => {
            envelope.errors.iter().find_map(|e| match &e.code {
                OciErrorCode::Unauthorized => Some(401),
                OciErrorCode::Denied => Some(403),
                OciErrorCode::ManifestUnknown
                | OciErrorCode::NameUnknown
                | OciErrorCode::BlobUnknown
                | OciErrorCode::NotFound => Some(404),
                OciErrorCode::Toomanyrequests => Some(429),
                _ => None,
            })
        }
        _ => None,
    }
}

/// The registry's own words, short.
fn detail(error: &OciDistributionError) -> String {
    match error {
        OciDistributionError::ServerError { code, message, .. } => {
            let message: String = message.trim().chars().take(200).collect();
            match message.is_empty() {
                true => format!("HTTP status {code}"),
                false => format!("HTTP status {code}: {message}"),
            }
        }
        OciDistributionError::UnauthorizedError { .. } => "HTTP status 401: not authorized".into(),
        OciDistributionError::AuthenticationFailure(reason) => {
            let reason: String = reason.trim().chars().take(200).collect();
            format!("the login was refused: {reason}")
        }
        OciDistributionError::RegistryError { envelope, .. } => {
            let line = |e: &oci_client::errors::OciError| {
                let code = serde_json::to_value(&e.code).unwrap_or_default();
                let code = code.as_str().unwrap_or("error").to_owned();
                format!("{code}: {}", e.message)
            };
            let lines: Vec<_> = envelope.errors.iter().map(line).collect();
            lines.join("\n")
        }
        other => chain(other),
    }
}

fn is_transient(error: &OciDistributionError) -> bool {
    match status(error) {
        Some(status) => matches!(status, 408 | 429 | 500..=599),
        None => interrupted(error),
    }
}

/// Whether a connection broke, as opposed to never having come about.
pub(crate) fn interrupted(error: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind as Kind;
    let mut next = Some(error);
    while let Some(error) = next {
        next = error.source();
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            match io.kind() {
                Kind::ConnectionReset
                | Kind::ConnectionAborted
                | Kind::BrokenPipe
                | Kind::UnexpectedEof
                | Kind::TimedOut => return true,
                Kind::ConnectionRefused => return false,
                // A wrapper's source is what stands behind the wrapped error, not that itself.
                _ => next = io.get_ref().map(|inner| inner as _).or(next),
            }
        } else if let Some(http) = error.downcast_ref::<reqwest::Error>() {
            let broke = http.is_body() || http.is_decode() || http.is_request();
            if http.is_timeout() || (broke && !http.is_connect()) {
                return true;
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_have_dockers_defaults() {
        let whole = |text| parse_reference(text).unwrap().whole();
        assert_eq!(
            whole("debian:bookworm-slim"),
            "docker.io/library/debian:bookworm-slim"
        );
        assert_eq!(
            whole("continuumio/miniconda3"),
            "docker.io/continuumio/miniconda3:latest"
        );
        assert_eq!(whole("localhost:5000/a/b:1"), "localhost:5000/a/b:1");
        let error = parse_reference("Debian").unwrap_err().to_string();
        assert!(error.contains("lower case: debian"), "{error}");
        assert!(parse_reference("a b").is_err());
    }

    #[test]
    fn plain_http_is_for_this_machine_only() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:1", "127.9.9.9"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "localhost.example",
            "docker.io",
            "10.0.0.1:5000",
            "127.0.0.1.example:80",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
