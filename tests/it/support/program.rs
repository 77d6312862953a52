//! Programs that tests write; unit tests use it, too (src/testing.rs).

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

/// Writes a program that can be run at once. Another process writes it: what this one has open for
/// writing, or a child that a test beside forks just then, cannot be run (execve(2), ETXTBSY).
pub fn write_program(path: &Path, text: impl AsRef<[u8]>) {
    let mut install = Command::new("install");
    install.args(["-m", "755", "/dev/stdin"]).arg(path);
    let mut install = install.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = install.stdin.take().unwrap();
    stdin.write_all(text.as_ref()).unwrap();
    drop(stdin);
    assert!(install.wait().unwrap().success(), "{}", path.display());
}
