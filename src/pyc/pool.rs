//! Python processes that compile in parallel, one a thread.

use std::{
    num::NonZeroUsize,
    path::Path,
    thread::{self, JoinHandle},
};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{
    STACK,
    marshal::{CodeLayout, canonical},
    python::Running,
    worker::{Answer, Interpreter, Lost, Worker},
};
use crate::error::{Error, Exit, Result};

/// Magic number, flags and the source's hash (PEP 552).
const HEADER: usize = 16;

/// An answer, with the ticket of its job.
pub(super) type Ticketed = (usize, Result<Answer>);

/// A source to compile.
pub(super) struct Job {
    /// The absolute path in the image, which tracebacks show.
    pub path: Vec<u8>,
    /// The source.
    pub source: Vec<u8>,
    /// What the answer comes back with.
    pub ticket: usize,
    /// Where the answer goes.
    pub done: Sender<Ticketed>,
}

/// Threads with a Python each, started when there is something to compile.
pub(super) struct Pool {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// The Python that runs already serves the first thread; more are started when they are needed.
    pub(super) fn new(first: Running, layout: CodeLayout, threads: NonZeroUsize) -> Result<Self> {
        let Running {
            interpreter,
            worker,
        } = first;
        let mut first = Some(worker);
        let (jobs, queue) = bounded::<Job>(threads.get());
        let started = (0..threads.get()).map(|_| {
            let seat = Seat {
                interpreter: interpreter.clone(),
                layout,
                worker: first.take(),
            };
            let queue = queue.clone();
            // Reading nested constants recurses.
            let thread = thread::Builder::new().stack_size(STACK);
            thread
                .spawn(move || seat.serve(&queue))
                .map_err(|e| Error::environment("cannot start a thread").why(e))
        });
        let threads = started.collect::<Result<_>>()?;
        Ok(Self {
            jobs: Some(jobs),
            threads,
        })
    }

    /// Hands a source in; waits while all are busy.
    pub(super) fn submit(&self, job: Job) -> Result<()> {
        self.jobs
            .as_ref()
            .and_then(|jobs| jobs.send(job).ok())
            .ok_or_else(|| Error::new(Exit::Internal, "a compiling thread is gone"))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

struct Seat {
    interpreter: Interpreter,
    layout: CodeLayout,
    worker: Option<Worker>,
}

impl Seat {
    fn serve(mut self, queue: &Receiver<Job>) {
        for job in queue {
            let answer = self.compile(&job);
            // A receiver that is gone belongs to a layer that failed already.
            let _ = job.done.send((job.ticket, answer));
        }
    }

    fn compile(&mut self, job: &Job) -> Result<Answer> {
        let mut outcome = self.attempt(job)?;
        if matches!(outcome, Err(Lost::Crashed(_) | Lost::Stopped(_))) {
            // It may have had a reason of its own; a source that crashes two does not compile.
            outcome = self.attempt(job)?;
        }
        match outcome {
            Ok(answer) => self.finished(job, answer),
            Err(Lost::Crashed(status)) => Ok(Answer::Refused(format!("Python crashed: {status}"))),
            // Leaving the file out would make an image that depends on this machine.
            Err(Lost::Stopped(status)) => Err(stopped(job, "the Python that compiles was stopped")
                .why(status)
                .why("the kernel kills programs when memory is short")),
            Err(Lost::Late) => Err(stopped(job, "a Python file takes too long to compile")),
        }
    }

    fn attempt(&mut self, job: &Job) -> Result<std::result::Result<Answer, Lost>> {
        let mut worker = match self.worker.take() {
            Some(worker) => worker,
            None => {
                let started = Worker::start(&self.interpreter);
                started
                    .map_err(|why| unusable(&self.interpreter.program, &why))?
                    .0
            }
        };
        let answer = worker.compile(&job.path, &job.source);
        if answer.is_ok() {
            self.worker = Some(worker);
        }
        Ok(answer)
    }

    fn finished(&self, job: &Job, answer: Answer) -> Result<Answer> {
        let Answer::Pyc(pyc) = answer else {
            return Ok(answer);
        };
        let (header, code) = pyc
            .split_at_checked(HEADER)
            .ok_or_else(|| stopped(job, "Python wrote no .pyc"))?;
        let code = canonical(code, self.layout)
            .map_err(|e| stopped(job, "the bytecode has a form that is not known").why(e))?;
        Ok(Answer::Pyc([header, &code].concat()))
    }
}

fn unusable(program: &Path, why: &str) -> Error {
    Error::environment("the Python that compiles .pyc files does not run")
        .at(program.display())
        .why(why)
        .hint(super::WAY_OUT)
}

fn stopped(job: &Job, what: &str) -> Error {
    Error::environment(what)
        .at(String::from_utf8_lossy(&job.path))
        .hint(super::WAY_OUT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{no_forks_beside, write_program};

    /// What becomes of a source when each Python does this after it said what it is.
    fn outcome(does: &str) -> Result<Answer> {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("python");
        let hello = r"printf '\000\000\000\000\033cpython\n3.11.2\ncpython-311\n'";
        let _forks = no_forks_beside();
        write_program(&program, format!("#!/bin/sh\n{hello}\n{does}\n"));
        let interpreter = Interpreter {
            program,
            folder: dir.path().into(),
            inherits: true,
        };
        let layout = CodeLayout::of_minor(11).unwrap();
        let (worker, _) = Worker::start(&interpreter).unwrap();
        let first = Running {
            interpreter,
            worker,
        };
        let pool = Pool::new(first, layout, NonZeroUsize::MIN).unwrap();
        let (done, answers) = bounded(1);
        let job = Job {
            path: b"/a.py".into(),
            source: b"x = 1\n".into(),
            ticket: 7,
            done,
        };
        pool.submit(job).unwrap();
        let (ticket, answer) = answers.recv().unwrap();
        assert_eq!(ticket, 7);
        answer
    }

    #[test]
    fn a_crash_is_the_sources_fault_and_being_stopped_is_not() {
        let crashed = outcome("kill -SEGV $$").unwrap();
        let Answer::Refused(reason) = crashed else {
            panic!("{crashed:?}");
        };
        assert!(reason.contains("SIGSEGV"), "{reason}");
        for does in ["kill -KILL $$", "kill -TERM $$", "exit 1", "exec >&-; cat"] {
            let error = outcome(does).unwrap_err();
            assert_eq!(error.exit(), Exit::Environment, "{does}");
            assert!(error.to_string().contains("--no-compile"), "{error}");
        }
        // An answer that is no .pyc, and one whose code has no known form.
        for (answer, said) in [
            (r"printf '\000\000\000\000\003pyc'; cat", "no .pyc"),
            (
                r"printf '\000\000\000\000\0210123456789abcdef?'; cat",
                "not known",
            ),
        ] {
            let error = outcome(answer).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
