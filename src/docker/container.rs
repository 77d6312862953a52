//! Running one container to its end and leaving nothing behind.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    pin::pin,
    time::{Duration, Instant, SystemTime},
};

use bollard::{
    Docker,
    container::LogOutput,
    errors::Error as DockerError,
    models::{
        ContainerCreateBody, ContainerState, DeviceRequest, HostConfig, HostConfigLogConfig,
        ResourcesUlimits,
    },
    query_parameters::{
        CreateContainerOptionsBuilder, InspectContainerOptions, KillContainerOptionsBuilder,
        LogsOptionsBuilder, StartContainerOptions, UploadToContainerOptionsBuilder,
        WaitContainerOptionsBuilder,
    },
};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::FusedFuture};
use tokio::time::timeout;

use super::{guard::Guard, lines::Lines, words};
use crate::report::Reporter;

/// Every container that imgbuild starts carries this label.
const LABEL: &str = "dev.imgbuild.probe";
/// Logs and waiting last as long as the container; [`Limits`] ends them.
const UNLIMITED: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long a container's last lines may come after its end.
const LAST_LINES: Duration = Duration::from_secs(5);

/// A container to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunSpec {
    /// The image, by name or ID.
    pub image: String,
    /// Replaces the image's entrypoint; empty: none.
    pub entrypoint: Vec<String>,
    /// The command.
    pub cmd: Vec<String>,
    /// Variables beside the image's, as `NAME=value`.
    pub env: Vec<String>,
    /// The container's host name; the daemon's choice when `None`.
    pub hostname: Option<String>,
    /// The working directory; the image's when `None`.
    pub workdir: Option<String>,
    /// The size of `/dev/shm` in bytes.
    pub shm_size: u64,
    /// The limit of its memory in bytes; none when `None`.
    pub memory: Option<u64>,
    /// GPUs to ask for.
    pub gpus: Option<GpuRequest>,
    /// The IPC mode; the daemon's default when `None`.
    pub ipc: Option<String>,
    /// Lifts the limits on locked memory and stack, as NVIDIA advises for NCCL.
    pub lift_limits: bool,
    /// Files put into the container before it starts.
    pub files: Vec<RunFile>,
}

/// A file put into a container; owned by root, its folder readable by all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFile {
    /// The absolute path in the container.
    pub path: String,
    /// The permission bits.
    pub mode: u32,
    /// The content.
    pub content: Cow<'static, str>,
}

/// How GPUs are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GpuRequest {
    /// That many, through the NVIDIA runtime's hook.
    Count(u32),
    /// These CDI devices: `nvidia.com/gpu=0`.
    Cdi(Vec<String>),
}

/// How long a container may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Wall-clock time from its start to the SIGTERM.
    pub wall: Duration,
    /// From the SIGTERM to the SIGKILL.
    pub grace: Duration,
}

/// Where a line was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Its exit status; 128 + n after signal n. `None` when the daemon did not tell.
    pub exit_code: Option<i64>,
    /// Whether it was stopped because its time was up.
    pub timed_out: bool,
    /// Whether the kernel killed it, or a process in it, for lack of memory.
    pub oom_killed: bool,
    /// From its start to its end.
    pub wall: Duration,
}

/// The daemon did not bring the container up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What was tried: `create`, `copy files to`, `start`.
    pub doing: &'static str,
    /// The daemon's words.
    pub message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} the container: {}", self.doing, self.message)
    }
}

impl std::error::Error for Refusal {}

/// Runs a container to its end, handing over each line as it comes, and removes it.
///
/// Safe to drop at any time: the container is removed before the drop returns, on errors, on a
/// panic of `each_line`, and when Ctrl-C makes the caller drop the future. A second Ctrl-C during
/// the removal ends the process.
///
/// # Errors
/// When the daemon does not create or start it.
pub async fn run(
    docker: &Docker,
    spec: &RunSpec,
    limits: Limits,
    reporter: &Reporter,
    each_line: &mut (dyn FnMut(Channel, &str) + Send),
) -> Result<Outcome, Refusal> {
    let name = unique_name();
    let mut guard = Guard::new(docker, &name, reporter);
    let options = CreateContainerOptionsBuilder::new().name(&name).build();
    if let Err(e) = docker
        .create_container(Some(options), create_body(spec))
        .await
    {
        let answered = super::status(&e).is_some();
        if answered {
            guard.disarm();
        }
        return Err(refusal("create", &e));
    }
    guard.created();
    let outcome = bring_up_and_follow(docker, &name, spec, limits, each_line).await;
    guard.remove().await;
    outcome
}

fn unique_name() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let nanos = now.map_or(0, |since| since.as_nanos());
    format!("imgbuild-probe-{}-{nanos:x}", std::process::id())
}

fn refusal(doing: &'static str, error: &DockerError) -> Refusal {
    Refusal {
        doing,
        message: words(error),
    }
}

fn create_body(spec: &RunSpec) -> ContainerCreateBody {
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        hostname: spec.hostname.clone(),
        entrypoint: Some(spec.entrypoint.clone()),
        cmd: Some(spec.cmd.clone()),
        env: Some(spec.env.clone()),
        working_dir: spec.workdir.clone(),
        labels: Some(HashMap::from([(LABEL.to_owned(), "1".to_owned())])),
        host_config: Some(host_config(spec)),
        ..ContainerCreateBody::default()
    }
}

fn host_config(spec: &RunSpec) -> HostConfig {
    HostConfig {
        shm_size: Some(i64::try_from(spec.shm_size).unwrap_or(i64::MAX)),
        memory: spec
            .memory
            .map(|size| i64::try_from(size).unwrap_or(i64::MAX)),
        ipc_mode: spec.ipc.clone(),
        device_requests: spec.gpus.as_ref().map(|gpus| vec![device_request(gpus)]),
        ulimits: spec
            .lift_limits
            .then(|| vec![ulimit("memlock", -1), ulimit("stack", 64 << 20)]),
        // Reaps what the ranks leave and hands signals on.
        init: Some(true),
        auto_remove: Some(false),
        // Whatever the daemon's default is, this one can be read back.
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".into()),
            config: None,
        }),
        ..HostConfig::default()
    }
}

fn device_request(gpus: &GpuRequest) -> DeviceRequest {
    match gpus {
        GpuRequest::Count(count) => DeviceRequest {
            driver: Some(String::new()),
            count: Some((*count).into()),
            capabilities: Some(vec![vec!["gpu".into()]]),
            ..DeviceRequest::default()
        },
        GpuRequest::Cdi(ids) => DeviceRequest {
            driver: Some("cdi".into()),
            device_ids: Some(ids.clone()),
            ..DeviceRequest::default()
        },
    }
}

fn ulimit(name: &str, value: i64) -> ResourcesUlimits {
    ResourcesUlimits {
        name: Some(name.into()),
        soft: Some(value),
        hard: Some(value),
    }
}

/// The files with their folders, but for `/tmp` and the like, whose modes are the image's.
fn tar_of(files: &[RunFile]) -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut folders = std::collections::BTreeSet::new();
    for file in files {
        let path = file.path.trim_start_matches('/');
        let folder = path.rsplit_once('/').map(|(folder, _)| folder);
        let own = folder.filter(|folder| folder.contains('/'));
        if let Some(folder) = own.filter(|folder| folders.insert(*folder)) {
            let mut header = header(0, 0o755, tar::EntryType::Directory);
            tar.append_data(&mut header, format!("{folder}/"), std::io::empty())?;
        }
        let size = file.content.len() as u64;
        let mut header = header(size, file.mode, tar::EntryType::Regular);
        tar.append_data(&mut header, path, file.content.as_bytes())?;
    }
    tar.into_inner()
}

fn header(size: u64, mode: u32, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

async fn bring_up_and_follow(
    docker: &Docker,
    name: &str,
    spec: &RunSpec,
    limits: Limits,
    each_line: &mut (dyn FnMut(Channel, &str) + Send),
) -> Result<Outcome, Refusal> {
    if !spec.files.is_empty() {
        let copy = |message: String| Refusal {
            doing: "copy files to",
            message,
        };
        let tar = tar_of(&spec.files).map_err(|e| copy(e.to_string()))?;
        let options = UploadToContainerOptionsBuilder::new().path("/").build();
        docker
            .upload_to_container(name, Some(options), bollard::body_full(Bytes::from(tar)))
            .await
            .map_err(|e| copy(words(&e)))?;
    }
    docker
        .start_container(name, None::<StartContainerOptions>)
        .await
        .map_err(|e| refusal("start", &e))?;
    let began = Instant::now();
    let mut outcome = Outcome::default();
    {
        let mut end = pin!(follow(docker, name, each_line));
        match timeout(limits.wall, &mut end).await {
            Ok(code) => outcome.exit_code = code,
            Err(_) => {
                outcome.timed_out = true;
                outcome.exit_code = stop(docker, name, limits.grace, end).await;
            }
        }
    }
    outcome.wall = began.elapsed();
    let state = state(docker, name).await;
    outcome.oom_killed = state.as_ref().and_then(|s| s.oom_killed).unwrap_or(false);
    Ok(outcome)
}

/// SIGTERM, so that the ranks can say where they are; then SIGKILL.
async fn stop(
    docker: &Docker,
    name: &str,
    grace: Duration,
    mut end: std::pin::Pin<&mut impl Future<Output = Option<i64>>>,
) -> Option<i64> {
    for (signal, patience) in [("SIGTERM", grace), ("SIGKILL", LAST_LINES)] {
        let options = KillContainerOptionsBuilder::new().signal(signal).build();
        // It fails when the container has just ended: then the wait below is over at once.
        let _ = docker.kill_container(name, Some(options)).await;
        if let Ok(code) = timeout(patience, &mut end).await {
            return code;
        }
    }
    None
}

/// Hands over the lines until the container has ended; gives its exit status.
async fn follow(
    docker: &Docker,
    name: &str,
    each_line: &mut (dyn FnMut(Channel, &str) + Send),
) -> Option<i64> {
    let patient = docker.clone().with_timeout(UNLIMITED);
    let mut drain = pin!(drain(&patient, name, each_line).fuse());
    let mut ended = pin!(exit_code(&patient, name));
    let code = tokio::select! {
        code = &mut ended => code,
        () = &mut drain => ended.await,
    };
    if !drain.is_terminated() {
        // A logs request that never ends must not hold up the report.
        let _ = timeout(LAST_LINES, drain).await;
    }
    code
}

async fn drain(docker: &Docker, name: &str, each_line: &mut (dyn FnMut(Channel, &str) + Send)) {
    let options = LogsOptionsBuilder::new()
        .follow(true)
        .stdout(true)
        .stderr(true)
        .build();
    let mut logs = pin!(docker.logs(name, Some(options)));
    let (mut out, mut err) = (Lines::default(), Lines::default());
    while let Some(Ok(output)) = logs.next().await {
        match output {
            LogOutput::StdErr { message } => {
                err.push(&message, |line| each_line(Channel::Err, line))
            }
            other => out.push(other.as_ref(), |line| each_line(Channel::Out, line)),
        }
    }
    out.finish(|line| each_line(Channel::Out, line));
    err.finish(|line| each_line(Channel::Err, line));
}

async fn exit_code(docker: &Docker, name: &str) -> Option<i64> {
    let options = WaitContainerOptionsBuilder::new()
        .condition("not-running")
        .build();
    let mut answers = pin!(docker.wait_container(name, Some(options)));
    match answers.next().await {
        Some(Ok(answer)) => Some(answer.status_code),
        // bollard takes every status but 0 for an error.
        Some(Err(DockerError::DockerContainerWaitError { code, .. })) => Some(code),
        _ => state(docker, name).await?.exit_code,
    }
}

async fn state(docker: &Docker, name: &str) -> Option<ContainerState> {
    let inspected = docker
        .inspect_container(name, None::<InspectContainerOptions>)
        .await;
    inspected.ok()?.state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_what_the_daemon_reads() {
        let spec = RunSpec {
            image: "x".into(),
            shm_size: 1 << 30,
            memory: Some(3 << 30),
            gpus: Some(GpuRequest::Count(4)),
            lift_limits: true,
            ..RunSpec::default()
        };
        let body = serde_json::to_value(create_body(&spec)).unwrap();
        // An empty list, not null: null would keep the image's entrypoint.
        assert_eq!(body["Entrypoint"], serde_json::json!([]));
        let host = &body["HostConfig"];
        assert_eq!(
            host["DeviceRequests"],
            serde_json::json!([{"Driver": "", "Count": 4, "Capabilities": [["gpu"]]}])
        );
        assert_eq!(host["ShmSize"], 1 << 30);
        assert_eq!(host["Memory"], 3_u64 << 30);
        assert_eq!(host["Ulimits"][0]["Soft"], -1);
        assert_eq!(host["AutoRemove"], false);
        assert_eq!(body["Labels"][LABEL], "1");
    }

    #[test]
    fn files_come_with_their_folder_but_not_with_tmp() {
        let file = |name: &str| RunFile {
            path: format!("/tmp/here/{name}"),
            mode: 0o755,
            content: "x".into(),
        };
        let tar = tar_of(&[file("a"), file("b")]).unwrap();
        let names: Vec<String> = tar::Archive::new(&tar[..])
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names, ["tmp/here/", "tmp/here/a", "tmp/here/b"]);
    }
}
