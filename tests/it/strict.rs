//! A registry in memory that keeps to the specification, with rules of its own.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::{Value, json};

use crate::mini::sha256;

/// What the registry does besides what the specification says.
#[derive(Clone, Default)]
pub struct Rules {
    /// The largest body of an upload; larger ones are 413.
    pub most: Option<usize>,
    /// The status of an upload that carries a whole blob.
    pub whole: Option<u16>,
    /// The value of `OCI-Chunk-Min-Length`.
    pub least: Option<usize>,
    /// The first body larger than this is cut after so many bytes, which are kept.
    pub cut: Option<usize>,
    /// Requests whose method and path begin like this go to another host.
    pub elsewhere: Option<(&'static str, String)>,
    /// Every request wants a token.
    pub tokens: Option<Tokens>,
    /// It lists what refers to an image (OCI distribution-spec 1.1, "Listing Referrers").
    pub referrers: Option<Listing>,
    /// Manifests have entity tags, and are put on condition (RFC 9110, 13.1).
    pub etags: bool,
    /// Before this one of the lists of referrers under tags is put, somebody else puts one that
    /// names [`RIVAL`] as well.
    pub rival: Option<usize>,
    /// Changes the answer to `METHOD PATH`.
    pub alter: Option<Arc<Alter>>,
}

/// How a registry lists referrers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// One a page.
    Pages,
    /// Not yet: its list is always empty.
    Late,
}

/// What another writer adds to a list of referrers.
pub const RIVAL: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

type Alter = dyn Fn(&str, &mut Answer) + Send + Sync;

/// A token service (distribution, "Token authentication").
#[derive(Clone)]
pub struct Tokens {
    /// The first token ends with the first request of this method.
    pub until: Option<&'static str>,
    /// What is granted of a scope; nothing refuses the token.
    pub grants: fn(&str) -> Option<String>,
}

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

/// The registry, until the test process ends.
pub struct Strict {
    pub address: String,
    shared: Arc<Shared>,
}

struct Shared {
    rules: Rules,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    uploads: Vec<Vec<u8>>,
    kept: BTreeMap<String, Vec<u8>>,
    cut: bool,
    /// How many lists of referrers were put under tags.
    lists: usize,
    /// The tokens that are good.
    tokens: Vec<String>,
    given: usize,
}

/// Status, headers and body of an answer.
pub struct Answer(pub u16, pub Vec<(&'static str, String)>, pub Vec<u8>);

fn status(status: u16) -> Answer {
    Answer(status, Vec::new(), Vec::new())
}

impl Strict {
    pub fn start(rules: Rules) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Mutex::default();
        let shared = Arc::new(Shared { rules, state });
        let server = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                // A client that goes away is no error of the server's.
                thread::spawn(move || drop(server.serve(stream)));
            }
        });
        Self { address, shared }
    }

    /// The requests so far with this method.
    pub fn seen(&self, method: &str) -> Vec<Seen> {
        let state = self.shared.state.lock().unwrap();
        let seen = state.seen.iter().filter(|seen| seen.method == method);
        seen.cloned().collect()
    }

    /// What a name stands for.
    pub fn manifest(&self, repository: &str, name: &str) -> Option<Value> {
        let state = self.shared.state.lock().unwrap();
        let bytes = state
            .kept
            .get(&format!("/v2/{repository}/manifests/{name}"))?;
        Some(serde_json::from_slice(bytes).unwrap())
    }

    /// Whether a repository has the manifest.
    pub fn has(&self, repository: &str, digest: &str) -> bool {
        let state = self.shared.state.lock().unwrap();
        let path = format!("/v2/{repository}/manifests/{digest}");
        state.kept.contains_key(&path)
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        let Some(seen) = self.read(&stream)? else {
            return stream.shutdown(Shutdown::Both);
        };
        self.state.lock().unwrap().seen.push(seen.clone());
        let mut answer = self.answer(&seen);
        if let Some(alter) = &self.rules.alter {
            alter(&format!("{} {}", seen.method, seen.path), &mut answer);
        }
        let Answer(status, headers, body) = answer;
        write!(stream, "HTTP/1.1 {status} X\r\nConnection: close\r\n")?;
        for (name, value) in headers {
            write!(stream, "{name}: {value}\r\n")?;
        }
        write!(stream, "Content-Length: {}\r\n\r\n", body.len())?;
        match seen.method.as_str() {
            "HEAD" => Ok(()),
            _ => stream.write_all(&body),
        }
    }

    /// A request; nothing of one that is cut.
    fn read(&self, stream: &TcpStream) -> io::Result<Option<Seen>> {
        let mut reader = BufReader::new(stream);
        let mut lines = reader.by_ref().lines();
        let Some(first) = lines.next().transpose()? else {
            return Ok(None);
        };
        let mut words = first.split(' ').map(str::to_owned);
        let mut seen = Seen {
            method: words.next().unwrap(),
            path: words.next().unwrap(),
            ..Seen::default()
        };
        for line in lines.map_while(Result::ok).take_while(|l| !l.is_empty()) {
            let (name, value) = line.split_once(": ").unwrap();
            seen.headers.insert(name.to_lowercase(), value.to_owned());
        }
        let length = seen.headers.get("content-length");
        let length = length.map_or(0, |length| length.parse().unwrap());
        let mut state = self.state.lock().unwrap();
        let cut = self.rules.cut.filter(|cut| length > *cut && !state.cut);
        state.cut |= cut.is_some();
        drop(state);
        let mut body = reader.take(cut.unwrap_or(length) as u64);
        body.read_to_end(&mut seen.body)?;
        if cut.is_none() {
            return Ok(Some(seen));
        }
        let mut state = self.state.lock().unwrap();
        upload_of(&mut state, &seen.path).append(&mut seen.body.clone());
        state.seen.push(seen);
        Ok(None)
    }

    fn answer(&self, seen: &Seen) -> Answer {
        if let Some((start, host)) = &self.rules.elsewhere
            && format!("{} {}", seen.method, seen.path).starts_with(start)
        {
            let to = format!("http://{host}{}", seen.path);
            return Answer(307, vec![("Location", to)], Vec::new());
        }
        let mut state = self.state.lock().unwrap();
        if let Some(tokens) = &self.rules.tokens {
            if let Some(query) = seen.path.strip_prefix("/token?") {
                return tokens.give(&mut state, query);
            }
            if tokens.until == Some(&seen.method) {
                state.tokens.retain(|token| !token.starts_with("0;"));
            }
            if !allowed(&state, seen) {
                return ask(seen);
            }
        }
        let path = seen.path.split('?').next().unwrap();
        if path == "/v2/" {
            return status(200);
        }
        match (seen.method.as_str(), path.contains("/blobs/uploads/")) {
            ("POST", true) if mounted(&mut state, seen) => status(201),
            ("POST", true) => self.begin(&mut state, path),
            (method, true) => self.upload(&mut state, seen, method),
            ("PUT", false) => self.put(&mut state, seen),
            _ if path.contains("/referrers/") => self.list(&state, &seen.path),
            _ => match state.kept.get(path) {
                Some(bytes) => Answer(200, self.tag(bytes), bytes.clone()),
                None => status(404),
            },
        }
    }

    fn begin(&self, state: &mut State, path: &str) -> Answer {
        state.uploads.push(Vec::new());
        let number = state.uploads.len() - 1;
        let mut headers = vec![("Location", format!("{path}{number}"))];
        if let Some(least) = self.rules.least {
            headers.push(("OCI-Chunk-Min-Length", least.to_string()));
        }
        Answer(202, headers, Vec::new())
    }

    fn upload(&self, state: &mut State, seen: &Seen, method: &str) -> Answer {
        if self.rules.most.is_some_and(|most| seen.body.len() > most) {
            return status(413);
        }
        let (path, digest) = seen.path.split_once("?digest=").unwrap_or((&seen.path, ""));
        let upload = upload_of(state, path);
        let begins_at = seen.headers.get("content-range").map(|range| {
            let (from, _) = range.split_once('-').unwrap();
            from.parse::<usize>().unwrap()
        });
        match (method, self.rules.whole) {
            ("PUT", Some(refused)) if !seen.body.is_empty() => return status(refused),
            _ if begins_at.is_some_and(|at| at != upload.len()) => return status(416),
            _ => upload.extend_from_slice(&seen.body),
        }
        let headers = vec![
            ("Location", path.to_owned()),
            ("Range", format!("0-{}", upload.len().saturating_sub(1))),
        ];
        match method {
            "GET" => return Answer(204, headers, Vec::new()),
            "PATCH" => return Answer(202, headers, Vec::new()),
            _ => {}
        }
        let (blob, digest) = (std::mem::take(upload), digest.replace("%3A", ":"));
        if format!("sha256:{}", sha256(&blob)) != digest {
            let words = br#"{"errors":[{"code":"DIGEST_INVALID","message":"no"}]}"#;
            return Answer(400, Vec::new(), words.to_vec());
        }
        let at = path.rfind("/uploads/").unwrap();
        state.kept.insert(format!("{}/{digest}", &path[..at]), blob);
        status(201)
    }
}

impl Shared {
    /// The header with the entity tag of a manifest or a blob.
    fn tag(&self, bytes: &[u8]) -> Vec<(&'static str, String)> {
        match self.rules.etags {
            true => vec![("ETag", entity_tag(bytes))],
            false => Vec::new(),
        }
    }

    fn put(&self, state: &mut State, seen: &Seen) -> Answer {
        let path = &seen.path;
        if path.contains("/manifests/sha256-") {
            if self.rules.rival == Some(state.lists) {
                let old = state.kept.get(path).map(Vec::as_slice);
                let new = with_rival(old.unwrap_or(br#"{"manifests": []}"#));
                state.kept.insert(path.clone(), new);
            }
            state.lists += 1;
        }
        let now = state.kept.get(path).map(|bytes| entity_tag(bytes));
        let wanted = |name: &str| seen.headers.get(name);
        let differs = wanted("if-match").is_some_and(|tag| Some(tag) != now.as_ref());
        let exists = wanted("if-none-match").is_some() && now.is_some();
        if self.rules.etags && (differs || exists) {
            return status(412);
        }
        let mut answer = keep(state, path, seen.body.clone());
        if let (Some(_), Some(subject)) = (self.rules.referrers, subject(&seen.body)) {
            answer.1.push(("OCI-Subject", subject));
        }
        answer
    }

    /// What refers to an image; `n` says which page.
    fn list(&self, state: &State, path: &str) -> Answer {
        let Some(listing) = self.rules.referrers else {
            return status(404);
        };
        let (place, query) = path.split_once('?').unwrap_or((path, ""));
        let (repository, digest) = place.split_once("/referrers/").unwrap();
        let start = format!("{repository}/manifests/sha256:");
        let kept = state.kept.iter().filter(|(name, bytes)| {
            name.starts_with(&start) && subject(bytes).as_deref() == Some(digest)
        });
        let all: Vec<Value> = kept.map(|(_, bytes)| descriptor(bytes)).collect();
        let page = query.split('&').find_map(|pair| pair.strip_prefix("n="));
        let page: usize = page.map_or(0, |page| page.parse().unwrap());
        let (shown, more) = match listing {
            Listing::Pages => (all.get(page).into_iter().collect(), all.len() > page + 1),
            Listing::Late => (Vec::new(), false),
        };
        let next = || ("Link", format!("<{place}?n={}>; rel=\"next\"", page + 1));
        let index = json!({"schemaVersion": 2, "manifests": shown});
        Answer(
            200,
            more.then(next).into_iter().collect(),
            index.to_string().into_bytes(),
        )
    }
}

fn entity_tag(bytes: &[u8]) -> String {
    format!("\"{}\"", sha256(bytes))
}

fn with_rival(list: &[u8]) -> Vec<u8> {
    let mut list: Value = serde_json::from_slice(list).unwrap();
    let entries = list["manifests"].as_array_mut().unwrap();
    entries.push(json!({"digest": RIVAL}));
    list.to_string().into_bytes()
}

/// The image that a manifest refers to.
fn subject(manifest: &[u8]) -> Option<String> {
    let manifest: Value = serde_json::from_slice(manifest).ok()?;
    Some(manifest["subject"]["digest"].as_str()?.to_owned())
}

fn descriptor(manifest: &[u8]) -> Value {
    let parsed: Value = serde_json::from_slice(manifest).unwrap();
    json!({"mediaType": parsed["mediaType"], "digest": format!("sha256:{}", sha256(manifest)),
        "size": manifest.len(), "artifactType": parsed["artifactType"]})
}

fn upload_of<'s>(state: &'s mut State, path: &str) -> &'s mut Vec<u8> {
    let path = path.split('?').next().unwrap();
    let number: usize = path.rsplit('/').next().unwrap().parse().unwrap();
    // One that another server began.
    let count = state.uploads.len().max(number + 1);
    state.uploads.resize(count, Vec::new());
    &mut state.uploads[number]
}

/// Keeps a manifest under its name and its digest.
fn keep(state: &mut State, path: &str, bytes: Vec<u8>) -> Answer {
    let at = path.rfind('/').unwrap();
    let digest = format!("sha256:{}", sha256(&bytes));
    state
        .kept
        .insert(format!("{}/{digest}", &path[..at]), bytes.clone());
    state.kept.insert(path.to_owned(), bytes);
    Answer(201, vec![("Docker-Content-Digest", digest)], Vec::new())
}

impl Tokens {
    fn give(&self, state: &mut State, query: &str) -> Answer {
        let scopes = query
            .split('&')
            .filter_map(|pair| pair.strip_prefix("scope="));
        let granted: Option<Vec<String>> =
            scopes.map(|scope| (self.grants)(&decoded(scope))).collect();
        let Some(granted) = granted else {
            return status(403);
        };
        let token = format!("{};{}", state.given, granted.join(";"));
        state.given += 1;
        state.tokens.push(token.clone());
        let body = format!("{{\"token\": \"{token}\"}}");
        Answer(200, Vec::new(), body.into_bytes())
    }
}

fn decoded(text: &str) -> String {
    let text = text.replace("%3A", ":").replace("%2F", "/");
    text.replace("%2C", ",")
}

/// The repository of an address of the API.
fn repository(path: &str) -> &str {
    let path = path.strip_prefix("/v2/").unwrap_or_default();
    let end = path.find("/blobs/").or_else(|| path.find("/manifests/"));
    &path[..end.unwrap_or(0)]
}

fn token(seen: &Seen) -> &str {
    let shown = seen.headers.get("authorization");
    shown
        .and_then(|shown| shown.strip_prefix("Bearer "))
        .unwrap_or_default()
}

/// Whether the token that a request shows is good for what it asks.
fn allowed(state: &State, seen: &Seen) -> bool {
    let action = match seen.method.as_str() {
        "GET" | "HEAD" => "pull",
        _ => "push",
    };
    if !state.tokens.iter().any(|good| good == token(seen)) {
        return false;
    }
    seen.path == "/v2/" || grants(token(seen), repository(&seen.path), action)
}

fn grants(token: &str, repository: &str, action: &str) -> bool {
    let start = format!("repository:{repository}:");
    let mut actions = token
        .split(';')
        .filter_map(|scope| scope.strip_prefix(&start));
    actions.any(|actions| actions.split(',').any(|granted| granted == action))
}

fn ask(seen: &Seen) -> Answer {
    let host = &seen.headers["host"];
    let wants = format!("Bearer realm=\"http://{host}/token\",service=\"strict\"");
    Answer(401, vec![("WWW-Authenticate", wants)], Vec::new())
}

/// Takes a blob over from another repository, where the token may read it.
fn mounted(state: &mut State, seen: &Seen) -> bool {
    let query = seen
        .path
        .split_once("?mount=")
        .map(|(_, query)| decoded(query));
    let Some((digest, from)) = query.as_ref().and_then(|query| query.split_once("&from=")) else {
        return false;
    };
    let there = state
        .kept
        .get(&format!("/v2/{from}/blobs/{digest}"))
        .cloned();
    let Some(blob) = there.filter(|_| grants(token(seen), from, "pull")) else {
        return false;
    };
    let to = format!("/v2/{}/blobs/{digest}", repository(&seen.path));
    state.kept.insert(to, blob);
    true
}
