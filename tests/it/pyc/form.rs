//! The one form of marshalled code: whatever a process compiled before, and whatever its hash
//! seed, the same source gives the same bytes, and they are the same code.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use imgbuild::pyc::marshal::{CodeLayout, canonical};

use super::unpack;
use crate::support::{Project, env_file, source};

#[test]
fn all_orders_give_the_same_bytes() {
    for (env, minor) in [("small", 11), ("py39", 9)] {
        let project = Project::new(&env_file(env));
        let image = project.build(&["--base", "scratch", "--no-compile"]);
        let root = unpack(&image);
        let python = root.path().join(format!("opt/conda/bin/python3.{minor}"));
        let library = root.path().join(format!("opt/conda/lib/python3.{minor}"));
        check(&python, minor, &library);
    }
}

/// Compiles every file below a folder in two processes, in opposite orders and with other strings
/// alive.
fn check(python: &Path, minor: u64, folder: &Path) {
    let layout = CodeLayout::of_minor(minor).unwrap();
    let mut files = Vec::new();
    sources(folder, &mut files);
    files.sort();
    assert!(files.len() > 700, "only {} files", files.len());
    let forward = marshalled(python, "marshal", &files, "1");
    files.reverse();
    let mut backward = marshalled(python, "kept", &files, "2");
    files.reverse();
    backward.reverse();

    let one_form = |raw: &[u8]| match raw {
        [] => Vec::new(),
        raw => canonical(raw, layout).unwrap(),
    };
    let mut different = 0;
    let mut formed = Vec::new();
    for ((one, other), file) in forward.iter().zip(&backward).zip(&files) {
        different += usize::from(one != other);
        let form = one_form(one);
        assert_eq!(form, one_form(other), "{}", file.display());
        assert!(
            form.len() <= one.len() + one.len() / 10,
            "{}",
            file.display()
        );
        formed.push(form);
    }
    assert!(
        different > 0,
        "nothing differed before: this test shows nothing"
    );
    equal(python, &files, &formed);
}

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "py") {
            into.push(path);
        }
    }
}

fn checker(python: &Path, question: &str, files: &[PathBuf]) -> (Command, tempfile::NamedTempFile) {
    let mut list = tempfile::NamedTempFile::new().unwrap();
    for file in files {
        writeln!(list, "{}", file.display()).unwrap();
    }
    let mut command = Command::new(python);
    command
        .args(["-W", "ignore"])
        .arg(source("tests/support/pyc_check.py"))
        .arg(question)
        .arg(list.path());
    (command, list)
}

fn marshalled(python: &Path, how: &str, files: &[PathBuf], seed: &str) -> Vec<Vec<u8>> {
    let (mut command, _list) = checker(python, how, files);
    let output = command.env("PYTHONHASHSEED", seed).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut rest = &output.stdout[..];
    let mut frames = Vec::new();
    while let Some((size, more)) = rest.split_first_chunk::<4>() {
        let (frame, more) = more.split_at(u32::from_be_bytes(*size) as usize);
        frames.push(frame.to_vec());
        rest = more;
    }
    assert_eq!(frames.len(), files.len());
    frames
}

/// Python reads the bytes, and finds the code that it compiles itself.
fn equal(python: &Path, files: &[PathBuf], formed: &[Vec<u8>]) {
    let (mut command, _list) = checker(python, "equal", files);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let frames: Vec<u8> = formed
        .iter()
        .flat_map(|form| [&(form.len() as u32).to_be_bytes()[..], form].concat())
        .collect();
    let writer = thread::spawn(move || stdin.write_all(&frames));
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}");
    writer.join().unwrap().unwrap();
}
