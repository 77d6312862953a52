//! What unit tests of several modules need where processes are started.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Held by a test that starts processes, and by one that asks for a lock right after its holder let
/// it go: a child has the files that this process had when it was forked, and with them their locks,
/// until it runs its program.
pub fn no_forks_beside() -> MutexGuard<'static, ()> {
    static FORKS: Mutex<()> = Mutex::new(());
    FORKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes a program that can be run at once. Another process writes it: what this one has open for
/// writing, or a child that a test beside forks just then, cannot be run (execve(2), ETXTBSY).
pub fn write_program(path: &Path, text: &str) {
    let mut install = Command::new("install");
    install.args(["-m", "755", "/dev/stdin"]).arg(path);
    let mut install = install.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = install.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    assert!(install.wait().unwrap().success(), "{}", path.display());
}
