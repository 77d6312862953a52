//! A repository in a registry: connected to, with credentials, retries, and errors in words.
//!
//! The protocol (OCI distribution-spec) is oci-client's; this module adds what a tool needs around
//! it. Blobs and manifests are asked for through [`Remote::client`].

use std::{future::Future, net::IpAddr, time::Duration};

use oci_client::{
    Client, Reference, RegistryOperation,
    client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol},
    secrets::RegistryAuth,
    token_cache::{RegistryToken, RegistryTokenType},
};

use super::{
    auth::{self, Credential},
    failure::{Failure, Retry},
    trust,
};
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
    uploads: Client,
    reference: Reference,
    authorities: Vec<Vec<u8>>,
    credential: Credential,
    auth: RegistryAuth,
    operation: RegistryOperation,
    reporter: Reporter,
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
fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether a registry is spoken to without TLS: on this machine, unless there is a certificate for
/// it.
pub(super) fn is_plain(host: &str, authorities: &[Vec<u8>]) -> bool {
    is_loopback(host) && authorities.is_empty()
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
        Self::connect_with(text, operation, reporter, auth::files()).await
    }

    pub(crate) async fn connect_with(
        text: &str,
        operation: RegistryOperation,
        reporter: &Reporter,
        logins: Vec<std::path::PathBuf>,
    ) -> Result<Self> {
        let reference = parse_reference(text)?;
        let host = reference.resolve_registry();
        let authorities = trust::authorities(&trust::folders(), host)?;
        let client = client(host, &authorities, Some(READ_TIMEOUT))?;
        // reqwest counts a request's whole body as one silence: a large upload would never end.
        let mut uploads = self::client(host, &authorities, None)?;
        uploads.tokens = client.tokens.clone();
        let (named, report) = (reference.clone(), reporter.clone());
        let credential = crate::base::blocking(move || {
            let (host, repository) = (named.registry(), named.repository());
            Ok(auth::credential(&logins, host, repository, &report))
        })
        .await?;
        let mut remote = Self {
            client,
            uploads,
            reference,
            authorities,
            credential,
            auth: RegistryAuth::Anonymous,
            operation,
            reporter: reporter.clone(),
        };
        remote.auth = remote.authentication().await?;
        remote.log_in(&remote.auth).await?;
        let host = remote.reference.resolve_registry();
        let (uploads, auth) = (&remote.uploads, &remote.auth);
        uploads.store_auth_if_needed(host, auth).await;
        Ok(remote)
    }

    /// The credential as oci-client takes it; an identity token is exchanged anew.
    async fn authentication(&self) -> Result<RegistryAuth> {
        Ok(match &self.credential {
            Credential::Anonymous => RegistryAuth::Anonymous,
            Credential::Password(user, password) => {
                RegistryAuth::Basic(user.clone(), password.clone())
            }
            Credential::IdentityToken(token) => super::token::exchange(self, token).await?,
        })
    }

    /// Asked for explicitly, because oci-client drops the reason when a later request does it.
    async fn log_in(&self, auth: &RegistryAuth) -> Result<()> {
        self.persisting(|| async {
            let login = self.client.auth(&self.reference, auth, self.operation);
            let granted = login.await.map_err(|e| self.failure(e))?;
            if let (Some(token), RegistryOperation::Push) = (granted, self.operation) {
                // Whoever may push may look, too; oci-client would ask for a second token.
                let token = RegistryTokenType::Bearer(RegistryToken::Token { token });
                let tokens = &self.client.tokens;
                let looking = RegistryOperation::Pull;
                tokens.insert(&self.reference, looking, token).await;
            }
            Ok(())
        })
        .await
        .map_err(|failure| failure.error)
    }

    /// The client, which holds the login.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// As [`Remote::client`], for requests with a large body: without a limit on how long one may
    /// take, which is the caller's to set.
    pub fn uploads(&self) -> &Client {
        &self.uploads
    }

    /// The reference in full.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// The certificate authorities that the user trusts for this registry, as DER.
    pub(super) fn authorities(&self) -> &[Vec<u8>] {
        &self.authorities
    }

    /// What the login is for.
    pub fn operation(&self) -> RegistryOperation {
        self.operation
    }

    /// The login, for those of the client's calls that take one.
    pub fn auth(&self) -> &RegistryAuth {
        &self.auth
    }

    /// Makes a request again, after a growing pause, while its failure looks passing; and once more
    /// after a new login when the registry no longer knows the old one: tokens are short-lived.
    ///
    /// # Errors
    /// The last attempt's.
    pub async fn retrying<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let failure = match self.persisting(&mut attempt).await {
            Ok(value) => return Ok(value),
            Err(failure) => failure,
        };
        if failure.retry != Retry::AfterLogin {
            return Err(failure.error);
        }
        self.log_in(&self.authentication().await?).await?;
        let again = self.persisting(&mut attempt).await;
        again.map_err(|failure| failure.error)
    }

    async fn persisting<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut pause = FIRST_PAUSE;
        for left in (0..ATTEMPTS).rev() {
            match attempt().await {
                Ok(value) => return Ok(value),
                Err(failure) if failure.retry != Retry::Later || left == 0 => return Err(failure),
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
        Err(Error::environment("no attempt was made").into())
    }
}

fn client(
    registry: &str,
    authorities: &[Vec<u8>],
    read_timeout: Option<Duration>,
) -> Result<Client> {
    // Another part of the program may have chosen the provider already; either is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = ClientConfig {
        protocol: ClientProtocol::Https,
        connect_timeout: Some(CONNECT_TIMEOUT),
        read_timeout,
        use_monolithic_push: true,
        user_agent: concat!("imgbuild/", env!("CARGO_PKG_VERSION")),
        platform_resolver: None,
        ..ClientConfig::default()
    };
    let certificate = |der: &Vec<u8>| Certificate {
        encoding: CertificateEncoding::Der,
        data: der.clone(),
    };
    config.extra_root_certificates = authorities.iter().map(certificate).collect();
    if is_loopback(registry) {
        if is_plain(registry, authorities) {
            config.protocol = ClientProtocol::Http;
        }
        // A proxy of its own turns off that of the environment, which must never be asked for
        // this machine (Go's clients behave so, reqwest does not); NO_PROXY then skips it.
        config.http_proxy = Some("http://127.0.0.1:9".into());
        config.https_proxy = config.http_proxy.clone();
        config.no_proxy = Some("localhost,127.0.0.0/8,::1".into());
    }
    Client::try_from(config)
        .map_err(|e| Error::environment("cannot make an HTTP client").why(chain(&e)))
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
