//! Reaching the daemon, and what it says about itself.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use bollard::{API_DEFAULT_VERSION, Docker, errors::Error as DockerError, models::SystemInfo};
use tokio::net::{TcpStream, UnixStream};

use super::{
    endpoint::{Address, Endpoint, How, Surroundings, choose, podman},
    greeting,
    known::info,
    status, words,
};
use crate::error::{Error, Result};

/// How long any request may take to be answered, in seconds.
const REQUEST_SECONDS: u64 = 120;
const TCP_CONNECT: Duration = Duration::from_secs(10);

/// The API version of Docker 23, the first that may keep images in containerd's store.
const CONTAINERD: usize = 42;
/// That of Docker 27, the first whose list of images has their manifests.
const PARTS: usize = 47;

/// A daemon that answered.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// The client.
    pub docker: Docker,
    /// Its address and how it was chosen: `unix:///var/run/docker.sock (the default)`.
    pub how: String,
    /// What it said about itself.
    pub facts: Facts,
    /// Whether its images may be in containerd's store.
    pub(super) may_be_containerd: bool,
    /// Whether it tells which parts of an image it lacks.
    pub(super) tells_parts: bool,
    /// Whether it is reached over a socket in the file system.
    socket: bool,
}

impl Daemon {
    /// Asks for what running containers depends on.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn host(&self) -> Result<HostFacts> {
        let info = info(&self.docker).await.map_err(|e| {
            Error::environment("the Docker daemon does not say what it can run").why(words(&e))
        })?;
        let local = self.socket && is_this_machine(&info);
        Ok(HostFacts::new(&info, local))
    }
}

/// What a daemon says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The API version: `1.41`.
    pub api: String,
    /// The daemon's own version: `20.10.24`.
    pub server: String,
    /// Whether it is Podman, which speaks Docker's API too.
    pub podman: bool,
}

impl Facts {
    /// The engine's name.
    pub fn name(&self) -> &'static str {
        if self.podman { "Podman" } else { "Docker" }
    }

    /// The engine's name and the daemon's version: `Docker 20.10.24`.
    pub fn title(&self) -> String {
        format!("{} {}", self.name(), self.server)
    }
}

/// What a daemon says of the machine that it runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// The names of its OCI runtimes, sorted.
    pub runtimes: Vec<String>,
    /// Folders of CDI specifications; empty where CDI is off or unknown.
    pub cdi_dirs: Vec<PathBuf>,
    /// The CDI devices it found, as `nvidia.com/gpu=0`; Docker 28.3 and later tell.
    pub cdi_devices: Vec<String>,
    /// Whether it runs on this very machine, under this kernel; `false` also when in doubt.
    pub local: bool,
}

impl HostFacts {
    /// Whether the daemon itself tells of an NVIDIA runtime or CDI device.
    pub fn knows_nvidia(&self) -> bool {
        self.runtimes.iter().any(|name| name.contains("nvidia"))
            || self.cdi_devices.iter().any(|id| id.starts_with("nvidia."))
    }

    fn new(info: &SystemInfo, local: bool) -> Self {
        let names = info.runtimes.iter().flatten().map(|r| r.0.clone());
        let mut runtimes: Vec<String> = names.collect();
        runtimes.sort();
        let devices = info.discovered_devices.iter().flatten();
        let dirs = info.cdi_spec_dirs.iter().flatten();
        Self {
            runtimes,
            cdi_dirs: dirs.map(PathBuf::from).collect(),
            cdi_devices: devices.filter_map(|device| device.id.clone()).collect(),
            local,
        }
    }
}

/// Connects to the daemon that the `docker` command would use; to Podman, where nothing was said
/// and no Docker daemon is there.
///
/// # Errors
/// When there is none, it refuses this user, or what answers is no Docker daemon.
pub async fn connect() -> Result<Daemon> {
    let around = Surroundings {
        env: &|name| std::env::var(name).ok(),
        read: &|path| fs::read(path),
        home: directories::BaseDirs::new().map(|dirs| dirs.home_dir().to_owned()),
    };
    greet(&find(&around).await?).await
}

async fn find(around: &Surroundings<'_>) -> Result<Endpoint> {
    find_from(choose(around)?, around).await
}

async fn find_from(chosen: Endpoint, around: &Surroundings<'_>) -> Result<Endpoint> {
    let Err(error) = open(&chosen).await else {
        return Ok(chosen);
    };
    let absent = matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    );
    if chosen.how == How::Default && absent {
        for podman in podman(around)? {
            match open(&podman).await {
                Ok(()) => return Ok(podman),
                Err(e) if podman.how == How::ContainerHost => {
                    return Err(unreachable_daemon(&podman, &e));
                }
                Err(_) => {}
            }
        }
    }
    Err(unreachable_daemon(&chosen, &error))
}

/// Opens and closes a connection: the system's own error tells more than an HTTP client's.
async fn open(endpoint: &Endpoint) -> io::Result<()> {
    match &endpoint.address {
        Address::Unix(path) => UnixStream::connect(path).await.map(drop),
        Address::Tcp(host) => {
            match tokio::time::timeout(TCP_CONNECT, TcpStream::connect(host)).await {
                Ok(opened) => opened.map(drop),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        }
    }
}

fn unreachable_daemon(endpoint: &Endpoint, error: &io::Error) -> Error {
    if error.kind() == io::ErrorKind::PermissionDenied {
        return Error::environment("the Docker daemon's socket may not be opened by this user")
            .at(endpoint)
            .why(error)
            .hint(
                "add yourself to the docker group (sudo usermod -aG docker $USER, then log in \
                 again), or run imgbuild with sudo",
            );
    }
    let hint = match (&endpoint.how, rootless_socket()) {
        (How::Default | How::Podman, Some(socket)) => {
            format!(
                "another daemon's socket is here: export DOCKER_HOST=unix://{}",
                socket.display()
            )
        }
        (How::ContainerHost, _) => {
            "start it there (systemctl start podman.socket), or unset CONTAINER_HOST".into()
        }
        (How::Default | How::Podman, None) => {
            "install Docker, or start it: sudo systemctl start docker".into()
        }
        (How::Environment, _) => "start that daemon, or unset DOCKER_HOST".into(),
        (How::Context(_), _) => {
            "start that daemon, or choose another: docker context ls, docker context use NAME"
                .into()
        }
    };
    Error::environment("no Docker daemon answers")
        .at(endpoint)
        .why(error)
        .hint(hint)
}

/// Where rootless Docker listens, if it does.
fn rootless_socket() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
    Some(folder.join("docker.sock")).filter(|path| path.exists())
}

async fn greet(endpoint: &Endpoint) -> Result<Daemon> {
    let greeting = greeting::ask(endpoint).await?;
    let odd = |e: DockerError| match status(&e) {
        Some(403) => greeting::refuses(endpoint, &words(&e)),
        _ => greeting::not_docker(endpoint, &words(&e)),
    };
    let version = greeting.common(API_DEFAULT_VERSION);
    let client = match &endpoint.address {
        Address::Unix(path) => {
            Docker::connect_with_unix(&path.to_string_lossy(), REQUEST_SECONDS, &version)
        }
        Address::Tcp(host) => Docker::connect_with_http(host, REQUEST_SECONDS, &version),
    };
    let docker = client.map_err(odd)?;
    Ok(Daemon {
        docker,
        how: endpoint.to_string(),
        may_be_containerd: greeting.speaks(CONTAINERD) && !greeting.podman,
        tells_parts: greeting.speaks(PARTS),
        facts: Facts {
            api: greeting.api,
            server: greeting.server,
            podman: greeting.podman,
        },
        socket: matches!(endpoint.address, Address::Unix(_)),
    })
}

/// A socket may lead into a virtual machine or out of a container: kernel and host name tell.
fn is_this_machine(info: &SystemInfo) -> bool {
    let proc = |name: &str| fs::read_to_string(Path::new("/proc/sys/kernel").join(name)).ok();
    let same = |theirs: &Option<String>, ours: Option<String>| match (theirs, ours) {
        (Some(theirs), Some(ours)) => theirs == ours.trim(),
        _ => false,
    };
    same(&info.kernel_version, proc("osrelease")) && same(&info.name, proc("hostname"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_from_the_info() {
        let info: SystemInfo = serde_json::from_value(serde_json::json!({
            "Runtimes": {"runc": {"path": "runc"}, "nvidia": {"path": "nvidia-container-runtime"}},
            "CDISpecDirs": ["/etc/cdi"],
            "DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}],
        }))
        .unwrap();
        let host = HostFacts::new(&info, true);
        assert_eq!(host.runtimes, ["nvidia", "runc"]);
        assert!(host.knows_nvidia());
        assert!(!HostFacts::new(&SystemInfo::default(), false).knows_nvidia());
    }

    #[tokio::test]
    async fn unreachable_daemons_have_each_their_text() {
        let dir = tempfile::tempdir().unwrap();
        let told = async |name: &str, path: PathBuf| {
            let host = format!("unix://{}", path.display());
            let around = Surroundings {
                env: &|asked| (asked == name).then(|| host.clone()),
                read: &|_| Err(io::ErrorKind::NotFound.into()),
                home: None,
            };
            find(&around).await.unwrap_err().to_string()
        };
        let absent = told("DOCKER_HOST", dir.path().join("no.sock")).await;
        assert!(absent.contains("no Docker daemon answers"), "{absent}");
        assert!(absent.contains("no.sock (from DOCKER_HOST)"), "{absent}");

        let dead = dir.path().join("dead.sock");
        drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
        let dead = told("DOCKER_HOST", dead).await;
        assert!(dead.contains("refused"), "{dead}");

        let endpoint = Endpoint {
            address: Address::Unix("/d.sock".into()),
            how: How::Environment,
        };
        let denied = unreachable_daemon(&endpoint, &io::ErrorKind::PermissionDenied.into());
        assert!(denied.to_string().contains("docker group"), "{denied}");
    }

    #[tokio::test]
    async fn podman_is_taken_where_docker_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("podman");
        fs::create_dir(&folder).unwrap();
        let find = async |how: How, told: &[(&str, &Path)]| {
            let around = Surroundings {
                env: &|asked| {
                    let found = told.iter().find(|(name, _)| *name == asked)?;
                    Some(found.1.display().to_string())
                },
                read: &|_| Err(io::ErrorKind::NotFound.into()),
                home: None,
            };
            let docker = Endpoint {
                address: Address::Unix(dir.path().join("docker.sock")),
                how,
            };
            let found = find_from(docker, &around).await;
            found.map_or_else(|e| e.to_string(), |found| found.to_string())
        };
        let user = [("XDG_RUNTIME_DIR", dir.path())];
        let _podman = std::os::unix::net::UnixListener::bind(folder.join("podman.sock")).unwrap();
        let found = find(How::Default, &user).await;
        assert!(found.contains("podman.sock (Podman's, as no"), "{found}");
        // What the user chose is not passed over.
        let chosen = find(How::Environment, &user).await;
        assert!(chosen.contains("no Docker daemon answers"), "{chosen}");
        let host = format!("unix://{}/none.sock", dir.path().display());
        let told = [user[0], ("CONTAINER_HOST", Path::new(&host))];
        let told = find(How::Default, &told).await;
        assert!(told.contains("none.sock (from CONTAINER_HOST)"), "{told}");
        let docker = dir.path().join("docker.sock");
        let _docker = std::os::unix::net::UnixListener::bind(docker).unwrap();
        let found = find(How::Default, &user).await;
        assert!(found.ends_with("docker.sock (the default)"), "{found}");
    }
}
