//! Async work that a `Drop` must finish.
//!
//! A future may be dropped at any await: by a Ctrl-C that wins a `select!`, by an error, by a
//! panic. What is left in the daemon then is undone from the `Drop`, on a thread with a runtime of
//! its own, because the runtime that is dropping cannot be waited on.

use std::{future::Future, thread, time::Duration};

use tokio::signal::unix::{SignalKind, signal};

/// The exit status after a signal, as `Exit::Interrupted`.
const INTERRUPTED: i32 = 130;

/// Runs `work` to its end before returning, for at most `limit`. A further Ctrl-C or SIGTERM ends
/// the process at once. Returns whether the work was finished.
pub(super) fn finish(work: impl Future<Output = ()> + Send + 'static, limit: Duration) -> bool {
    let run = move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
        else {
            return false;
        };
        runtime.block_on(async {
            tokio::select! {
                () = work => true,
                () = tokio::time::sleep(limit) => false,
                () = stopped(SignalKind::interrupt()) => std::process::exit(INTERRUPTED),
                () = stopped(SignalKind::terminate()) => std::process::exit(INTERRUPTED),
            }
        })
    };
    thread::spawn(run).join().unwrap_or(false)
}

async fn stopped(kind: SignalKind) {
    match signal(kind) {
        Ok(mut signals) => {
            signals.recv().await;
        }
        // Without a listener the signal keeps its own effect.
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn works_inside_a_runtime_and_has_a_limit() {
        assert!(finish(
            async { tokio::time::sleep(Duration::from_millis(1)).await },
            Duration::from_secs(5)
        ));
        assert!(!finish(std::future::pending(), Duration::from_millis(10)));
    }
}
