//! The Docker daemon: finding it, giving it images, running a container in it.
//!
//! Every future here is safe to drop, as a Ctrl-C does: what must be undone in the daemon is undone
//! before the drop returns, see [`teardown`].

mod climb;
mod connect;
mod container;
mod early;
mod endpoint;
mod greeting;
mod guard;
mod held;
mod known;
mod lines;
mod load;
mod part;
mod pipe;
mod teardown;
mod transfer;

use bollard::errors::Error as DockerError;

pub use connect::{Daemon, Facts, HostFacts, connect};
pub use container::{
    Channel, GpuRequest, Limits, Outcome, Refusal, RunFile, RunSpec, run as run_container,
};
pub use early::Early;
pub(crate) use load::is_id_of;
pub use load::load;

use crate::error::chain;

/// What the daemon said, without bollard's words around it.
pub(crate) fn words(error: &DockerError) -> String {
    match error {
        DockerError::DockerResponseServerError { message, .. } => message.trim().to_owned(),
        DockerError::DockerStreamError { error } => error.trim().to_owned(),
        other => chain(other),
    }
}

/// Whether the daemon said that the thing does not exist.
pub(crate) fn is_absent(error: &DockerError) -> bool {
    status(error) == Some(404)
}

pub(crate) fn status(error: &DockerError) -> Option<u16> {
    match error {
        DockerError::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}
