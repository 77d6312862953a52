//! What goes wrong at a registry: in words, and whether another attempt may fare better.

use std::time::Duration;

use oci_client::RegistryOperation;

use super::{
    problem::{Problem, certificate_alert},
    remote::Remote,
};
use crate::error::{Error, chain};

/// A failed attempt, and whether another one may fare better.
#[derive(Debug)]
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
    /// The time that the registry asks for.
    After(Duration),
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
    pub fn failure(&self, problem: Problem) -> Failure {
        Failure {
            retry: self.retry(&problem),
            error: self.explain(problem),
        }
    }

    fn retry(&self, problem: &Problem) -> Retry {
        let passes = match problem {
            Problem::Refused(refusal) => {
                let status = refusal.status.as_u16();
                let passes = matches!(status, 408 | 425 | 429 | 500..=599);
                if let (true, Some(asked)) = (passes, refusal.retry_after) {
                    return Retry::After(asked);
                }
                passes
            }
            // One that was there a moment ago may be restarting.
            Problem::Broken(error) => {
                (self.was_reached() || interrupted(error)) && certificate_alert(error).is_none()
            }
            Problem::Silent(_) => true,
            Problem::Login(_) | Problem::Misdirected(_) | Problem::Odd(_) | Problem::Local(_) => {
                false
            }
        };
        match passes {
            true => Retry::Later,
            false => Retry::Never,
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
    pub fn explain(&self, problem: Problem) -> Error {
        if let Problem::Broken(error) = &problem
            && let Some(alert) = certificate_alert(error)
        {
            return self.explain_certificate(alert);
        }
        let failed = self.cannot().why(problem.words());
        let login = self.login_command();
        match (problem.status(), self.operation(), problem) {
            (.., Problem::Local(error)) => error,
            (_, RegistryOperation::Push, _) if self.is_hubs_own() => failed.hint(
                "a name without a registry means Docker Hub's own images: \
                 name yours HOST/NAME:TAG, or USER/NAME:TAG for Docker Hub",
            ),
            (Some(401 | 403), operation, _) => failed.hint(self.denied(operation)),
            (Some(404), RegistryOperation::Pull, problem) => {
                Error::environment(format!("no image {}", self.reference().whole()))
                    .why(problem.words())
                    .hint("check the name and the tag")
            }
            (Some(404), RegistryOperation::Push, _) => failed
                .hint("check the name; some registries want a repository to be made before a push"),
            (Some(413), ..) => failed.hint(
                "a proxy before the registry limits the size of requests \
                 (nginx: client_max_body_size): raise it",
            ),
            (Some(429), ..) => failed.hint(format!(
                "the registry limits requests; wait, or log in for a higher limit: {login}"
            )),
            (None, _, Problem::Broken(error)) => {
                explain_connection(failed, &error, self.reference().registry())
            }
            (None, _, Problem::Silent(_)) => failed.hint(
                "check the network; a registry that thinks for long: --registry-timeout SECONDS",
            ),
            _ => failed,
        }
    }

    /// The registry wants a certificate of the user, or does not take the one that it was shown.
    fn explain_certificate(&self, alert: &str) -> Error {
        let host = self.reference().registry();
        let place = format!("~/.config/containers/certs.d/{host}/client.cert and client.key");
        match self.transport().identity() {
            Some(shown) => self
                .cannot()
                .why(format!(
                    "{host} does not take the client certificate {} (TLS alert {alert})",
                    shown.display()
                ))
                .hint(format!("put one that it takes into {place}")),
            None => self
                .cannot()
                .why(format!("{host} wants a client certificate"))
                .hint(format!("put it into {place}")),
        }
    }

    fn login_command(&self) -> String {
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
        let login = self.login_command();
        match (self.is_anonymous(), operation) {
            (true, RegistryOperation::Pull) => {
                format!("check the name; if the image is private: {login}")
            }
            (true, RegistryOperation::Push) => format!("log in: {login}"),
            (false, RegistryOperation::Pull) => {
                format!("the login that was found is not accepted for it: {login}")
            }
            (false, RegistryOperation::Push) => {
                format!("the login that was found may not push to it: {login}")
            }
        }
    }
}

/// Adds the way out when no HTTP answer came at all.
fn explain_connection(failed: Error, error: &reqwest::Error, host: &str) -> Error {
    let text = chain(error).to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if has(&[
        "certificate",
        "tls",
        "invalidcontenttype",
        "corrupt message",
    ]) {
        return failed.hint(format!(
            "{host} is spoken to over TLS: put its CA certificate into \
             ~/.config/containers/certs.d/{host}/ca.crt, or check the port; \
             if it has no TLS: --plain-http {host}"
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

/// Whether a connection broke, as opposed to never having come about.
fn interrupted(error: &(dyn std::error::Error + 'static)) -> bool {
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
