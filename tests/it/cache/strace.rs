//! The program under strace, which makes system calls fail or kills it there.

use std::process::Command;

use crate::support::{Output, Project};

/// Runs the program with these options of strace; the status is the program's. strace's log is
/// `strace.log` in the project.
pub fn traced(project: &Project, options: &[&str], args: &[&str]) -> Output {
    require();
    let mut command = project.command("strace");
    command
        .args(["-f", "-qq", "-o", "strace.log"])
        .args(options)
        .arg(env!("CARGO_BIN_EXE_imgbuild"))
        .args(args);
    project.output(&mut command)
}

fn require() {
    let tried = Command::new("strace").args(["-qq", "true"]).output();
    let why = match tried {
        Ok(tried) if tried.status.success() => return,
        Ok(tried) => String::from_utf8_lossy(&tried.stderr).into_owned(),
        Err(e) => e.to_string(),
    };
    panic!(
        "strace cannot be run: {why}\ninstall it (tests/support/need.sh strace); a container needs \
         --cap-add SYS_PTRACE"
    );
}
