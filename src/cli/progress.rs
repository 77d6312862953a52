//! `--progress`, and how the program ends for those who read its events.

use std::{
    ffi::OsStr,
    io::{self, IsTerminal},
    process::ExitCode,
};

use super::args::Progress;
use crate::{
    error::{Error, Result},
    report::{Mode, Reporter},
};

/// The reporter that the flags ask for.
///
/// # Errors
/// When bars are asked for, and stderr is no terminal.
pub(super) fn reporter(progress: Progress, quiet: bool) -> Result<Reporter> {
    let mode = match progress {
        Progress::Auto => return Ok(Reporter::stderr(quiet)),
        Progress::Tty if !io::stderr().is_terminal() => {
            return Err(Error::input("--progress tty needs a terminal")
                .why("stderr is none")
                .hint("leave it out, or take --progress plain or json"));
        }
        Progress::Tty => Mode::Bars,
        Progress::Plain => Mode::Lines,
        Progress::Json => Mode::Json,
        Progress::Quiet => Mode::Quiet,
    };
    Ok(Reporter::in_mode(mode))
}

/// Ends the program with an error.
pub(super) fn fail(reporter: &Reporter, error: &Error) -> ExitCode {
    reporter.error(error);
    reporter.end(error.exit() as u8);
    ExitCode::from(error.exit() as u8)
}

/// Ends the program because of its flags, or with the help that they ask for.
pub(super) fn refuse(error: &clap::Error) -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    if !error.use_stderr() || !wants_json(&args) {
        error.exit();
    }
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    fail(
        &Reporter::in_mode(Mode::Json),
        &Error::input(text.trim_end()),
    )
}

/// Whether events are asked for, in arguments that as a whole are wrong.
fn wants_json(args: &[impl AsRef<OsStr>]) -> bool {
    let mut args = args.iter().map(AsRef::as_ref);
    while let Some(arg) = args.next() {
        if arg == "--progress=json" || arg == "--progress" && args.next() == Some("json".as_ref()) {
            return true;
        }
    }
    false
}

/// The status that an [`ExitCode`] stands for; it does not tell.
pub(super) fn number(exit: ExitCode) -> u8 {
    let mut all = 0..=u8::MAX;
    all.find(|number| ExitCode::from(*number) == exit)
        .unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_flags_may_still_ask_for_events() {
        let wants = |line: &str| wants_json(&line.split(' ').collect::<Vec<_>>());
        assert!(wants("imgbuild --progress json bild"));
        assert!(wants("imgbuild bild --progress=json"));
        assert!(!wants("imgbuild bild --progress plain json"));
        assert!(!wants("imgbuild bild --progress"));
    }

    #[test]
    fn statuses_have_their_numbers() {
        for status in [0, 3, 255] {
            assert_eq!(number(ExitCode::from(status)), status);
        }
    }
}
