//! `imgbuild explain`: what a code means.

use std::process::ExitCode;

use super::{args::ExplainArgs, print};
use crate::{
    error::{Error, Result},
    explain,
    spec::source::quoted,
};

pub(super) fn run(args: &ExplainArgs) -> Result<ExitCode> {
    match &args.code {
        Some(code) => print(explain::find(code).ok_or_else(|| unknown(code))?),
        None => {
            let width = explain::all().map(|entry| entry.code.len()).max();
            let width = width.unwrap_or_default();
            for entry in explain::all() {
                print(format!("{:width$}  {}", entry.code, entry.what));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn unknown(code: &str) -> Error {
    let error = Error::input(format!("there is no code {}", quoted(code)));
    error.hint(match explain::meant(code) {
        Some(near) => format!("did you mean '{near}'?"),
        None => "`imgbuild explain` lists them all".to_owned(),
    })
}
