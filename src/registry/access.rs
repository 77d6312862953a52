//! What a login may do in a repository, found by doing it.
//!
//! A token may say what it grants, but its form is the registry's own business (distribution,
//! "Token authentication"), and registries without tokens say nothing at all.

use reqwest::Method;
use serde::Serialize;

use super::{
    failure::Failure,
    problem::Problem,
    remote::Remote,
    transport::Call,
    upload::{Begun, begin},
};
use crate::error::Result;

/// The answer to one wish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "answer", content = "why")]
pub enum Grant {
    /// The registry does it.
    Granted,
    /// It would, and there is no such image.
    NoImage,
    /// It does not; in its words.
    Denied(String),
}

impl Grant {
    /// Whether the registry does not refuse.
    pub fn is_granted(&self) -> bool {
        !matches!(self, Self::Denied(_))
    }
}

impl Remote {
    /// Whether the image may be read: its manifest is asked for, and not fetched.
    ///
    /// # Errors
    /// When the registry gives no answer.
    pub async fn may_pull(&self) -> Result<Grant> {
        let asked = || async {
            let name = self.reference().digest().or(self.reference().tag());
            let call = self.manifest_call(Method::HEAD, name.unwrap_or("latest"));
            let done = async {
                self.ping().await?;
                self.send(&call?).await.map(drop)
            };
            match done.await {
                Err(problem) if problem.status() == Some(404) => Ok(Grant::NoImage),
                done => self.judge(done),
            }
        };
        self.retrying(asked).await
    }

    /// Whether blobs may be sent: an upload is begun and cancelled.
    ///
    /// # Errors
    /// When the registry gives no answer.
    pub async fn may_push(self) -> Result<Grant> {
        let remote = self.for_push();
        let asked = || async { remote.judge(remote.try_upload().await) };
        remote.retrying(asked).await
    }

    /// Any web server says 404 for an image that it does not have.
    async fn ping(&self) -> Result<(), Problem> {
        let call = Call::new(Method::GET, self.transport().base().clone());
        match self.send(&call).await {
            Err(problem) if matches!(problem.status(), Some(401 | 403)) => Ok(()),
            Err(Problem::Refused(refusal)) if refusal.status.is_client_error() => {
                Err(Problem::Odd(format!(
                    "it is no registry: HTTP status {} for {}",
                    refusal.status.as_u16(),
                    call.url
                )))
            }
            done => done.map(drop),
        }
    }

    async fn try_upload(&self) -> Result<(), Problem> {
        self.greet().await?;
        if let Begun::Session(session) = begin(self, None).await? {
            // A registry that cannot cancel forgets an upload by itself.
            let _ = self
                .send(&Call::new(Method::DELETE, session.into_address()))
                .await;
        }
        Ok(())
    }

    fn judge(&self, done: Result<(), Problem>) -> Result<Grant, Failure> {
        match done {
            Ok(()) => Ok(Grant::Granted),
            Err(problem) if matches!(problem.status(), Some(401 | 403 | 404 | 405)) => {
                Ok(Grant::Denied(problem.words()))
            }
            Err(problem) => Err(self.failure(problem)),
        }
    }
}
