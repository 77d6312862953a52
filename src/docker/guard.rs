//! A container that does not outlive its owner.

use std::time::Duration;

use bollard::{
    Docker, errors::Error as DockerError, query_parameters::RemoveContainerOptionsBuilder,
};

use super::{is_absent, status, teardown, words};
use crate::report::Reporter;

const REMOVE_LIMIT: Duration = Duration::from_secs(30);
/// A create request that was cut off may still come through; its container shows up within this.
const LATE_CREATE: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(100);

/// Removes a container by its name, whatever happens: when asked, or when dropped. Made *before*
/// the create request, so that a container made by a request that was cut off goes too.
pub(super) struct Guard {
    docker: Docker,
    name: String,
    reporter: Reporter,
    created: bool,
    armed: bool,
}

impl Guard {
    pub(super) fn new(docker: &Docker, name: &str, reporter: &Reporter) -> Self {
        Self {
            docker: docker.clone(),
            name: name.to_owned(),
            reporter: reporter.clone(),
            created: false,
            armed: true,
        }
    }

    /// The create request was answered: there is a container.
    pub(super) fn created(&mut self) {
        self.created = true;
    }

    /// The create request was refused: there is none.
    pub(super) fn disarm(mut self) {
        self.armed = false;
    }

    /// Kills and removes the container with its anonymous volumes.
    pub(super) async fn remove(mut self) {
        match tokio::time::timeout(REMOVE_LIMIT, remove(&self.docker, &self.name, true)).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => self.left(&words(&e)),
            Err(_) => self.left("the daemon does not answer"),
        }
        self.armed = false;
    }

    fn left(&self, why: &str) {
        let name = &self.name;
        self.reporter.warn(format_args!(
            "container {name} is still there: {why}\n  hint: docker rm -f -v {name}"
        ));
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let (docker, name, created) = (self.docker.clone(), self.name.clone(), self.created);
        let (tell, told) = std::sync::mpsc::channel();
        let work = async move {
            let _ = tell.send(remove(&docker, &name, created).await);
        };
        teardown::finish(work, REMOVE_LIMIT);
        match told.try_recv() {
            Ok(Ok(())) => {}
            Ok(Err(e)) => self.left(&words(&e)),
            Err(_) => self.left("the daemon does not answer"),
        }
    }
}

async fn remove(docker: &Docker, name: &str, created: bool) -> Result<(), DockerError> {
    let options = || {
        RemoveContainerOptionsBuilder::new()
            .force(true)
            .v(true)
            .build()
    };
    let began = tokio::time::Instant::now();
    loop {
        match docker.remove_container(name, Some(options())).await {
            Err(e) if is_absent(&e) && !created && began.elapsed() < LATE_CREATE => {}
            // 409: a removal is under way already; it has ended when the name is unknown.
            Err(e) if status(&e) == Some(409) && began.elapsed() < REMOVE_LIMIT / 2 => {}
            Err(e) if !is_absent(&e) => return Err(e),
            _ => return Ok(()),
        }
        tokio::time::sleep(RETRY).await;
    }
}
