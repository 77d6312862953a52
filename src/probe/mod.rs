//! The probe: a real multi-process DDP job in an image, and a verdict.
//!
//! [`spec`] says what runs, [`output`] reads what it wrote, [`report`] judges by the [`cause`], [`text`] and [`page`]
//! show it;
//! all of these are pure. [`run`] does the I/O with a
//! daemon, [`host`] with processes of this machine; [`emit`] leaves it to a cluster's engine;
//! [`attached`] is a verdict beside the image in its registry.

mod advice;
mod attached;
mod before;
mod cause;
mod chart;
mod emit;
mod gpus;
mod host;
mod oom;
mod output;
mod page;
mod port;
mod report;
mod run;
mod spec;
mod text;

pub use attached::{Attached, PROBE_TYPE, attestation, deciding};
pub use emit::{ClusterJob, Form, What, kubernetes, read, slurm};
pub use host::{default_python, probe_host};
pub use output::{Bandwidth, Check, Gpu, Output, RankResult, Scaling, Summary};
pub use port::free_port;
pub use report::{
    CPU_NOTE, DaemonInfo, Failure, ImageInfo, Place, ProbeReport, Proves, RunFacts, SCHEMA, Verdict,
};
pub use run::{Stored, connect, image_id, probe};
pub use spec::{Backend, DEFAULT_TIMEOUT, ProbeRequest, default_shm_size, run_spec};
