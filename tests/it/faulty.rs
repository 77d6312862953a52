//! An HTTP server that misbehaves on demand, and a proxy that writes down what is asked for.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

use crate::mini::{Mini, names};

/// How long a held request is held, when the client is not killed before.
const HOLD: Duration = Duration::from_secs(60);

/// What to do with one request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The file, or 404.
    Fine,
    /// An empty answer with this status and these header lines.
    Status(u16, &'static str),
    /// The file's head, that many percent of it, and then a closed connection.
    Cut(usize),
    /// The file's head, then nothing more until the client goes.
    Stall(usize),
    /// Bytes of the right number that are not the file's.
    Garbage,
    /// Other bytes.
    Bytes(&'static [u8]),
    /// The file, in small pieces.
    Slow,
    /// The file with `Content-Encoding: gzip`, for a client that takes it.
    Gzip,
    /// The file, once that many requests of this kind are under way.
    Meet(usize),
    /// Another address for the same path.
    Redirect(String),
}

type Rule = dyn Fn(&str, usize) -> Fault + Send + Sync;

/// A server of a folder or of another server, until the test process ends.
pub struct Faulty {
    pub url: String,
    shared: Arc<Shared>,
    kept: Option<Mini>,
}

struct Shared {
    origin: Origin,
    rule: Box<Rule>,
    state: Mutex<State>,
    changed: Condvar,
}

enum Origin {
    Folder(PathBuf),
    Server(String),
}

struct Request<'a> {
    path: &'a str,
    body: bool,
    gzip: bool,
}

#[derive(Default)]
struct State {
    log: Vec<String>,
    stalled: usize,
    meeting: usize,
    met: usize,
    bytes: u64,
}

impl Faulty {
    /// Serves a folder; the rule gets a path and how often it was asked for with GET before.
    pub fn serve(dir: &Path, rule: impl Fn(&str, usize) -> Fault + Send + Sync + 'static) -> Self {
        Self::start(Origin::Folder(dir.to_owned()), Box::new(rule))
    }

    /// Passes requests on to `host:port`, one a connection.
    pub fn proxy(server: &str) -> Self {
        Self::faulty_proxy(server, |_| Fault::Fine)
    }

    /// As [`Faulty::proxy`], with a rule that gets a request's method and path. A body is cut or
    /// stalls on its way to the server.
    pub fn faulty_proxy(
        server: &str,
        rule: impl Fn(&str) -> Fault + Send + Sync + 'static,
    ) -> Self {
        let rule = move |request: &str, _| rule(request);
        Self::start(Origin::Server(server.into()), Box::new(rule))
    }

    fn start(origin: Origin, rule: Box<Rule>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            origin,
            rule,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let server = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                // A client that goes away is no error of the server's.
                thread::spawn(move || drop(server.answer(stream)));
            }
        });
        let kept = None;
        Self { url, shared, kept }
    }

    /// As [`Faulty::serve`] for a channel that lives as long as the server.
    pub fn serve_mini(
        mini: Mini,
        rule: impl Fn(&str, usize) -> Fault + Send + Sync + 'static,
    ) -> Self {
        let mut server = Self::serve(mini.path(), rule);
        server.kept = Some(mini);
        server
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// The paths asked for with GET so far that end like this.
    pub fn gets(&self, ending: &str) -> Vec<String> {
        let state = self.shared.state.lock().unwrap();
        let gets = state.log.iter().filter_map(|l| l.strip_prefix("GET "));
        gets.filter(|path| path.ends_with(ending))
            .map(str::to_owned)
            .collect()
    }

    /// The requests so far, as `METHOD path`; once a proxy has the answer, `done METHOD path`.
    pub fn log(&self) -> Vec<String> {
        self.shared.state.lock().unwrap().log.clone()
    }

    /// The requests so far that change something.
    pub fn writes(&self) -> Vec<String> {
        let mut log = self.log();
        log.retain(|line| {
            let mut methods = ["PUT ", "POST ", "PATCH "].iter();
            methods.any(|method| line.starts_with(method))
        });
        log
    }

    /// The bytes that a proxy passed on so far, both ways.
    pub fn bytes(&self) -> u64 {
        self.shared.state.lock().unwrap().bytes
    }

    /// Forgets the requests and bytes so far.
    pub fn clear(&self) {
        let mut state = self.shared.state.lock().unwrap();
        state.log.clear();
        state.bytes = 0;
    }

    /// The most requests that met.
    pub fn met(&self) -> usize {
        self.shared.state.lock().unwrap().met
    }

    /// Waits until so many requests hang.
    pub fn wait_stalled(&self, count: usize) {
        self.wait_until(|state| state.stalled >= count);
    }

    /// Waits until a proxy has the answers to so many of these requests.
    pub fn wait_done(&self, count: usize, is_meant: impl Fn(&str) -> bool) {
        self.wait_until(|state| {
            let done = state.log.iter().filter_map(|l| l.strip_prefix("done "));
            done.filter(|request| is_meant(request)).count() >= count
        });
    }

    fn wait_until(&self, there: impl Fn(&State) -> bool) {
        let state = self.shared.state.lock().unwrap();
        let waiting = |state: &mut State| !there(state);
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(state, HOLD, waiting)
            .unwrap();
        assert!(there(&state), "no request came: {:?}", state.log);
    }
}

/// Waits until a folder holds so many files.
pub fn wait_for_files(dir: &Path, count: usize) {
    for _ in 0..1200 {
        if names(dir).len() >= count {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("{} holds {:?}", dir.display(), names(dir));
}

impl Shared {
    fn answer(&self, stream: TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let line = head.lines().next().unwrap_or("");
        let request = line
            .rsplit_once(' ')
            .map_or(line, |(request, _)| request)
            .to_owned();
        let nth = {
            let mut state = self.state.lock().unwrap();
            let before = state.log.iter().filter(|known| **known == request).count();
            state.log.push(request.clone());
            before
        };
        let (method, path) = request.split_once(' ').unwrap_or(("", ""));
        match &self.origin {
            Origin::Server(address) => {
                let fault = (self.rule)(&request, nth);
                let done = |bytes| self.done(&request, bytes);
                self.relay(address, &head, (reader, stream), fault, done)
            }
            Origin::Folder(dir) => {
                let request = Request {
                    path,
                    body: method == "GET",
                    gzip: head.to_lowercase().contains("gzip"),
                };
                let file = fs::read(dir.join(path.trim_start_matches('/'))).ok();
                self.send(stream, &request, file, (self.rule)(path, nth))
            }
        }
    }

    fn send(
        &self,
        mut out: TcpStream,
        request: &Request<'_>,
        file: Option<Vec<u8>>,
        fault: Fault,
    ) -> io::Result<()> {
        let Request { path, body, gzip } = *request;
        if let Fault::Status(status, headers) = fault {
            return head(&mut out, status, 0, headers);
        }
        let Some(bytes) = file else {
            return head(&mut out, 404, 0, "");
        };
        let part = |percent: usize| &bytes[..bytes.len() * percent / 100];
        match fault {
            Fault::Redirect(to) => {
                return head(&mut out, 302, 0, &format!("Location: {to}{path}\r\n"));
            }
            Fault::Bytes(other) => {
                head(&mut out, 200, other.len(), "")?;
                return out.write_all(other);
            }
            Fault::Gzip if gzip => {
                let mut packed = flate2::write::GzEncoder::new(Vec::new(), Default::default());
                packed.write_all(&bytes)?;
                let packed = packed.finish()?;
                head(&mut out, 200, packed.len(), "Content-Encoding: gzip\r\n")?;
                return if body { out.write_all(&packed) } else { Ok(()) };
            }
            _ => head(&mut out, 200, bytes.len(), "")?,
        }
        if !body {
            return Ok(());
        }
        match fault {
            Fault::Cut(percent) => {
                out.write_all(part(percent))?;
                return out.shutdown(Shutdown::Both);
            }
            Fault::Stall(percent) => {
                out.write_all(part(percent))?;
                return self.stall(&mut out);
            }
            Fault::Garbage => return out.write_all(&vec![b'x'; bytes.len()]),
            Fault::Slow => {
                for piece in bytes.chunks(bytes.len().div_ceil(50).max(1)) {
                    out.write_all(piece)?;
                    thread::sleep(Duration::from_millis(5));
                }
                return Ok(());
            }
            Fault::Meet(count) => self.meet(count),
            _ => {}
        }
        out.write_all(&bytes)
    }

    /// Ends when the client goes.
    fn stall(&self, client: &mut TcpStream) -> io::Result<()> {
        self.state.lock().unwrap().stalled += 1;
        self.changed.notify_all();
        client.set_read_timeout(Some(HOLD))?;
        while client.read(&mut [0; 4096])? > 0 {}
        Ok(())
    }

    /// Writes down that a request is answered. The client does not have all of the answer yet: one
    /// that has may end, and then it is asked what was done.
    fn done(&self, request: &str, bytes: u64) {
        let mut state = self.state.lock().unwrap();
        state.log.push(format!("done {request}"));
        state.bytes += bytes;
        self.changed.notify_all();
    }

    fn relay(
        &self,
        address: &str,
        head_lines: &str,
        (body, mut client): (BufReader<TcpStream>, TcpStream),
        fault: Fault,
        done: impl FnOnce(u64),
    ) -> io::Result<()> {
        let length = content_length(head_lines);
        match fault {
            Fault::Status(status, headers) => {
                io::copy(&mut body.take(length), &mut io::sink())?;
                done(0);
                head(&mut client, status, 0, headers)
            }
            Fault::Bytes(bytes) => {
                io::copy(&mut body.take(length), &mut io::sink())?;
                done(0);
                head(&mut client, 200, bytes.len(), "")?;
                client.write_all(bytes)
            }
            Fault::Cut(percent) | Fault::Stall(percent) => {
                let mut server = begin(address, head_lines)?;
                let part = length * percent as u64 / 100;
                io::copy(&mut body.take(part), &mut server)?;
                match fault {
                    Fault::Stall(_) => self.stall(&mut client),
                    _ => client.shutdown(Shutdown::Both),
                }
            }
            _ => {
                let sent = head_lines.len() as u64 + length;
                pass_on(address, head_lines, body, client, |got| done(sent + got))
            }
        }
    }

    fn meet(&self, count: usize) {
        let mut state = self.state.lock().unwrap();
        state.meeting += 1;
        state.met = state.met.max(state.meeting);
        self.changed.notify_all();
        let waiting = |state: &mut State| state.met < count;
        let limit = Duration::from_secs(15);
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, limit, waiting)
            .unwrap();
        state.meeting -= 1;
    }
}

fn head(out: &mut TcpStream, status: u16, length: usize, more: &str) -> io::Result<()> {
    write!(
        out,
        "HTTP/1.1 {status} Status\r\nConnection: close\r\nContent-Length: {length}\r\n{more}\r\n"
    )
}

fn content_length(head: &str) -> u64 {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    let length = lines.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    length.map_or(0, |(_, value)| value.trim().parse().unwrap())
}

/// Sends a request's head, for one request a connection.
fn begin(address: &str, head: &str) -> io::Result<TcpStream> {
    let mut server = TcpStream::connect(address)?;
    let kept = head
        .trim_end()
        .lines()
        .filter(|line| !line.to_lowercase().starts_with("connection:"));
    for line in kept {
        write!(server, "{line}\r\n")?;
    }
    write!(server, "Connection: close\r\n\r\n")?;
    Ok(server)
}

fn pass_on(
    address: &str,
    head: &str,
    mut body: BufReader<TcpStream>,
    mut client: TcpStream,
    done: impl FnOnce(u64),
) -> io::Result<()> {
    let mut server = begin(address, head)?;
    let mut upload = server.try_clone()?;
    thread::spawn(move || io::copy(&mut body, &mut upload));
    let (mut buffer, mut last, mut answered) = (vec![0; 64 << 10], Vec::new(), 0);
    // A server that closes while more is sent to it has answered all the same.
    while let Ok(more @ 1..) = server.read(&mut buffer) {
        client.write_all(&last)?;
        last = buffer[..more].to_vec();
        answered += more as u64;
    }
    done(answered);
    client.write_all(&last)?;
    // It may have closed first.
    let _ = client.shutdown(Shutdown::Both);
    Ok(())
}
