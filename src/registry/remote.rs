//! A repository in a registry: connected to, with credentials, retries, and errors in words.

use std::{future::Future, path::PathBuf, sync::atomic::AtomicBool, sync::atomic::Ordering};

use oci_client::{Reference, RegistryOperation};
use reqwest::{Method, Response, StatusCode};
use url::Url;

use super::{
    auth::{self, Credential, Source},
    failure::Failure,
    login::Login,
    problem::{Problem, Refusal},
    retry::Attempts,
    settings::Settings,
    transport::{Call, Transport},
    trust::{self, Trust},
};
use crate::{
    error::{Error, Result, chain},
    reference,
    report::Reporter,
};

/// A connected repository.
pub struct Remote {
    transport: Transport,
    login: Login,
    source: Option<Source>,
    reference: Reference,
    operation: RegistryOperation,
    reporter: Reporter,
    reached: AtomicBool,
}

/// What a connection is for.
#[derive(Clone, Copy)]
pub struct Purpose<'a> {
    /// What the login must allow.
    pub operation: RegistryOperation,
    /// Other repositories of the registry that blobs are to be mounted from.
    pub sources: &'a [String],
    /// How registries are spoken to.
    pub settings: &'a Settings,
}

impl<'a> Purpose<'a> {
    /// To read from one repository.
    pub fn pull(settings: &'a Settings) -> Self {
        Self {
            operation: RegistryOperation::Pull,
            sources: &[],
            settings,
        }
    }
}

/// Reads a reference, with Docker's defaults: `debian` is `docker.io/library/debian:latest`.
///
/// # Errors
/// When it is not a reference.
pub fn parse_reference(text: &str) -> Result<Reference> {
    reference::parse(text).map_err(|e| {
        let hint = match text.to_lowercase() {
            lower if lower != text => format!("repository names are lower case: {lower}"),
            _ => "write it as [host[:port]/]repository[:tag][@sha256:digest]".into(),
        };
        Error::input(format!("'{text}' is not an image reference"))
            .why(chain(&e))
            .hint(hint)
    })
}

impl Remote {
    /// Connects: finds the user's credential and logs in when the registry asks for it.
    ///
    /// # Errors
    /// When the reference is not one, the registry cannot be reached, or the login is refused.
    pub async fn connect(text: &str, purpose: Purpose<'_>, reporter: &Reporter) -> Result<Self> {
        Self::connect_with(text, purpose, reporter, auth::files()).await
    }

    pub(crate) async fn connect_with(
        text: &str,
        purpose: Purpose<'_>,
        reporter: &Reporter,
        logins: Vec<PathBuf>,
    ) -> Result<Self> {
        let reference = parse_reference(text)?;
        let host = reference.resolve_registry();
        let trust = Trust::of(&trust::folders(), host)?;
        let transport = Transport::new(host, trust, purpose.settings)?;
        let (named, report) = (reference.clone(), reporter.clone());
        let found = crate::base::blocking(move || {
            let (host, repository) = (named.registry(), named.repository());
            Ok(auth::find(&logins, host, repository, &report))
        })
        .await?;
        let scope = scope(&reference, purpose.operation);
        let remote = Self {
            transport,
            login: Login::new(found.credential, scope, purpose.sources),
            source: found.source,
            reference,
            operation: purpose.operation,
            reporter: reporter.clone(),
            reached: AtomicBool::new(false),
        };
        let greeting = || async { remote.greet().await.map_err(|p| remote.failure(p)) };
        remote.retrying(greeting).await?;
        Ok(remote)
    }

    /// Asks what login the registry wants, and gets it, before there is anything to send.
    pub(super) async fn greet(&self) -> Result<(), Problem> {
        let call = Call::new(Method::GET, self.transport.base().clone());
        let shown = self.login.shown().await;
        let answer = match self.transport.send(&call, shown.header.as_ref()).await {
            Ok(answer) => answer,
            Err(problem) => return Err(self.transport.clearer(&call, problem).await),
        };
        let status = answer.status();
        if status == StatusCode::UNAUTHORIZED {
            self.login.renew(&self.transport, &shown, &answer).await?;
        } else if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            let refusal = Refusal::read(answer, self.transport.silence).await;
            return Err(Problem::Refused(refusal));
        }
        self.reached.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The reference in full.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// What the login is for.
    pub fn operation(&self) -> RegistryOperation {
        self.operation
    }

    /// The credential that is shown, and where it came from.
    pub fn credential(&self) -> (&Credential, Option<&Source>) {
        (self.login.credential(), self.source.as_ref())
    }

    /// The same repository with a login that allows to push; nothing is asked yet.
    pub(super) fn for_push(self) -> Self {
        let scope = scope(&self.reference, RegistryOperation::Push);
        Self {
            login: Login::new(self.login.credential().clone(), scope, &[]),
            operation: RegistryOperation::Push,
            ..self
        }
    }

    /// Whether the user has no credential for the registry.
    pub(super) fn is_anonymous(&self) -> bool {
        self.login.is_anonymous()
    }

    /// Whether the registry has answered already.
    pub(super) fn was_reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// The attempts at one thing.
    pub(super) fn attempts(&self) -> Attempts<'_> {
        Attempts::new(self.reference.registry(), &self.reporter)
    }

    /// An address of the repository's API: `/v2/NAME/` and what follows.
    pub(super) fn address(&self, path: &str) -> Result<Url, Problem> {
        let base = self.transport.base();
        let url = base.join(&format!("{}/{path}", self.reference.repository()));
        url.map_err(|e| Problem::Odd(format!("{path}: {e}")))
    }

    /// Sends a request with the login, where it goes to the registry itself; once more with a new
    /// login when the registry does not take the old one: tokens are short-lived.
    ///
    /// Any answer but 401 and an error of the server or of the client is the caller's to judge.
    pub(super) async fn send(&self, call: &Call) -> Result<Response, Problem> {
        let own = self.transport.is_own(&call.url);
        let shown = self.login.shown().await;
        let header = shown.header.as_ref().filter(|_| own);
        let mut answer = self.transport.send(call, header).await?;
        if answer.status() == StatusCode::UNAUTHORIZED && own {
            self.login.renew(&self.transport, &shown, &answer).await?;
            let shown = self.login.shown().await;
            answer = self.transport.send(call, shown.header.as_ref()).await?;
        }
        match answer.status() {
            status if status.is_client_error() || status.is_server_error() => {
                let refusal = Refusal::read(answer, self.transport.silence).await;
                Err(Problem::Refused(refusal))
            }
            _ => Ok(answer),
        }
    }

    /// Makes a request again, after a pause, while its failure looks passing ([`super::retry`]).
    ///
    /// # Errors
    /// The last attempt's.
    pub async fn retrying<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut attempts = self.attempts();
        loop {
            match attempt().await {
                Ok(value) => return Ok(value),
                Err(failure) => attempts.wait(failure).await?,
            }
        }
    }
}

/// What a token is asked for (distribution, "Token Scope Documentation").
fn scope(reference: &Reference, operation: RegistryOperation) -> String {
    let actions = match operation {
        RegistryOperation::Pull => "pull",
        RegistryOperation::Push => "pull,push",
    };
    format!("repository:{}:{actions}", reference.repository())
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
}
