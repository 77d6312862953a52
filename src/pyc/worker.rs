//! One Python process that compiles, and its protocol (templates/compile_pyc.py).

use std::{
    io::{self, Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

const SCRIPT: &str = include_str!("../../templates/compile_pyc.py");
/// Compiling takes milliseconds; some sources take parsers exponential time.
const LIMIT: Duration = Duration::from_secs(300);
/// Starting takes 20 ms; a stopped machine or a network disk takes longer.
const START_LIMIT: Duration = Duration::from_secs(60);
/// No answer is longer: a source has 16 MiB at most.
const LONGEST: u32 = 1 << 30;
/// `SIGILL`, `SIGABRT`, `SIGBUS`, `SIGFPE` and `SIGSEGV`: what a program does to itself.
const CRASHES: [i32; 5] = [4, 6, 7, 8, 11];
/// What of a failed start is shown, in bytes.
const SHOWN: u64 = 2000;

/// A Python that can be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interpreter {
    /// The program.
    pub program: PathBuf,
    /// The folder it runs in; nothing is imported from there.
    pub folder: PathBuf,
    /// Whether it starts with the variables of this process, but Python's own. A version
    /// manager's shim needs them.
    pub inherits: bool,
}

/// What a Python says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct About {
    /// Such as `cpython`.
    pub implementation: String,
    /// Such as `3.11.2` or `3.15.0rc1`.
    pub version: String,
    /// Such as `cpython-311`.
    pub cache_tag: String,
    /// `t` for a free-threaded one; `m` up to 3.7.
    pub abi_flags: String,
}

impl About {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.split('\n').map(str::to_owned);
        Some(Self {
            implementation: lines.next()?,
            version: lines.next()?,
            cache_tag: lines.next()?,
            abi_flags: lines.next()?,
        })
    }
}

/// What became of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The whole `.pyc`.
    Pyc(Vec<u8>),
    /// Why it does not compile.
    Refused(String),
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Lost {
    /// The process crashed.
    Crashed(ExitStatus),
    /// It was ended from outside, as the kernel does when memory is short, or in another way that
    /// says nothing of the source.
    Stopped(String),
    /// It took too long.
    Late,
}

/// A running process; it is killed when this is dropped.
pub(super) struct Worker {
    child: Child,
    requests: Option<ChildStdin>,
    answers: Receiver<io::Result<(u8, Vec<u8>)>>,
}

impl Worker {
    /// Starts a Python and hears what it is.
    ///
    /// # Errors
    /// Why it does not run, in words.
    pub(super) fn start(interpreter: &Interpreter) -> Result<(Self, About), String> {
        let mut child = command(interpreter).spawn().map_err(|e| e.to_string())?;
        let (requests, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (send, answers) = bounded(1);
        if let Some(mut stdout) = stdout {
            thread::spawn(move || {
                loop {
                    let frame = frame(&mut stdout);
                    let last = frame.is_err();
                    if send.send(frame).is_err() || last {
                        break;
                    }
                }
            });
        }
        let mut worker = Self {
            child,
            requests,
            answers,
        };
        match worker.answers.recv_timeout(START_LIMIT) {
            Ok(Ok((0, bytes))) => {
                // It says nothing more there; a full pipe must not stop it.
                if let Some(mut stderr) = stderr {
                    thread::spawn(move || io::copy(&mut stderr, &mut io::sink()));
                }
                let about = About::parse(&bytes).ok_or("it gives no sensible answer")?;
                Ok((worker, about))
            }
            Err(RecvTimeoutError::Timeout) => Err("it does not answer".into()),
            _ => Err(worker.last_words(stderr)),
        }
    }

    /// Compiles a source that is at `path` in the image.
    ///
    /// # Errors
    /// When the process is gone or late; it is of no more use then.
    pub(super) fn compile(&mut self, path: &[u8], source: &[u8]) -> Result<Answer, Lost> {
        if self.request(path, source).is_err() {
            return Err(self.gone());
        }
        match self.answers.recv_timeout(LIMIT) {
            Ok(Ok((0, pyc))) => Ok(Answer::Pyc(pyc)),
            Ok(Ok((_, reason))) => {
                let reason = String::from_utf8_lossy(&reason);
                Ok(Answer::Refused(one_line(&reason)))
            }
            Err(RecvTimeoutError::Timeout) => Err(Lost::Late),
            _ => Err(self.gone()),
        }
    }

    fn request(&mut self, path: &[u8], source: &[u8]) -> io::Result<()> {
        let size = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(io::Error::other);
        let stdin = self.requests.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut head = Vec::with_capacity(8 + path.len());
        head.extend(size(path)?.to_be_bytes());
        head.extend(size(source)?.to_be_bytes());
        head.extend(path);
        stdin.write_all(&head)?;
        stdin.write_all(source)?;
        stdin.flush()
    }

    fn gone(&mut self) -> Lost {
        let _ = self.child.kill();
        match self.child.wait() {
            // Our own signal comes too late for a process that has ended.
            Ok(status)
                if status
                    .signal()
                    .is_some_and(|signal| CRASHES.contains(&signal)) =>
            {
                Lost::Crashed(status)
            }
            Ok(status) => Lost::Stopped(status.to_string()),
            Err(e) => Lost::Stopped(e.to_string()),
        }
    }

    fn last_words(&mut self, stderr: Option<ChildStderr>) -> String {
        self.requests = None;
        let _ = self.child.kill();
        let mut words = Vec::new();
        if let Some(stderr) = stderr {
            let _ = stderr.take(SHOWN).read_to_end(&mut words);
        }
        let status = self.child.wait().map(|status| status.to_string());
        match String::from_utf8_lossy(&words).trim() {
            "" => format!("it ended with {}", status.unwrap_or_default()),
            words => words.to_owned(),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.requests = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(interpreter: &Interpreter) -> Command {
    let mut command = Command::new(&interpreter.program);
    // No site, hence no .pth file and no package; -I would ignore the fixed hash seed as well.
    command.args(["-S", "-s", "-W", "ignore", "-c", SCRIPT]);
    command.current_dir(&interpreter.folder);
    // Ctrl-C is for this process; the end of its input ends that one.
    command.process_group(0);
    if !interpreter.inherits {
        command.env_clear();
    }
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PYTHON") {
            command.env_remove(name);
        }
    }
    command
        .env("PYTHONHASHSEED", "0")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONSAFEPATH", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn frame(stdout: &mut ChildStdout) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    stdout.read_exact(&mut head)?;
    let [status, size @ ..] = head;
    let size = u32::from_be_bytes(size);
    if size > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut content = Vec::new();
    stdout.take(size.into()).read_to_end(&mut content)?;
    if content.len() < size as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((status, content))
}

/// What a source made Python say goes to a terminal.
fn one_line(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(200).map(plain).collect()
}

/// The programs of that name on `PATH`, in its order.
pub(super) fn on_path(name: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .filter(|program| Path::is_file(program))
        .collect()
}
