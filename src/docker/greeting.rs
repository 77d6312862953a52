//! Asking a daemon who it is, by `GET /_ping`: `/version` and `/info` run programs to be answered
//! (`runc --version` and others), which takes longer than all else that a small load asks.

use std::time::Duration;

use bollard::ClientVersion;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use super::endpoint::{Address, Endpoint};
use crate::error::{Error, Result, chain};

/// How long a reachable daemon may take to say who it is.
const LIMIT: Duration = Duration::from_secs(30);
/// More than any daemon says, in bytes.
const LONGEST: usize = 64 << 10;

/// What a daemon says of itself at once (Docker Engine API, `SystemPingHead`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Greeting {
    /// The API version: `1.41`.
    pub api: String,
    /// The daemon's own version: `20.10.24`; empty where it does not say.
    pub server: String,
    /// Whether it is Podman.
    pub podman: bool,
}

impl Greeting {
    /// Whether the daemon's API is at least `1.minor`; also when in doubt.
    pub(super) fn speaks(&self, minor: usize) -> bool {
        parse(&self.api).is_none_or(|version| (version.0, version.1) >= (1, minor))
    }

    /// The version to speak: the daemon's, but none that is newer than `ours`.
    pub(super) fn common(&self, ours: &ClientVersion) -> ClientVersion {
        let ours = (ours.major_version, ours.minor_version);
        let (major_version, minor_version) = parse(&self.api).map_or(ours, |it| it.min(ours));
        ClientVersion {
            major_version,
            minor_version,
        }
    }

    /// From the headers `Api-Version`, which every Docker since 1.12 sends, and `Server`:
    /// `Docker/20.10.24 (linux)`, `Libpod/4.3.1 (linux)`.
    fn of(header: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let api = header("api-version").filter(|api| parse(api).is_some())?;
        let server = header("server").unwrap_or_default();
        let product = server.split(' ').next().unwrap_or_default();
        let version = product.split_once('/').map_or("", |(_, version)| version);
        Some(Self {
            api,
            server: version.to_owned(),
            podman: header("libpod-api-version").is_some() || product.starts_with("Libpod/"),
        })
    }
}

fn parse(version: &str) -> Option<(usize, usize)> {
    let (major, minor) = version.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Asks the daemon.
///
/// # Errors
/// When it does not answer in time, refuses this user, or is none.
pub(super) async fn ask(endpoint: &Endpoint) -> Result<Greeting> {
    let asked = async {
        match &endpoint.address {
            Address::Unix(path) => ping(UnixStream::connect(path).await).await,
            Address::Tcp(host) => ping(TcpStream::connect(host).await).await,
        }
    };
    let answer = tokio::time::timeout(LIMIT, asked).await;
    let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {} s", LIMIT.as_secs())));
    let (status, greeting, said) = answer.map_err(|why| not_docker(endpoint, &why))?;
    match (status, greeting) {
        (StatusCode::FORBIDDEN, _) => Err(refuses(endpoint, &said)),
        (StatusCode::OK, Some(greeting)) => Ok(greeting),
        (StatusCode::OK, None) => Err(not_docker(endpoint, "it does not say its API version")),
        _ => Err(not_docker(endpoint, &format!("{status}: {said}"))),
    }
}

/// The status, what the headers say, and the text of the answer.
type Answer = (StatusCode, Option<Greeting>, String);

async fn ping<S>(stream: std::io::Result<S>) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let stream = stream.map_err(|e| chain(&e))?;
    let words = |e: hyper::Error| chain(&e);
    let opened = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = opened.map_err(words)?;
    // It ends with its one answer; what breaks it is told by that.
    tokio::spawn(connection);
    let request = Request::get("/_ping")
        .header(HOST, "docker")
        .body(Empty::<Bytes>::new())
        .map_err(|e| chain(&e))?;
    let answer = sender.send_request(request).await.map_err(words)?;
    let header = |name: &str| Some(answer.headers().get(name)?.to_str().ok()?.to_owned());
    let (status, greeting) = (answer.status(), Greeting::of(header));
    let body = Limited::new(answer.into_body(), LONGEST).collect().await;
    let said = body.map_err(|e| e.to_string())?.to_bytes();
    Ok((status, greeting, message(&said)))
}

/// What an answer says in words; the API wraps them in JSON.
fn message(said: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Message {
        message: String,
    }
    let message = serde_json::from_slice(said).map(|it: Message| it.message);
    let text = message.unwrap_or_else(|_| String::from_utf8_lossy(said).into_owned());
    text.trim().to_owned()
}

pub(super) fn refuses(endpoint: &Endpoint, why: &str) -> Error {
    Error::environment("the Docker daemon refuses this user")
        .at(endpoint)
        .why(why)
        .hint("ask the daemon's administrator: an authorization plugin said no")
}

pub(super) fn not_docker(endpoint: &Endpoint, why: &str) -> Error {
    Error::environment("what answers there is not a working Docker daemon")
        .at(endpoint)
        .why(why)
        .hint("check the address with `docker version`")
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::docker::endpoint::How;

    fn greeting(headers: &[(&str, &str)]) -> Option<Greeting> {
        Greeting::of(|asked| {
            let found = headers.iter().find(|(name, _)| *name == asked)?;
            Some(found.1.to_owned())
        })
    }

    #[test]
    fn daemons_name_themselves() {
        let server = ("server", "Docker/20.10.24+dfsg1 (linux)");
        let docker = greeting(&[("api-version", "1.41"), server]).unwrap();
        assert_eq!(docker.server, "20.10.24+dfsg1");
        assert!(!docker.podman);
        let podman = [
            ("api-version", "1.41"),
            ("libpod-api-version", "4.3.1"),
            ("server", "Libpod/4.3.1 (linux)"),
        ];
        let podman = greeting(&podman).unwrap();
        assert_eq!(podman.server, "4.3.1");
        assert!(podman.podman);
        assert_eq!(greeting(&[server]), None);
        assert_eq!(greeting(&[("api-version", "new"), server]), None);
    }

    #[test]
    fn the_older_version_is_spoken() {
        let ours = ClientVersion {
            major_version: 1,
            minor_version: 48,
        };
        let common = |api: &str| {
            let daemon = greeting(&[("api-version", api)]).unwrap();
            (daemon.common(&ours).to_string(), daemon.speaks(42))
        };
        assert_eq!(common("1.41"), ("1.41".to_owned(), false));
        assert_eq!(common("1.52"), ("1.48".to_owned(), true));
        assert_eq!(common("2.0"), ("1.48".to_owned(), true));
    }

    #[tokio::test]
    async fn what_is_no_daemon_is_told() {
        let told = async |answer: &'static str| {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let endpoint = Endpoint {
                address: Address::Tcp(listener.local_addr().unwrap().to_string()),
                how: How::Environment,
            };
            tokio::spawn(async move {
                let (mut socket, _) = listener.accept().await.unwrap();
                let _ = socket.read(&mut [0; 1024]).await;
                let _ = socket.write_all(answer.as_bytes()).await;
            });
            ask(&endpoint).await.unwrap_err().to_string()
        };
        let page = told("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
        assert!(page.contains("not a working Docker daemon"), "{page}");
        assert!(page.contains("does not say its API version"), "{page}");
        let text = r#"{"message":"authorization denied by plugin p: no"}"#;
        let denied = format!(
            "HTTP/1.1 403 Forbidden\r\nApi-Version: 1.41\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        );
        let denied = told(denied.leak()).await;
        assert!(denied.contains("refuses this user"), "{denied}");
        assert!(denied.contains("denied by plugin p: no"), "{denied}");
        let broken = told("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\nbad").await;
        assert!(broken.contains("502 Bad Gateway: bad"), "{broken}");
        let garbage = told("SSH-2.0-OpenSSH_9.2\r\n").await;
        assert!(garbage.contains("not a working Docker daemon"), "{garbage}");
    }
}
