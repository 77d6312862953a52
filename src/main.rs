//! The `imgbuild` program; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    imgbuild::cli::main()
}
