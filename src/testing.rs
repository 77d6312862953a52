//! What unit tests of several modules need where processes are started.

#[path = "../tests/it/support/program.rs"]
mod program;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use program::write_program;

/// Held by a test that starts processes, and by one that asks for a lock right after its holder let
/// it go: a child has the files that this process had when it was forked, and with them their locks,
/// until it runs its program.
pub fn no_forks_beside() -> MutexGuard<'static, ()> {
    static FORKS: Mutex<()> = Mutex::new(());
    FORKS.lock().unwrap_or_else(PoisonError::into_inner)
}
