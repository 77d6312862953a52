//! Progress, warnings and errors, always on stderr: bars on a terminal, plain lines elsewhere, JSON
//! for programs.

mod event;
mod task;

use std::{
    ffi::OsString,
    fmt::Display,
    io::{IsTerminal, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use indicatif::{MultiProgress, ProgressDrawTarget};
use jiff::Timestamp;

pub use event::{State, Step};
pub use task::{Activity, Task};

use crate::{error::Error, secret::mask};
use event::{Event, Progress};

/// Where progress and warnings go. Cheap to clone; all clones share one terminal.
#[derive(Clone)]
pub struct Reporter {
    inner: Arc<Inner>,
}

struct Inner {
    bars: MultiProgress,
    mode: Mode,
    colour: bool,
    ids: AtomicU64,
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A line a running activity, drawn over and over.
    Bars,
    /// A line a finished or a starting step.
    Lines,
    /// An event a line (docs/progress.md).
    Json,
    /// Warnings and errors only.
    Quiet,
}

impl Mode {
    /// Bars where stderr is a terminal that can draw them and no CI keeps what is drawn.
    fn suitable(terminal: bool, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        // GitHub, GitLab and others set CI to true; false is how people say that it is none.
        let ci = variable("CI").is_some_and(|value| !value.is_empty() && value != "false");
        let dumb = variable("TERM").is_some_and(|value| value == "dumb");
        match terminal && !ci && !dumb {
            true => Self::Bars,
            false => Self::Lines,
        }
    }
}

impl Reporter {
    /// In the form that suits stderr; only warnings with `quiet`.
    pub fn stderr(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self::in_mode(match quiet {
            true => Mode::Quiet,
            false => Mode::suitable(terminal, |name| std::env::var_os(name)),
        })
    }

    /// In this form. Bars need a terminal.
    ///
    /// Colours follow <https://no-color.org>: off when `NO_COLOR` is set and not empty.
    pub fn in_mode(mode: Mode) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let target = match mode {
            Mode::Bars => ProgressDrawTarget::stderr(),
            _ => ProgressDrawTarget::hidden(),
        };
        let reporter = Self {
            inner: Arc::new(Inner {
                bars: MultiProgress::with_draw_target(target),
                mode,
                colour: std::io::stderr().is_terminal() && !plain,
                ids: AtomicU64::new(0),
            }),
        };
        if mode == Mode::Json {
            reporter.event(&Event::Start {
                version: event::VERSION,
                imgbuild: env!("CARGO_PKG_VERSION"),
            });
        }
        reporter
    }

    /// One line about a finished or a starting step.
    pub fn step(&self, line: impl Display) {
        match self.inner.mode {
            Mode::Quiet => {}
            Mode::Json => self.event(&Event::Message {
                message: line.to_string(),
            }),
            Mode::Bars | Mode::Lines => self.line(line),
        }
    }

    /// A warning; printed in every mode.
    pub fn warn(&self, text: impl Display) {
        match self.inner.mode {
            Mode::Json => self.event(&Event::Warning {
                message: text.to_string(),
            }),
            _ => {
                let label = self.paint("warning:", "33;1");
                self.line(format_args!("{label} {text}"));
            }
        }
    }

    /// An error that ends the program, alone or with others.
    pub fn error(&self, error: &Error) {
        match self.inner.mode {
            Mode::Json => self.event(&Event::Error {
                exit: error.exit() as u8,
                error,
            }),
            _ => {
                let label = self.paint("error:", "31;1");
                self.line(format_args!("{label} {error}"));
            }
        }
    }

    /// The program ends with this status.
    pub fn end(&self, exit: u8) {
        if self.inner.mode == Mode::Json {
            self.event(&Event::End { exit });
        }
    }

    /// An activity of known or unknown size in bytes; shown until it is dropped.
    pub fn bytes(&self, activity: Activity, total: Option<u64>) -> Task {
        Task::start(self, activity, total)
    }

    /// An activity that ended as it began, or whose bytes were not counted on the way. Told to
    /// programs: people have a line of their own.
    pub fn settled(&self, activity: &Activity, size: u64, state: State) {
        if self.inner.mode == Mode::Json {
            self.event(&Event::Progress(Progress {
                id: self.next_id(),
                step: activity.step,
                state,
                label: &activity.label,
                digest: activity.digest,
                current: size,
                total: Some(size),
            }));
        }
    }

    fn next_id(&self) -> u64 {
        self.inner.ids.fetch_add(1, Ordering::Relaxed)
    }

    fn event(&self, event: &Event<'_>) {
        write(&event.line(Timestamp::now()));
    }

    /// Prints a line; the credentials of URLs in it are masked.
    fn line(&self, line: impl Display) {
        let line = line.to_string();
        let line = mask(&line);
        match self.inner.mode {
            // A line between them would tear the bars apart; suspend clears them first.
            Mode::Bars => self.inner.bars.suspend(|| write(&line)),
            _ => write(&line),
        }
    }

    fn paint(&self, text: &str, code: &str) -> String {
        if self.inner.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Writes a line at once, so that no other process's comes between. Nobody is left to hear that
/// stderr is closed.
fn write(line: &str) {
    let _ = std::io::stderr()
        .lock()
        .write_all(format!("{line}\n").as_bytes());
}

/// Bytes for people: `5.4 GB`, `319.0 MB`, `12 B` (powers of ten, as registries and disks count).
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    if unit == "B" {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {unit}")
    }
}

/// `1 layer`, `2 layers`.
pub fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_for_terminals_of_people() {
        let mode = |terminal, set: &[(&str, &str)]| {
            let find = |name: &str| set.iter().find(|(known, _)| *known == name);
            Mode::suitable(terminal, |name| find(name).map(|(_, value)| value.into()))
        };
        let xterm = ("TERM", "xterm");
        assert_eq!(mode(true, &[xterm]), Mode::Bars);
        assert_eq!(mode(true, &[xterm, ("CI", "")]), Mode::Bars);
        assert_eq!(mode(true, &[xterm, ("CI", "false")]), Mode::Bars);
        assert_eq!(mode(true, &[xterm, ("CI", "true")]), Mode::Lines);
        assert_eq!(mode(true, &[("TERM", "dumb")]), Mode::Lines);
        assert_eq!(mode(false, &[xterm]), Mode::Lines);
    }

    #[test]
    fn bytes_for_people() {
        let shown: Vec<_> = [0, 999, 1000, 319_000_000, 5_400_000_000]
            .map(human_bytes)
            .into();
        assert_eq!(shown, ["0 B", "999 B", "1.0 kB", "319.0 MB", "5.4 GB"]);
    }
}
