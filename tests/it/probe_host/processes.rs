//! A run's processes while it goes on, and what it tells.

use std::{
    fs,
    io::{BufRead as _, BufReader, Lines},
    path::Path,
    process::{Child, ChildStderr, Command, Stdio},
    thread,
    time::Duration,
};

use super::command;
use crate::support::{Project, run};

/// What a run tells while it goes on.
pub type Told = Lines<BufReader<ChildStderr>>;

/// A run that tells of its checks.
pub fn told(project: &Project, flags: &[&str]) -> (Child, Told) {
    let command = command(project, flags);
    let words = command.get_args().map(ToOwned::to_owned);
    let words: Vec<_> = words.filter(|word| word != "-q").collect();
    let mut command = project.command(command.get_program().to_str().unwrap());
    let mut child = command
        .args(words)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let told = BufReader::new(child.stderr.take().unwrap()).lines();
    (child, told)
}

/// Reads on until the ranks have come past a check.
pub fn come_past(told: &mut Told, check: &str) {
    let met = told.find(|line| line.as_ref().is_ok_and(|line| line.contains(check)));
    assert!(met.is_some(), "the ranks did not come past {check}");
}

/// The process of a run's second rank.
pub fn second(child: &Child) -> u32 {
    let all = ranks(child.id(), 2);
    all.iter().find(|(_, rank)| rank == "1").unwrap().0
}

/// A run that has come past a check, and the process of its second rank.
pub fn past(project: &Project, check: &str, flags: &[&str]) -> (Child, u32) {
    let (child, mut told) = told(project, flags);
    come_past(&mut told, check);
    thread::spawn(move || told.count());
    let second = second(&child);
    (child, second)
}

/// The processes of a run's ranks, once all of them are past their imports.
fn ranks(imgbuild: u32, count: usize) -> Vec<(u32, String)> {
    for _ in 0..6000 {
        let mut all: Vec<(u32, String)> = Vec::new();
        for pid in descendants(imgbuild) {
            // Its own children come after it.
            match local_rank(pid) {
                Some(rank) if all.iter().all(|(_, known)| *known != rank) => all.push((pid, rank)),
                _ => {}
            }
        }
        if all.len() >= count {
            return all;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("the ranks did not start");
}

pub fn descendants(of: u32) -> Vec<u32> {
    let path = format!("/proc/{of}/task/{of}/children");
    let children = fs::read_to_string(path).unwrap_or_default();
    let children = children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok());
    children
        .flat_map(|pid| [vec![pid], descendants(pid)].concat())
        .collect()
}

/// `LOCAL_RANK` of a process that is the job's script itself.
fn local_rank(pid: u32) -> Option<String> {
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    if !line.contains("ddp_probe.py") || line.contains("torch.distributed.run") {
        return None;
    }
    let environment = fs::read_to_string(format!("/proc/{pid}/environ")).ok()?;
    let value = environment
        .split('\0')
        .find_map(|pair| pair.strip_prefix("LOCAL_RANK="))?;
    Some(value.to_owned())
}

pub fn signal(pid: u32, signal: &str) {
    run(Command::new("kill").args([signal, &pid.to_string()]));
}

#[track_caller]
pub fn assert_gone(pid: u32) {
    let gone = (0..1500).any(|_| {
        thread::sleep(Duration::from_millis(20));
        !Path::new(&format!("/proc/{pid}/cmdline")).exists()
            || fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.is_empty())
    });
    assert!(gone, "process {pid} is still there");
}
