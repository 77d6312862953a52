//! Which daemon to talk to, chosen as the `docker` command chooses it. Pure.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    digest::Digest,
    error::{Error, Result},
};

const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
const PODMAN_SOCKET: &str = "podman/podman.sock";
const FORWARD: &str = "forward the daemon's socket to this machine:\n\
    ssh -nNT -L /tmp/docker.sock:/var/run/docker.sock USER@HOST &\n\
    export DOCKER_HOST=unix:///tmp/docker.sock";

/// A daemon's address and how it came to be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub address: Address,
    pub how: How,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum How {
    Environment,
    Context(String),
    Default,
    /// `CONTAINER_HOST`, where `podman --remote` looks (podman(1)).
    ContainerHost,
    /// Where Podman listens by itself (podman-system-service(1)).
    Podman,
}

/// What the choice depends on.
pub(super) struct Surroundings<'a> {
    pub env: &'a (dyn Fn(&str) -> Option<String> + Sync),
    pub read: &'a (dyn Fn(&Path) -> io::Result<Vec<u8>> + Sync),
    pub home: Option<PathBuf>,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Unix(path) => write!(f, "unix://{}", path.display())?,
            Address::Tcp(host) => write!(f, "tcp://{host}")?,
        }
        write!(f, " ({})", self.how)
    }
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment => f.write_str("from DOCKER_HOST"),
            Self::Context(name) => write!(f, "from docker context '{name}'"),
            Self::Default => f.write_str("the default"),
            Self::ContainerHost => f.write_str("from CONTAINER_HOST"),
            Self::Podman => f.write_str("Podman's, as no Docker daemon is there"),
        }
    }
}

/// Chooses the daemon: `DOCKER_HOST`, then `DOCKER_CONTEXT`, then the current context of docker's
/// configuration, then the default socket.
///
/// # Errors
/// When the choice is unreadable, or needs ssh or TLS.
pub(super) fn choose(around: &Surroundings<'_>) -> Result<Endpoint> {
    let env = |name: &str| (around.env)(name).filter(|value| !value.is_empty());
    if let Some(host) = env("DOCKER_HOST") {
        let how = How::Environment;
        let address = parse(&host, &how)?;
        let tls = env("DOCKER_TLS_VERIFY").or_else(|| env("DOCKER_TLS"));
        if tls.is_some() && matches!(address, Address::Tcp(_)) {
            return Err(no_tls(&host, &how));
        }
        return Ok(Endpoint { address, how });
    }
    let folder = env("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| Some(around.home.as_ref()?.join(".docker")));
    let name = env("DOCKER_CONTEXT").or_else(|| current_context(around, folder.as_deref()?));
    match (name, folder) {
        (Some(name), Some(folder)) if name != "default" => context(around, &folder, name),
        _ => Ok(Endpoint {
            address: Address::Unix(DEFAULT_SOCKET.into()),
            how: How::Default,
        }),
    }
}

/// Where Podman may be: where it was told to be, else its user's socket and the system's.
///
/// # Errors
/// When it was told to be where ssh or TLS is needed.
pub(super) fn podman(around: &Surroundings<'_>) -> Result<Vec<Endpoint>> {
    let env = |name: &str| (around.env)(name).filter(|value| !value.is_empty());
    if let Some(host) = env("CONTAINER_HOST") {
        let how = How::ContainerHost;
        let address = parse(&host, &how)?;
        return Ok(vec![Endpoint { address, how }]);
    }
    let user = env("XDG_RUNTIME_DIR").map(PathBuf::from);
    let folders = user.into_iter().chain([PathBuf::from("/run")]);
    let socket = |folder: PathBuf| Endpoint {
        address: Address::Unix(folder.join(PODMAN_SOCKET)),
        how: How::Podman,
    };
    Ok(folders.map(socket).collect())
}

/// A configuration that is missing or malformed names no context; `docker` goes on too.
fn current_context(around: &Surroundings<'_>, folder: &Path) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Config {
        current_context: Option<String>,
    }
    let bytes = (around.read)(&folder.join("config.json")).ok()?;
    let config: Config = serde_json::from_slice(&bytes).ok()?;
    config.current_context.filter(|name| !name.is_empty())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Meta {
    #[serde(default)]
    endpoints: Endpoints,
}

#[derive(Default, Deserialize)]
struct Endpoints {
    docker: Option<DockerEndpoint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEndpoint {
    #[serde(default)]
    host: String,
}

fn context(around: &Surroundings<'_>, folder: &Path, name: String) -> Result<Endpoint> {
    let id = Digest::of(name.as_bytes()).hex();
    let path = folder.join("contexts/meta").join(&id).join("meta.json");
    let unusable = |why: String| {
        Error::environment(format!("docker context '{name}' cannot be used"))
            .at(path.display())
            .why(why)
            .hint("see `docker context ls`; choose another with DOCKER_CONTEXT or DOCKER_HOST")
    };
    let bytes = (around.read)(&path).map_err(|e| unusable(e.to_string()))?;
    let meta: Meta = serde_json::from_slice(&bytes).map_err(|e| unusable(e.to_string()))?;
    let host = meta.endpoints.docker.map(|docker| docker.host);
    let host = host.ok_or_else(|| unusable("it has no docker endpoint".into()))?;
    let how = How::Context(name.clone());
    let address = parse(&host, &how)?;
    let certificates = folder.join("contexts/tls").join(&id).join("docker/ca.pem");
    if matches!(address, Address::Tcp(_)) && (around.read)(&certificates).is_ok() {
        return Err(no_tls(&host, &how));
    }
    Ok(Endpoint { address, how })
}

fn parse(host: &str, how: &How) -> Result<Address> {
    let odd = |hint: &str| {
        Error::environment(format!("'{host}' ({how}) is not the address of a daemon")).hint(hint)
    };
    let (scheme, rest) = match host.split_once("://") {
        Some(pair) => pair,
        None if host.starts_with('/') => return Err(odd(&format!("write unix://{host}"))),
        None => ("tcp", host),
    };
    match scheme {
        "unix" if rest.is_empty() => Ok(Address::Unix(DEFAULT_SOCKET.into())),
        "unix" if rest.starts_with('/') => Ok(Address::Unix(rest.into())),
        "unix" => Err(odd("write the whole path: unix:///run/docker.sock")),
        "tcp" | "http" => tcp(rest).ok_or_else(|| odd("write tcp://HOST:PORT")),
        "https" => Err(no_tls(host, how)),
        "ssh" => Err(Error::environment(format!(
            "imgbuild does not reach a daemon over ssh: '{host}' ({how})"
        ))
        .hint(FORWARD)),
        _ => Err(odd("use unix:///PATH or tcp://HOST:PORT")),
    }
}

/// `host:port`, with docker's default port where none is told.
fn tcp(rest: &str) -> Option<Address> {
    let rest = rest.trim_end_matches('/');
    if rest.is_empty() || rest.contains(['/', '@', ' ']) {
        return None;
    }
    let after_host = rest.rfind(']').map_or(rest, |at| &rest[at..]);
    Some(Address::Tcp(if after_host.contains(':') {
        rest.to_owned()
    } else {
        format!("{rest}:2375")
    }))
}

fn no_tls(host: &str, how: &How) -> Error {
    Error::environment(format!(
        "imgbuild does not reach a daemon over TLS: '{host}' ({how})"
    ))
    .hint(FORWARD)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    type Told = Result<String, String>;

    fn chosen(env: &[(&str, &str)], files: &[(&str, &str)]) -> Told {
        ask(env, files, &|around| {
            choose(around).map(|endpoint| endpoint.to_string())
        })
    }

    fn ask(
        env: &[(&str, &str)],
        files: &[(&str, &str)],
        question: &dyn Fn(&Surroundings<'_>) -> Result<String>,
    ) -> Told {
        let env: HashMap<_, _> = env.iter().copied().collect();
        let files: HashMap<_, _> = files.iter().copied().collect();
        let around = Surroundings {
            env: &|name| env.get(name).map(|&value| value.to_owned()),
            read: &|path| match files.get(path.to_str().unwrap()) {
                Some(text) => Ok(text.as_bytes().to_vec()),
                None => Err(io::ErrorKind::NotFound.into()),
            },
            home: Some("/home/me".into()),
        };
        question(&around).map_err(|error| error.to_string())
    }

    #[test]
    fn podman_is_where_it_says() {
        let places = |env: &[(&str, &str)]| {
            ask(env, &[], &|around| {
                let places = podman(around)?;
                let places: Vec<_> = places.iter().map(|place| place.address.clone()).collect();
                Ok(format!("{places:?}"))
            })
        };
        let system = r#"Unix("/run/podman/podman.sock")"#;
        assert_eq!(places(&[]).unwrap(), format!("[{system}]"));
        let user = [("XDG_RUNTIME_DIR", "/run/user/7")];
        assert_eq!(
            places(&user).unwrap(),
            format!(r#"[Unix("/run/user/7/podman/podman.sock"), {system}]"#)
        );
        let told = [user[0], ("CONTAINER_HOST", "unix:///tmp/p.sock")];
        assert_eq!(places(&told).unwrap(), r#"[Unix("/tmp/p.sock")]"#);
        let machine = [("CONTAINER_HOST", "ssh://core@localhost:2222/run/p.sock")];
        let error = places(&machine).unwrap_err();
        assert!(error.contains("(from CONTAINER_HOST)"), "{error}");
    }

    fn meta(name: &str, folder: &str) -> String {
        let id = Digest::of(name.as_bytes()).hex();
        format!("{folder}/contexts/meta/{id}/meta.json")
    }

    #[test]
    fn the_order_is_dockers() {
        let config = (
            "/home/me/.docker/config.json",
            r#"{"currentContext": "lab"}"#,
        );
        let lab = meta("lab", "/home/me/.docker");
        let told = r#"{"Name": "lab", "Endpoints": {"docker": {"Host": "unix:///run/lab.sock"}}}"#;
        let files = [config, (lab.as_str(), told)];
        let default = Ok("unix:///var/run/docker.sock (the default)".to_owned());
        assert_eq!(chosen(&[], &[]), default);
        assert_eq!(
            chosen(&[], &files).unwrap(),
            "unix:///run/lab.sock (from docker context 'lab')"
        );
        assert_eq!(chosen(&[("DOCKER_CONTEXT", "default")], &files), default);
        assert_eq!(
            chosen(
                &[("DOCKER_HOST", "tcp://box"), ("DOCKER_CONTEXT", "lab")],
                &files
            )
            .unwrap(),
            "tcp://box:2375 (from DOCKER_HOST)"
        );
        assert_eq!(chosen(&[("DOCKER_HOST", "")], &[]), default);
    }

    #[test]
    fn docker_config_moves_the_contexts() {
        let path = meta("x", "/etc/d");
        let files = [(
            path.as_str(),
            r#"{"Endpoints": {"docker": {"Host": "tcp://[::1]:99"}}}"#,
        )];
        let env = [("DOCKER_CONFIG", "/etc/d"), ("DOCKER_CONTEXT", "x")];
        assert_eq!(
            chosen(&env, &files).unwrap(),
            "tcp://[::1]:99 (from docker context 'x')"
        );
        let error = chosen(&env, &[]).unwrap_err();
        assert!(
            error.contains("docker context 'x' cannot be used"),
            "{error}"
        );
    }

    #[test]
    fn a_malformed_configuration_is_passed_over() {
        let files = [("/home/me/.docker/config.json", "{")];
        assert!(chosen(&[], &files).unwrap().ends_with("(the default)"));
    }

    #[test]
    fn what_cannot_be_reached_says_the_way_out() {
        for (host, words) in [
            ("ssh://me@box", "over ssh"),
            ("https://box", "over TLS"),
            ("/run/docker.sock", "write unix:///run/docker.sock"),
            ("npipe:////./pipe/docker", "use unix:///PATH"),
            ("unix://run/docker.sock", "the whole path"),
            ("tcp://", "write tcp://HOST:PORT"),
        ] {
            let error = chosen(&[("DOCKER_HOST", host)], &[]).unwrap_err();
            assert!(error.contains(words), "{host}: {error}");
            assert!(error.contains("from DOCKER_HOST"), "{error}");
        }
        let tls = [("DOCKER_HOST", "tcp://b:2376"), ("DOCKER_TLS_VERIFY", "1")];
        assert!(chosen(&tls, &[]).unwrap_err().contains("over TLS"));
        let unix = [("DOCKER_HOST", "unix:///s"), ("DOCKER_TLS_VERIFY", "1")];
        assert_eq!(chosen(&unix, &[]).unwrap(), "unix:///s (from DOCKER_HOST)");
    }
}
