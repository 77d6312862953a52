//! When a failed request is made again.
//!
//! A request is made at most [`ATTEMPTS`] times. Before another attempt a registry gets the time
//! that it asks for (`Retry-After`), up to [`LONGEST_WAIT`]; one that asks for more has failed. One
//! that asks for nothing gets half a second, and twice as much each further time.

use std::time::Duration;

use super::failure::{Failure, Retry};
use crate::{error::Error, report::Reporter};

/// How often a request is made before its failure counts.
pub(super) const ATTEMPTS: u32 = 5;
/// The longest wait that a registry may ask for.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(120);
/// The pause before the second attempt; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The attempts at one thing.
pub(super) struct Attempts<'a> {
    host: &'a str,
    reporter: &'a Reporter,
    failed: u32,
}

/// What follows a failed attempt.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Another one after this pause.
    Wait(Duration),
    /// None: it would fail again.
    End,
    /// None: there were enough.
    Enough,
    /// None: the registry asks for too long a wait.
    TooLong(Duration),
}

impl<'a> Attempts<'a> {
    pub fn new(host: &'a str, reporter: &'a Reporter) -> Self {
        Self {
            host,
            reporter,
            failed: 0,
        }
    }

    /// Something was achieved: the attempts are counted anew.
    pub fn succeeded(&mut self) {
        self.failed = 0;
    }

    /// Waits until another attempt may be made.
    ///
    /// # Errors
    /// The failure, when there is to be none.
    pub async fn wait(&mut self, failure: Failure) -> Result<(), Error> {
        self.failed += 1;
        let error = failure.error;
        let pause = match next(failure.retry, self.failed) {
            Next::Wait(pause) => pause,
            Next::TooLong(asked) => {
                let asked = asked.as_secs();
                return Err(error.why(format!("it asks to come again in {asked} s")));
            }
            Next::Enough => return Err(error.why(format!("tried {} times", self.failed))),
            Next::End => return Err(error),
        };
        let text = error.to_string();
        let why = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("why: "));
        self.reporter.step(format_args!(
            "{}: trying again in {} s ({})",
            self.host,
            pause.as_secs_f32(),
            why.unwrap_or(&text)
        ));
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

fn next(retry: Retry, failed: u32) -> Next {
    let asked = match retry {
        Retry::Never => return Next::End,
        Retry::After(asked) if asked > LONGEST_WAIT => return Next::TooLong(asked),
        Retry::After(asked) => Some(asked),
        Retry::Later => None,
    };
    if failed >= ATTEMPTS {
        return Next::Enough;
    }
    // A wait of no time at all is no wait.
    let pause = FIRST_PAUSE * 2u32.saturating_pow(failed.saturating_sub(1));
    Next::Wait(asked.map_or(pause, |asked| asked.max(FIRST_PAUSE)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_bounded_and_a_registrys_wish_is_obeyed() {
        let millis = |retry, failed| match next(retry, failed) {
            Next::Wait(pause) => pause.as_millis(),
            other => panic!("{other:?}"),
        };
        let pauses: Vec<_> = (1..ATTEMPTS).map(|n| millis(Retry::Later, n)).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000]);
        assert_eq!(next(Retry::Later, ATTEMPTS), Next::Enough);
        let after = |seconds| Retry::After(Duration::from_secs(seconds));
        assert_eq!(millis(after(7), 4), 7000);
        assert_eq!(millis(after(0), 4), 500);
        assert_eq!(millis(after(120), 1), 120_000);
        assert_eq!(next(after(7), ATTEMPTS), Next::Enough);
        assert_eq!(next(after(121), 1), Next::TooLong(Duration::from_secs(121)));
        assert_eq!(next(Retry::Never, 1), Next::End);
    }
}
