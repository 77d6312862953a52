//! A token service such as registries have beside them (distribution, "Token authentication" and
//! "Token Authentication Implementation"): whom it knows gets a signed token for what is asked.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tempfile::TempDir;
use url::Url;

use crate::debian::{NEW, Settings, openssl};

/// Whose password is [`PASSWORD`], and who may do all.
pub const USER: &str = "tester";
pub const PASSWORD: &str = "secret";
/// What anyone may pull from.
pub const PUBLIC: &str = "public/";
/// Registries take a token for so many seconds after its end (distribution, `token.go`).
const LEEWAY: u64 = 60;
const NAME: &str = "imgbuild-tests";

/// The service, until the test process ends.
pub struct TokenService {
    address: String,
    shared: Arc<Shared>,
}

struct Shared {
    dir: TempDir,
    /// How long each token is taken, in seconds, the next one last.
    lives: Mutex<Vec<u64>>,
    asked: Mutex<Vec<String>>,
}

impl TokenService {
    /// Starts one; its first tokens are taken for so many seconds, later ones for an hour.
    pub fn start(lives: &[u64]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = ["-newkey", "rsa:2048", "-keyout", "key.pem"];
        let certificate = ["-subj", "/CN=tokens", "-out", "cert.pem"];
        openssl(dir.path(), &[&NEW[..], &key, &certificate].concat());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared {
            dir,
            lives: Mutex::new(lives.iter().rev().copied().collect()),
            asked: Mutex::default(),
        });
        let server = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away is no error of the server's.
                drop(server.serve(stream));
            }
        });
        Self { address, shared }
    }

    /// For a registry that wants its tokens.
    pub fn settings(&self) -> Settings {
        let bundle = self.shared.dir.path().join("cert.pem");
        let more = format!(
            "auth: {{token: {{realm: \"http://{}/token\", service: {NAME}, issuer: {NAME}, \
             rootcertbundle: \"{}\"}}}}",
            self.address,
            bundle.display()
        );
        Settings {
            more,
            ..Settings::default()
        }
    }

    /// Who asked so far, and for what: `USER SCOPE...`.
    pub fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().unwrap().clone()
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut lines = BufReader::new(&stream).lines();
        let request = lines.next().unwrap_or(Ok(String::new()))?;
        let path = request.split(' ').nth(1).unwrap_or("/").to_owned();
        let mut login = None;
        for line in lines.map_while(Result::ok).take_while(|l| !l.is_empty()) {
            let (name, value) = line.split_once(": ").unwrap_or_default();
            if name.eq_ignore_ascii_case("authorization") {
                login = Some(value.to_owned());
            }
        }
        let (status, body) = self.answer(&path, login.as_deref());
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    }

    fn answer(&self, path: &str, login: Option<&str>) -> (u16, String) {
        let known = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
        let user = match login {
            None => "",
            Some(login) if login == known => USER,
            Some(_) => return (401, String::new()),
        };
        let url = Url::parse(&format!("http://h{path}")).unwrap();
        let pairs = || url.query_pairs();
        assert!(pairs().any(|(key, value)| key == "service" && value == NAME));
        let scopes = pairs().filter(|(key, _)| key == "scope");
        let scopes: Vec<String> = scopes.map(|(_, value)| value.into_owned()).collect();
        let asked = format!("{user} {}", scopes.join(" "));
        self.asked.lock().unwrap().push(asked);
        let granted: Vec<Value> = scopes.iter().filter_map(|s| granted(user, s)).collect();
        let life = self.lives.lock().unwrap().pop().unwrap_or(3600);
        (
            200,
            json!({"token": self.token(user, &granted, life)}).to_string(),
        )
    }

    /// A JSON Web Token (RFC 7519), signed with RS256 (RFC 7518).
    fn token(&self, user: &str, access: &[Value], life: u64) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let now = now.as_secs();
        let pem = std::fs::read_to_string(self.dir.path().join("cert.pem")).unwrap();
        let der: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [der]});
        let claims = json!({
            "iss": NAME, "sub": user, "aud": NAME, "jti": now.to_string(),
            "iat": now - LEEWAY, "nbf": now - LEEWAY, "exp": now + life - LEEWAY,
            "access": access,
        });
        let coded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let [header, claims] = [header, claims].map(|part| coded(part.to_string().as_bytes()));
        let payload = format!("{header}.{claims}");
        let signature = coded(&self.sign(payload.as_bytes()));
        format!("{payload}.{signature}")
    }

    fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        let mut openssl = Command::new("openssl");
        openssl.args(["dgst", "-sha256", "-sign", "key.pem"]);
        openssl.current_dir(self.dir.path());
        let openssl = openssl.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut openssl = openssl.spawn().unwrap();
        openssl.stdin.take().unwrap().write_all(bytes).unwrap();
        let output = openssl.wait_with_output().unwrap();
        assert!(output.status.success(), "openssl dgst: {}", output.status);
        output.stdout
    }
}

/// What of a scope, `repository:NAME:ACTIONS`, is granted.
fn granted(user: &str, scope: &str) -> Option<Value> {
    let (kind, rest) = scope.split_once(':')?;
    let (name, actions) = rest.rsplit_once(':')?;
    let may = |action: &&str| user == USER || (*action == "pull" && name.starts_with(PUBLIC));
    let actions: Vec<&str> = actions.split(',').filter(may).collect();
    Some(json!({"type": kind, "name": name, "actions": actions}))
}
