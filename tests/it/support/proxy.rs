//! A Docker daemon behind a proxy that counts what it is sent, and that may lie for it.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use serde_json::Value;
use tempfile::TempDir;

use super::fixture;

const LOAD: &str = "POST /images/load";

/// The bytes that each load sent so far; one that goes on or was cut counts too.
type Loads = Arc<Mutex<Vec<Arc<AtomicU64>>>>;
type Before = dyn Fn(&str) + Send + Sync;
type Alter = dyn Fn(&str, &mut Value) + Send + Sync;

/// What a proxy does besides passing on.
#[derive(Default)]
pub struct Tricks {
    /// Called with `METHOD /path`, without the API's version, before a request is passed on.
    pub before: Option<Box<Before>>,
    /// Called with `METHOD /path` and what the daemon answered in JSON; may change it.
    pub alter: Option<Box<Alter>>,
}

/// A socket that leads to the tests' daemon.
pub struct Proxy {
    dir: TempDir,
    loads: Loads,
}

struct Shared {
    upstream: PathBuf,
    tricks: Tricks,
    loads: Loads,
}

impl Proxy {
    /// Listens until the end of the process.
    pub fn start(tricks: Tricks) -> Self {
        // The path of a socket is short: not below the build's folder.
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("d.sock")).unwrap();
        let loads = Arc::default();
        let host = fixture("DOCKER_HOST");
        let shared = Arc::new(Shared {
            upstream: host.to_str().unwrap().trim_start_matches("unix://").into(),
            tricks,
            loads: Arc::clone(&loads),
        });
        thread::spawn(move || {
            for client in listener.incoming() {
                let shared = shared.clone();
                // A broken connection is the business of those at its ends.
                thread::spawn(move || shared.serve(client?));
            }
        });
        Self { dir, loads }
    }

    /// The value for `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.dir.path().join("d.sock").display())
    }

    /// How many bytes each image load sent that began since this was last asked.
    pub fn loads(&self) -> Vec<u64> {
        let loads = std::mem::take(&mut *self.loads.lock().unwrap());
        loads.iter().map(|n| n.load(Ordering::SeqCst)).collect()
    }
}

impl Shared {
    /// One request a connection: the daemon is told to close it.
    fn serve(&self, client: UnixStream) -> io::Result<()> {
        let mut from_client = BufReader::new(client.try_clone()?);
        let head = head(&mut from_client)?;
        let request = request(&head);
        let sent = Arc::<AtomicU64>::default();
        if request == LOAD {
            self.loads.lock().unwrap().push(sent.clone());
        }
        if let Some(before) = &self.tricks.before {
            before(&request);
        }
        let mut daemon = UnixStream::connect(&self.upstream)?;
        let first = head.find("\r\n").unwrap() + 2;
        write!(
            daemon,
            "{}Connection: close\r\n{}",
            &head[..first],
            &head[first..]
        )?;
        let pump = {
            let daemon = daemon.try_clone()?;
            thread::spawn(move || pump(from_client, daemon, &sent))
        };
        let answered = self.answer(&request, daemon, &client);
        // Wakes the pump, which waits for more of the client.
        client.shutdown(Shutdown::Both)?;
        let _ = pump.join();
        answered
    }

    fn answer(&self, request: &str, daemon: UnixStream, mut client: &UnixStream) -> io::Result<()> {
        let mut daemon = BufReader::new(daemon);
        let head = head(&mut daemon)?;
        let json = head
            .to_lowercase()
            .contains("content-type: application/json");
        let Some(alter) = self
            .tricks
            .alter
            .as_ref()
            .filter(|_| json && request != LOAD)
        else {
            client.write_all(head.as_bytes())?;
            return io::copy(&mut daemon, &mut client).map(drop);
        };
        let mut body = body(&head, daemon)?;
        if let Ok(mut value) = serde_json::from_slice(&body) {
            alter(request, &mut value);
            body = value.to_string().into_bytes();
        }
        let status = head.lines().next().unwrap();
        let length = body.len();
        let head = format!(
            "{status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        client.write_all(head.as_bytes())?;
        client.write_all(&body)
    }
}

/// The head of a message, with the empty line that ends it.
fn head(from: &mut impl BufRead) -> io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if from.read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

/// `METHOD /path` of a request, without the API's version and the query.
fn request(head: &str) -> String {
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let path = target.split('?').next().unwrap();
    let path = match path.starts_with("/v1.") {
        true => &path[1 + path[1..].find('/').unwrap()..],
        false => path,
    };
    format!("{method} {path}")
}

fn pump(mut from: impl Read, mut to: UnixStream, sent: &AtomicU64) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = from.read(&mut buffer)?;
        if n == 0 {
            // What the client breaks off is broken off before the daemon too.
            return to.shutdown(Shutdown::Write);
        }
        to.write_all(&buffer[..n])?;
        sent.fetch_add(n as u64, Ordering::SeqCst);
    }
}

fn body(head: &str, mut from: impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if !head.to_lowercase().contains("transfer-encoding: chunked") {
        from.read_to_end(&mut body)?;
        return Ok(body);
    }
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        if size == 0 {
            return Ok(body);
        }
        from.by_ref().take(size).read_to_end(&mut body)?;
        from.read_line(&mut line)?;
    }
}
