//! Progress for people: bars on a terminal, plain lines elsewhere, always on stderr.

use std::{fmt::Display, io::IsTerminal, sync::Arc, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::secret::mask;

/// Where progress and warnings go. Cheap to clone; all clones share one terminal.
#[derive(Clone)]
pub struct Reporter {
    inner: Arc<Inner>,
}

struct Inner {
    bars: MultiProgress,
    mode: Mode,
    colour: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Bars,
    Lines,
    Quiet,
}

impl Reporter {
    /// Bars when stderr is a terminal, lines otherwise; only warnings with `quiet`.
    ///
    /// Colours follow <https://no-color.org>: off when `NO_COLOR` is set and not empty.
    pub fn stderr(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let mode = match (quiet, terminal) {
            (true, _) => Mode::Quiet,
            (_, true) => Mode::Bars,
            _ => Mode::Lines,
        };
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let target = match mode {
            Mode::Bars => ProgressDrawTarget::stderr(),
            _ => ProgressDrawTarget::hidden(),
        };
        Self {
            inner: Arc::new(Inner {
                bars: MultiProgress::with_draw_target(target),
                mode,
                colour,
            }),
        }
    }

    /// One line about a finished or a starting step.
    pub fn step(&self, line: impl Display) {
        if self.inner.mode != Mode::Quiet {
            self.line(line);
        }
    }

    /// A warning; printed in every mode.
    pub fn warn(&self, text: impl Display) {
        let label = self.paint("warning:", "33;1");
        self.line(format_args!("{label} {text}"));
    }

    /// The error that ends the program.
    pub fn error(&self, error: &crate::error::Error) {
        let label = self.paint("error:", "31;1");
        self.line(format_args!("{label} {error}"));
    }

    /// A task of known or unknown size in bytes; shown until it is dropped.
    pub fn bytes(&self, label: impl Into<String>, total: Option<u64>) -> Task {
        let bar = match self.inner.mode {
            Mode::Bars => self.inner.bars.add(ProgressBar::new(total.unwrap_or(0))),
            _ => ProgressBar::hidden(),
        };
        let template = match total {
            Some(_) => "  {msg:38!} {bar:24} {bytes:>10}/{total_bytes:10} {bytes_per_sec}",
            None => "  {msg:38!} {spinner} {bytes:>10} {bytes_per_sec}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(label.into());
        bar.enable_steady_tick(Duration::from_millis(200));
        Task { bar }
    }

    /// Prints a line; the credentials of URLs in it are masked.
    fn line(&self, line: impl Display) {
        let line = line.to_string();
        let line = mask(&line);
        match self.inner.mode {
            // println would tear the bars apart; suspend clears them first.
            Mode::Bars => self.inner.bars.suspend(|| eprintln!("{line}")),
            _ => eprintln!("{line}"),
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

/// A running task with a byte counter.
pub struct Task {
    bar: ProgressBar,
}

impl Task {
    /// Counts further bytes.
    pub fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// Takes bytes back that have to come again.
    pub fn take_back(&self, bytes: u64) {
        self.bar.dec(bytes);
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
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
    #[test]
    fn bytes_for_people() {
        let shown: Vec<_> = [0, 999, 1000, 319_000_000, 5_400_000_000]
            .map(super::human_bytes)
            .into();
        assert_eq!(shown, ["0 B", "999 B", "1.0 kB", "319.0 MB", "5.4 GB"]);
    }
}
