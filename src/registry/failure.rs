//! What goes wrong at a registry: in words, and whether another attempt may fare better.

use oci_client::{
    RegistryOperation,
    errors::{OciDistributionError, OciEnvelope, OciErrorCode},
    secrets::RegistryAuth,
};

use super::remote::Remote;
use crate::error::{Error, chain};

/// A failed attempt, and whether another one may fare better.
pub struct Failure {
    /// The error in words.
    pub error: Error,
    /// What another attempt takes.
    pub retry: Retry,
}

/// What another attempt takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It would fail again.
    Never,
    /// Time.
    Later,
    /// A new login: the registry does not accept the one that was shown.
    AfterLogin,
}

impl Retry {
    /// Time, if the failure is a passing one.
    pub fn if_passing(passing: bool) -> Self {
        match passing {
            true => Self::Later,
            false => Self::Never,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            error,
            retry: Retry::Never,
        }
    }
}

impl Remote {
    /// What went wrong in words, and what another attempt takes.
    pub fn failure(&self, error: OciDistributionError) -> Failure {
        let retry = match status(&error) {
            Some(401) => Retry::AfterLogin,
            Some(status) => Retry::if_passing(matches!(status, 408 | 429 | 500..=599)),
            None => Retry::if_passing(broke_off(&error)),
        };
        Failure {
            error: self.explain(&error),
            retry,
        }
    }

    /// `cannot pull NAME`, or `cannot push to NAME`.
    pub fn cannot(&self) -> Error {
        let verb = match self.operation() {
            RegistryOperation::Pull => "pull",
            RegistryOperation::Push => "push to",
        };
        Error::environment(format!("cannot {verb} {}", self.reference().whole()))
    }

    /// One message that names the reference, the cause and the way out.
    pub fn explain(&self, error: &OciDistributionError) -> Error {
        let failed = self.cannot().why(detail(error));
        let login = self.login();
        match (status(error), self.operation()) {
            (_, RegistryOperation::Push) if self.is_hubs_own() => failed.hint(
                "a name without a registry means Docker Hub's own images: \
                 name yours HOST/NAME:TAG, or USER/NAME:TAG for Docker Hub",
            ),
            (Some(401 | 403), operation) => failed.hint(self.denied(operation)),
            (Some(404), RegistryOperation::Pull) => {
                Error::environment(format!("no image {}", self.reference().whole()))
                    .why(detail(error))
                    .hint("check the name and the tag")
            }
            (Some(404), RegistryOperation::Push) => failed
                .hint("check the name; some registries want a repository to be made before a push"),
            (Some(429), _) => failed.hint(format!(
                "the registry limits requests; wait, or log in for a higher limit: {login}"
            )),
            _ => explain_connection(failed, error, self.reference().registry()),
        }
    }

    fn login(&self) -> String {
        match self.reference().registry() {
            "docker.io" => "docker login".to_owned(),
            host => format!("docker login {host}"),
        }
    }

    /// Whether this is a place where only Docker itself may push.
    fn is_hubs_own(&self) -> bool {
        let reference = self.reference();
        reference.registry() == "docker.io" && reference.repository().starts_with("library/")
    }

    fn denied(&self, operation: RegistryOperation) -> String {
        let login = self.login();
        match (self.auth(), operation) {
            (RegistryAuth::Anonymous, RegistryOperation::Pull) => {
                format!("check the name; if the image is private: {login}")
            }
            (RegistryAuth::Anonymous, RegistryOperation::Push) => format!("log in: {login}"),
            (_, RegistryOperation::Pull) => {
                format!("the login that was found is not accepted for it: {login}")
            }
            (_, RegistryOperation::Push) => {
                format!("the login that was found may not push to it: {login}")
            }
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
             put its CA certificate into ~/.config/containers/certs.d/{host}/ca.crt, or check the port"
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

/// The HTTP status of an answer, if there was one.
pub(crate) fn status(error: &OciDistributionError) -> Option<u16> {
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
        OciDistributionError::ServerError { code, message, .. } => server_words(*code, message),
        OciDistributionError::UnauthorizedError { .. } => "HTTP status 401: not authorized".into(),
        OciDistributionError::AuthenticationFailure(reason) => {
            let reason: String = reason.trim().chars().take(200).collect();
            format!("the login was refused: {reason}")
        }
        OciDistributionError::RegistryError { envelope, .. } => lines(envelope),
        OciDistributionError::RequestError(e) => match e.status() {
            Some(status) => format!("HTTP status {}", status.as_u16()),
            None => request_words(e),
        },
        other => chain(other),
    }
}

/// Upload addresses may carry signatures in their query, which do not belong in a log.
fn request_words(error: &reqwest::Error) -> String {
    let text = chain(error);
    match error.url() {
        Some(url) => {
            let mut bare = url.clone();
            bare.set_query(None);
            text.replace(url.as_str(), bare.as_str())
        }
        None => text,
    }
}

fn server_words(code: u16, message: &str) -> String {
    if let Ok(envelope) = serde_json::from_str(message) {
        return format!("HTTP status {code}: {}", lines(&envelope));
    }
    let message: String = message.trim().chars().take(200).collect();
    match message.is_empty() {
        true => format!("HTTP status {code}"),
        false => format!("HTTP status {code}: {message}"),
    }
}

fn lines(envelope: &OciEnvelope) -> String {
    let line = |e: &oci_client::errors::OciError| {
        let code = serde_json::to_value(&e.code).unwrap_or_default();
        let code = code.as_str().unwrap_or("error").to_owned();
        format!("{code}: {}", e.message)
    };
    let lines: Vec<_> = envelope.errors.iter().map(line).collect();
    lines.join("\n")
}

fn broke_off(error: &OciDistributionError) -> bool {
    match error {
        // Its source is the source of what it wraps: that itself would not be looked at.
        OciDistributionError::RequestError(request) => interrupted(request),
        other => interrupted(other),
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
            if (http.is_timeout() || broke) && !http.is_connect() {
                return true;
            }
        }
    }
    false
}
