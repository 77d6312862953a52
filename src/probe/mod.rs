//! The probe: a real multi-process DDP job in an image, and a verdict.
//!
//! [`spec`] says what runs, [`output`] reads what it wrote, [`report`] judges, [`text`] shows it;
//! all of these are pure. [`run`] does the I/O.

mod advice;
mod gpus;
mod output;
mod report;
mod run;
mod spec;
mod text;

pub use output::{Check, Gpu, Output, RankResult, Summary};
pub use report::{
    CPU_NOTE, DaemonInfo, Failure, ImageInfo, ProbeReport, Proves, RunFacts, SCHEMA, Verdict,
};
pub use run::{Stored, connect, probe};
pub use spec::{Backend, DEFAULT_TIMEOUT, ProbeRequest, default_shm_size, run_spec};
