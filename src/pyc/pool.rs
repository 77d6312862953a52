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
    pub(super) fn new(
        interpreter: &Interpreter,
        layout: CodeLayout,
        threads: NonZeroUsize,
    ) -> Result<Self> {
        let (jobs, queue) = bounded::<Job>(threads.get());
        let started = (0..threads.get()).map(|_| {
            let seat = Seat {
                interpreter: interpreter.clone(),
                layout,
                worker: None,
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
        let first = match self.attempt(job)? {
            Ok(answer) => return self.finished(job, answer),
            Err(lost) => lost,
        };
        // The process may have ended for a reason of its own; a source that ends two does not
        // compile.
        let lost = match first {
            Lost::Late => Lost::Late,
            _ => match self.attempt(job)? {
                Ok(answer) => return self.finished(job, answer),
                Err(lost) => lost,
            },
        };
        match lost {
            Lost::Ended(status) => Ok(Answer::Refused(format!("Python ended with {status}"))),
            Lost::Killed => Err(stopped(job, "the Python that compiles was killed")
                .why("the kernel does so when memory is short")),
            Lost::Late => Err(stopped(job, "a Python file takes too long to compile")),
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
