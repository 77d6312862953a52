//! One activity that moves bytes, and how it is shown.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use super::{
    Mode, Reporter,
    event::{Event, Progress, State, Step},
    human_bytes,
};
use crate::digest::Digest;

/// How often a bar is drawn when nothing comes.
const TICK: Duration = Duration::from_millis(200);
/// How often a line of JSON tells how far something is.
const JSON_PACE: Duration = Duration::from_millis(250);
/// How often a line of text does: no CI takes the program for hung.
const TEXT_PACE: Duration = Duration::from_secs(10);

/// What moves bytes.
#[derive(Clone, Debug)]
pub struct Activity {
    pub(super) step: Step,
    pub(super) label: String,
    pub(super) digest: Option<Digest>,
}

impl Activity {
    /// Something with a name for people.
    pub fn new(step: Step, label: impl Into<String>) -> Self {
        Self {
            step,
            label: label.into(),
            digest: None,
        }
    }

    /// One whose bytes have this digest.
    #[must_use]
    pub fn of(mut self, digest: Digest) -> Self {
        self.digest = Some(digest);
        self
    }
}

/// A running activity with a byte counter; it ends when this is dropped.
pub struct Task {
    bar: ProgressBar,
    reporter: Reporter,
    id: u64,
    activity: Activity,
    total: Option<u64>,
    told: Mutex<Instant>,
}

impl Task {
    pub(super) fn start(reporter: &Reporter, activity: Activity, total: Option<u64>) -> Self {
        let bar = match reporter.inner.mode {
            Mode::Bars => {
                let bar = reporter.inner.bars.add(styled(&activity.label, total));
                bar.enable_steady_tick(TICK);
                bar
            }
            _ => ProgressBar::hidden(),
        };
        let task = Self {
            bar,
            reporter: reporter.clone(),
            id: reporter.next_id(),
            activity,
            total,
            told: Mutex::new(Instant::now()),
        };
        if reporter.inner.mode == Mode::Json {
            task.tell(State::Started);
        }
        task
    }

    /// Counts further bytes.
    pub fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
        let pace = match self.reporter.inner.mode {
            Mode::Json => JSON_PACE,
            Mode::Lines => TEXT_PACE,
            Mode::Bars | Mode::Quiet => return,
        };
        // Held while the line is written, so that counts come in order.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.elapsed() >= pace {
            *told = Instant::now();
            self.tell(State::Running);
        }
    }

    /// Takes bytes back that have to come again.
    pub fn take_back(&self, bytes: u64) {
        self.bar.dec(bytes);
    }

    fn tell(&self, state: State) {
        let current = self.bar.position();
        match self.reporter.inner.mode {
            Mode::Json => self.reporter.event(&Event::Progress(Progress {
                id: self.id,
                step: self.activity.step,
                state,
                label: &self.activity.label,
                digest: self.activity.digest,
                current,
                total: self.total,
            })),
            Mode::Lines => self.reporter.line(self.text(state, current)),
            Mode::Bars | Mode::Quiet => {}
        }
    }

    fn text(&self, state: State, current: u64) -> String {
        let (label, current) = (&self.activity.label, human_bytes(current));
        match (state, self.total) {
            (State::Running, Some(total)) => {
                format!("  {label}: {current} of {}", human_bytes(total))
            }
            (State::Running, None) => format!("  {label}: {current}"),
            _ => format!("  {label} ({current})"),
        }
    }

    fn end(&self) {
        let whole = self.total.is_none_or(|total| self.bar.position() >= total);
        let state = match whole {
            true => State::Done,
            false => State::Stopped,
        };
        // Of what goes over a network blob by blob; packages are many and have one line in all.
        let lined = matches!(self.activity.step, Step::Pull | Step::Push);
        if self.reporter.inner.mode == Mode::Json || lined && whole {
            self.tell(state);
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.end();
        self.bar.finish_and_clear();
    }
}

fn styled(label: &str, total: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::new(total.unwrap_or(0));
    let template = match total {
        Some(_) => "  {msg:38!} {bar:24} {bytes:>10}/{total_bytes:10} {bytes_per_sec}",
        None => "  {msg:38!} {spinner} {bytes:>10} {bytes_per_sec}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(label.to_owned());
    bar
}
