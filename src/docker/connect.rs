//! Reaching the daemon, and what it says about itself.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use bollard::{
    API_DEFAULT_VERSION, Docker,
    errors::Error as DockerError,
    models::{SystemInfo, SystemVersion},
};
use tokio::net::{TcpStream, UnixStream};

use super::{
    endpoint::{Address, Endpoint, How, Surroundings, choose, podman},
    status, words,
};
use crate::error::{Error, Result};

/// How long a reachable daemon may take to say who it is, in seconds.
const GREETING_SECONDS: u64 = 30;
/// How long any other request may take to be answered, in seconds.
const REQUEST_SECONDS: u64 = 120;
const TCP_CONNECT: Duration = Duration::from_secs(10);

/// A daemon that answered.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// The client.
    pub docker: Docker,
    /// Its address and how it was chosen: `unix:///var/run/docker.sock (the default)`.
    pub how: String,
    /// What it said about itself.
    pub facts: Facts,
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
    /// Where it keeps images.
    pub store: ImageStore,
    /// The names of its OCI runtimes, sorted.
    pub runtimes: Vec<String>,
    /// Folders of CDI specifications; empty where CDI is off or unknown.
    pub cdi_dirs: Vec<PathBuf>,
    /// The CDI devices it found, as `nvidia.com/gpu=0`; Docker 28.3 and later tell.
    pub cdi_devices: Vec<String>,
    /// The cgroup version and driver: `v2 systemd`.
    pub cgroup: String,
    /// Whether it runs on this very machine, under this kernel; `false` also when in doubt.
    pub local: bool,
}

/// The two kinds of image store; they name and unpack images differently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageStore {
    /// Graph drivers: an image's ID is its config's digest.
    #[default]
    Classic,
    /// containerd's snapshotters: an image's ID is its manifest's digest.
    Containerd,
}

impl Facts {
    /// Whether the daemon itself tells of an NVIDIA runtime or CDI device.
    pub fn knows_nvidia(&self) -> bool {
        self.runtimes.iter().any(|name| name.contains("nvidia"))
            || self.cdi_devices.iter().any(|id| id.starts_with("nvidia."))
    }

    /// The daemon's name and version: `Docker 20.10.24`.
    pub fn title(&self) -> String {
        let name = if self.podman { "Podman" } else { "Docker" };
        format!("{name} {}", self.server)
    }

    fn new(info: &SystemInfo, version: &SystemVersion, local: bool) -> Self {
        let mut runtimes: Vec<String> = info
            .runtimes
            .iter()
            .flatten()
            .map(|r| r.0.clone())
            .collect();
        runtimes.sort();
        let devices = info.discovered_devices.iter().flatten();
        let cgroup = [
            info.cgroup_version.map(|v| format!("v{v}")),
            info.cgroup_driver.map(|d| d.to_string()),
        ];
        Self {
            api: version.api_version.clone().unwrap_or_default(),
            server: version.version.clone().unwrap_or_default(),
            podman: is_podman(version),
            store: image_store(info),
            runtimes,
            cdi_dirs: info
                .cdi_spec_dirs
                .iter()
                .flatten()
                .map(PathBuf::from)
                .collect(),
            cdi_devices: devices.filter_map(|device| device.id.clone()).collect(),
            cgroup: cgroup.into_iter().flatten().collect::<Vec<_>>().join(" "),
            local,
        }
    }
}

/// Podman names itself among the components, as Docker does its engine.
fn is_podman(version: &SystemVersion) -> bool {
    let mut parts = version.components.iter().flatten();
    parts.any(|part| part.name.starts_with("Podman"))
}

fn image_store(info: &SystemInfo) -> ImageStore {
    let containerd = |pair: &Vec<String>| pair.iter().any(|v| v == "io.containerd.snapshotter.v1");
    if info.driver_status.iter().flatten().any(containerd) {
        ImageStore::Containerd
    } else {
        ImageStore::Classic
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
    let odd = |e: DockerError| not_docker(endpoint, &e);
    let client = match &endpoint.address {
        Address::Unix(path) => {
            let path = path.to_string_lossy();
            Docker::connect_with_unix(&path, GREETING_SECONDS, API_DEFAULT_VERSION)
        }
        Address::Tcp(host) => {
            Docker::connect_with_http(host, GREETING_SECONDS, API_DEFAULT_VERSION)
        }
    };
    let docker = client
        .map_err(odd)?
        .negotiate_version()
        .await
        .map_err(odd)?;
    let version = docker.version().await.map_err(odd)?;
    let info = match docker.info().await {
        Ok(info) => info,
        // Podman and old daemons answer with fields of other types; none of them is needed.
        Err(DockerError::JsonDataError { .. } | DockerError::JsonSerdeError { .. }) => {
            SystemInfo::default()
        }
        Err(e) => return Err(odd(e)),
    };
    let local = matches!(endpoint.address, Address::Unix(_)) && is_this_machine(&info);
    Ok(Daemon {
        docker: docker.with_timeout(Duration::from_secs(REQUEST_SECONDS)),
        how: endpoint.to_string(),
        facts: Facts::new(&info, &version, local),
    })
}

fn not_docker(endpoint: &Endpoint, error: &DockerError) -> Error {
    if status(error) == Some(403) {
        return Error::environment("the Docker daemon refuses this user")
            .at(endpoint)
            .why(words(error))
            .hint("ask the daemon's administrator: an authorization plugin said no");
    }
    let error = match error {
        DockerError::RequestTimeoutError => format!("no answer within {GREETING_SECONDS} s"),
        other => words(other),
    };
    Error::environment("what answers there is not a working Docker daemon")
        .at(endpoint)
        .why(error)
        .hint("check the address with `docker version`")
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
            "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]],
            "Runtimes": {"runc": {"path": "runc"}, "nvidia": {"path": "nvidia-container-runtime"}},
            "CDISpecDirs": ["/etc/cdi"],
            "DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}],
            "CgroupVersion": "2", "CgroupDriver": "systemd",
        }))
        .unwrap();
        let version = SystemVersion {
            version: Some("28.5.1".into()),
            api_version: Some("1.51".into()),
            ..SystemVersion::default()
        };
        let facts = Facts::new(&info, &version, true);
        assert_eq!(facts.store, ImageStore::Containerd);
        assert_eq!(facts.runtimes, ["nvidia", "runc"]);
        assert_eq!(facts.cgroup, "v2 systemd");
        assert!(facts.knows_nvidia());
        let plain = Facts::new(&SystemInfo::default(), &version, false);
        assert_eq!(plain.store, ImageStore::Classic);
        assert!(!plain.knows_nvidia());
        assert_eq!(plain.title(), "Docker 28.5.1");
        let podman = serde_json::json!({
            "Version": "4.3.1", "Components": [{"Name": "Podman Engine", "Version": "4.3.1"}],
        });
        let podman = serde_json::from_value(podman).unwrap();
        let podman = Facts::new(&SystemInfo::default(), &podman, false);
        assert_eq!(podman.title(), "Podman 4.3.1");
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

    #[tokio::test]
    async fn a_web_server_is_not_a_daemon() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint {
            address: Address::Tcp(listener.local_addr().unwrap().to_string()),
            how: How::Environment,
        };
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let _ = socket.read(&mut [0; 1024]).await;
                let page = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
                let _ = socket.write_all(page).await;
            }
        });
        let error = greet(&endpoint).await.unwrap_err().to_string();
        assert!(error.contains("not a working Docker daemon"), "{error}");
    }
}
