//! Running a probe's job as processes of this machine: for nodes without containers, and to tell a
//! container's faults from the host's.

use std::{
    collections::HashMap,
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::{Pid, gethostname},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::mpsc,
    time::{sleep_until, timeout},
};

use super::{
    before::{Before, driver_here},
    gpus, oom,
    output::Output,
    port::free_port,
    report::{Place, ProbeReport, RunFacts},
    spec::{GRACE, ProbeRequest, SCRIPTS, launch},
};
use crate::{
    docker::{Channel, Outcome},
    error::{Error, Exit, Result},
    report::Reporter,
};

/// How long a killed job's last lines may take.
const LAST_LINES: Duration = Duration::from_secs(5);

/// The Python that `torchrun` would use: `python` on the PATH, as in an activated environment, else
/// `python3`.
pub fn default_python() -> PathBuf {
    let named = |name: &str| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .map(|folder| folder.join(name))
            .find(|candidate| candidate.is_file())
    };
    named("python")
        .or_else(|| named("python3"))
        .unwrap_or_else(|| "python3".into())
}

/// Runs the job under a Python of this machine and judges it. The environment is the caller's own:
/// what is set in it is part of what is probed.
///
/// Safe to drop, as Ctrl-C does: the job's processes are told to end, and killed if they do not.
///
/// # Errors
/// With `Exit::ProbeNotRun` when the job could not be started.
pub async fn probe_host(
    python: &Path,
    request: &ProbeRequest,
    reporter: &Reporter,
) -> Result<ProbeReport> {
    // The job runs in a folder of its own.
    let python = match python.components().count() {
        0 | 1 => python.to_owned(),
        _ => std::path::absolute(python).map_err(|e| cannot_start(python, &e))?,
    };
    let python = python.as_path();
    let mut before = Before::start();
    before.python(python);
    gpus::on_this_machine(request.backend)?;
    before.gpus(request.backend, gpus::count_gpus());
    before.driver(request.backend, driver_here().as_deref(), &HashMap::new())?;
    before.found();
    let folder = tempfile::Builder::new()
        .prefix("imgbuild-probe-")
        .tempdir()
        .map_err(|e| Error::io("make a folder in", std::env::temp_dir(), e))?;
    for (name, content) in SCRIPTS {
        let path = folder.path().join(name);
        fs::write(&path, content).map_err(|e| Error::io("write", path, e))?;
    }
    let hostname = gethostname().map_or_else(
        |_| "localhost".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    );
    let ranks = request.backend.ranks();
    reporter.step(format!(
        "Probing {hostname} under {} with {ranks} ranks over {}",
        python.display(),
        request.backend.name()
    ));
    let mut output = Output::default();
    let mut job = Job::start(python, request, folder.path())?;
    let killed_before = oom::kills();
    let mut outcome = job.follow(request, &mut output, reporter).await?;
    outcome.oom_killed = oom::kills() > killed_before;
    if let Some(error) = never_began(python, &outcome, &output) {
        return Err(error);
    }
    let facts = RunFacts {
        backend: request.backend,
        place: Place::Host {
            hostname,
            python: python.to_owned(),
        },
        timeout: request.timeout,
        outcome,
    };
    Ok(ProbeReport::new(facts, &output).after(before.checks()))
}

/// torchrun and its ranks, in a process group of their own.
struct Job {
    child: Child,
    folder: PathBuf,
    group: Pid,
    lines: mpsc::Receiver<(Channel, String)>,
    ended: bool,
}

impl Job {
    fn start(python: &Path, request: &ProbeRequest, folder: &Path) -> Result<Self> {
        let failed = |e: std::io::Error| cannot_start(python, &e);
        let mut child = Command::new(python)
            .args(launch(
                request,
                &rendezvous()?,
                &folder.display().to_string(),
            ))
            // `python -m` looks for modules in the working directory first: not among the user's.
            .current_dir(folder)
            // What torchrun and killed ranks leave in a temporary folder goes with this one.
            .env("TMPDIR", folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let (send, lines) = mpsc::channel(256);
        if let Some(out) = child.stdout.take() {
            tokio::spawn(forward(out, Channel::Out, send.clone()));
        }
        if let Some(err) = child.stderr.take() {
            tokio::spawn(forward(err, Channel::Err, send));
        }
        Ok(Self {
            child,
            folder: folder.to_owned(),
            group: Pid::from_raw(id.unwrap_or_default()),
            lines,
            ended: id.is_none(),
        })
    }

    /// Reads the job's lines to its end; ends it when its time is up.
    async fn follow(
        &mut self,
        request: &ProbeRequest,
        output: &mut Output,
        reporter: &Reporter,
    ) -> Result<Outcome> {
        let began = Instant::now();
        let stop = tokio::time::Instant::from_std(began + request.timeout);
        let kill = stop + GRACE;
        let (mut stopping, mut killed) = (false, false);
        let mut take = |channel, line: &str| {
            if let Some(progress) = output.take(channel, line) {
                reporter.step(format_args!("  {progress}"));
            }
        };
        let status = loop {
            tokio::select! {
                Some((channel, line)) = self.lines.recv() => take(channel, &line),
                status = self.child.wait() => break status,
                () = sleep_until(stop), if !stopping => {
                    stopping = true;
                    self.signal(Signal::SIGTERM);
                }
                () = sleep_until(kill), if !killed => {
                    killed = true;
                    self.signal(Signal::SIGKILL);
                }
            }
        };
        self.ended = true;
        // A rank that outlived torchrun may hold the pipe open.
        let rest = async {
            while let Some((channel, line)) = self.lines.recv().await {
                take(channel, &line);
            }
        };
        let _ = timeout(LAST_LINES, rest).await;
        end_the_rest(&self.folder);
        let status =
            status.map_err(|e| Error::new(Exit::ProbeNotRun, "cannot wait for the job").why(e))?;
        Ok(Outcome {
            exit_code: Some(code(status)),
            timed_out: stopping,
            oom_killed: false,
            wall: began.elapsed(),
        })
    }

    fn signal(&self, signal: Signal) {
        if !self.ended {
            // An error means that the group is gone already.
            let _ = killpg(self.group, signal);
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // torchrun passes the signal on to its ranks, which are not in its group.
        self.signal(Signal::SIGTERM);
        let began = Instant::now();
        while began.elapsed() < GRACE {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        self.signal(Signal::SIGKILL);
        end_the_rest(&self.folder);
    }
}

/// Kills what outlived torchrun: a stopped rank acts on nothing else, and is not in its group. The
/// job's own temporary folder in their environment tells them from all others.
fn end_the_rest(folder: &Path) {
    let mark = format!("TMPDIR={}", folder.display());
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    for entry in all {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let ours = environment
            .split(|b| *b == 0)
            .any(|pair| pair == mark.as_bytes());
        if let Some(pid) = pid.filter(|_| ours) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// torchrun's own rendezvous goes through the machine's name, which a bare node may not resolve.
fn rendezvous() -> Result<[String; 4]> {
    let port = free_port().map_err(|e| {
        Error::new(
            Exit::ProbeNotRun,
            "no port is free on the loopback address [rendezvous]",
        )
        .why(e)
    })?;
    Ok([
        "--nnodes=1".into(),
        "--node_rank=0".into(),
        "--master_addr=127.0.0.1".into(),
        format!("--master_port={port}"),
    ])
}

async fn forward(
    stream: impl AsyncRead + Unpin,
    channel: Channel,
    lines: mpsc::Sender<(Channel, String)>,
) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    while let Ok(1..) = reader.read_until(b'\n', &mut line).await {
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches(['\n', '\r']).to_owned();
        if lines.send((channel, text)).await.is_err() {
            return;
        }
        line.clear();
    }
}

/// As a shell has it: 128 + n after signal n.
fn code(status: ExitStatus) -> i64 {
    let after_signal = || status.signal().map(|signal| 128 + signal);
    status.code().or_else(after_signal).unwrap_or(-1).into()
}

fn cannot_start(python: &Path, why: &dyn std::fmt::Display) -> Error {
    Error::new(
        Exit::ProbeNotRun,
        format!("cannot run {}", python.display()),
    )
    .why(why)
    .hint("give the Python that has torch with --python, or activate its environment")
}

/// A Python without torch is no verdict on the machine.
fn never_began(python: &Path, outcome: &Outcome, output: &Output) -> Option<Error> {
    if !output.ranks.is_empty() || outcome.timed_out || outcome.exit_code == Some(0) {
        return None;
    }
    let line = output.stderr_with(&["No module named 'torch'"])?;
    Some(
        Error::new(
            Exit::ProbeNotRun,
            format!("{} has no torch", python.display()),
        )
        .why(line)
        .hint("give the Python that has torch with --python, or activate its environment"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        probe::Backend,
        testing::{no_forks_beside, write_program},
    };

    /// A Python that ignores what it is told and runs this instead. The limit counts once the script
    /// has made `begun` in its folder, or has ended.
    async fn run(script: &str, limit: Duration) -> (Outcome, Output) {
        let forks = no_forks_beside();
        let folder = tempfile::tempdir().unwrap();
        let python = folder.path().join("python");
        write_program(&python, format!("#!/bin/sh\n{script}\n"));
        let request = ProbeRequest {
            timeout: limit,
            ..ProbeRequest::new(Backend::Cpu { nproc: 1 })
        };
        let mut output = Output::default();
        let mut job = Job::start(&python, &request, folder.path()).unwrap();
        drop(forks);
        let begun = folder.path().join("begun");
        while !begun.exists() && job.child.try_wait().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let reporter = Reporter::stderr(true);
        let outcome = job.follow(&request, &mut output, &reporter).await.unwrap();
        (outcome, output)
    }

    #[tokio::test]
    async fn lines_and_statuses_come_through() {
        let (outcome, output) = run("echo one >&2; echo two >&2; exit 7", GRACE).await;
        assert_eq!(outcome.exit_code, Some(7));
        assert_eq!(output.stderr_tail(9), ["one", "two"]);
        let (outcome, _) = run("kill -9 $$", GRACE).await;
        assert_eq!(outcome.exit_code, Some(137));
        assert!(!outcome.timed_out);
    }

    #[tokio::test]
    async fn the_limit_ends_the_whole_group() {
        let script = "sleep 600 & echo $! >&2; : > begun; wait";
        let (outcome, output) = run(script, Duration::from_millis(300)).await;
        assert!(outcome.timed_out);
        let pid: i32 = output.stderr_tail(1)[0].parse().unwrap();
        let gone = (0..1500).any(|_| {
            thread::sleep(Duration::from_millis(20));
            !Path::new(&format!("/proc/{pid}")).exists()
                || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| s.contains(") Z"))
        });
        assert!(gone, "process {pid} is still there");
    }
}
