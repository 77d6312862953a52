//! stub
use super::args::*;
use crate::{error::Result, report::Reporter, spec::ProbeSpec, store::Store};
use std::process::ExitCode;
pub(super) struct Job;
pub(super) fn job(_: &JobArgs, _: &ProbeSpec) -> Result<Job> {
    todo!()
}
pub(super) fn run(_: ProbeArgs, _: &Reporter) -> Result<ExitCode> {
    todo!()
}
pub(super) fn probe_and_print(
    _: &str,
    _: Job,
    _: Format,
    _: &tokio::runtime::Runtime,
    _: &Store,
    _: &Reporter,
) -> Result<ExitCode> {
    todo!()
}
