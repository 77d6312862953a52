//! The one error type: what went wrong, where, why, and the way out.

use std::{fmt, io, path::Path};

use serde::Serialize;

use crate::space;

/// Exit status of the process, documented in the README.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A fault of imgbuild itself.
    Internal = 1,
    /// The input is wrong: a file, a flag, an unsatisfiable set of specs.
    Input = 2,
    /// Something outside is missing or refuses: network, disk, daemon, registry.
    Environment = 3,
    /// The probe ran and the image or the machine failed it.
    ProbeFailed = 4,
    /// The probe could not be started.
    ProbeNotRun = 5,
    /// `imgbuild diff --exit-code` found a difference.
    Different = 6,
    /// Stopped by Ctrl-C or SIGTERM.
    Interrupted = 130,
}

/// An error as the user reads it.
///
/// Printed as one line `error: WHAT`, then indented lines for the place, the
/// reasons and the way out, each only when it is known. To programs the same comes under the names
/// `message`, `at`, `why` and `hint` (docs/progress.md).
#[derive(Debug, Serialize)]
pub struct Error {
    #[serde(skip)]
    exit: Exit,
    #[serde(rename = "message")]
    what: String,
    #[serde(rename = "at", skip_serializing_if = "Option::is_none")]
    place: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    why: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

/// The result of everything that can fail in front of a user.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with the given exit status.
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self {
            exit,
            what: what.into(),
            place: None,
            why: Vec::new(),
            hint: None,
        }
    }

    /// The user's input is wrong.
    pub fn input(what: impl Into<String>) -> Self {
        Self::new(Exit::Input, what)
    }

    /// The machine, the network or a service does not do what is needed.
    pub fn environment(what: impl Into<String>) -> Self {
        Self::new(Exit::Environment, what)
    }

    /// An I/O error on a local path; a full disk says how full ([`space::full`]).
    pub fn io(doing: &str, path: impl AsRef<Path>, source: io::Error) -> Self {
        let path = path.as_ref();
        source.downcast::<Self>().unwrap_or_else(|source| {
            if space::is_full(&source) {
                return space::full(path, source.kind(), None);
            }
            Self::environment(format!("cannot {doing} {}", path.display())).why(source)
        })
    }

    /// The error that an I/O error carries, else `what` with it as the reason.
    pub fn of_io(what: &str, source: io::Error) -> Self {
        source
            .downcast::<Self>()
            .unwrap_or_else(|source| Self::environment(what).why(chain(&source)))
    }

    /// Where it is: `file:line:column`, a package, a URL.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.place = Some(place.to_string());
        self
    }

    /// Adds a reason; may be called more than once, the nearest reason first.
    #[must_use]
    pub fn why(mut self, why: impl fmt::Display) -> Self {
        self.why.push(why.to_string());
        self
    }

    /// The way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same error under another exit status.
    #[must_use]
    pub fn with_exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// The exit status that the process ends with.
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        if let Some(place) = &self.place {
            write!(f, "\n  at: {place}")?;
        }
        for why in &self.why {
            write!(f, "\n  why: {}", why.trim_end().replace('\n', "\n       "))?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {}", hint.replace('\n', "\n        "))?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// The chain of an error's sources in one line, for `why`.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let line = source.to_string();
        if !text.contains(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        next = source.source();
    }
    text
}
