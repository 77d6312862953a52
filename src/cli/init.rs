//! `imgbuild init`: the ready image definitions.

use std::process::ExitCode;

use super::{args::InitArgs, print};
use crate::{error::Result, report::Reporter, spec::catalog};

pub(super) fn run(args: &InitArgs, reporter: &Reporter) -> Result<ExitCode> {
    let Some(name) = &args.name else {
        let definitions = catalog::list();
        let width = definitions.iter().map(|d| d.name.len()).max().unwrap_or(0);
        for definition in definitions {
            print(format!(
                "{:width$}  {}",
                definition.name, definition.description
            ));
        }
        return Ok(ExitCode::SUCCESS);
    };
    for path in catalog::write(name, &args.dir, args.force)? {
        print(path.display());
    }
    reporter.step(format!(
        "Next: imgbuild build {} -t {name}:dev --load",
        args.dir.join("env.yml").display()
    ));
    Ok(ExitCode::SUCCESS)
}
