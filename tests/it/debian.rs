//! Debian's docker-registry with the settings that a test needs, and keys made by openssl.

use std::{
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use imgbuild::probe::free_port;
use tempfile::TempDir;

use crate::support::run;

/// For `openssl`: a certificate that signs itself unless told otherwise; `-newkey` and what follows
/// it come next.
pub const NEW: [&str; 3] = ["req", "-x509", "-nodes"];

/// A registry, until this is dropped.
pub struct Registry {
    /// `127.0.0.1:PORT`.
    pub address: String,
    server: Child,
    _dir: TempDir,
}

/// Lines of a registry's settings (distribution, "Configuring a registry").
#[derive(Clone, Default)]
pub struct Settings {
    /// Fields of `http`, each with a comma before it.
    pub http: String,
    /// Further sections.
    pub more: String,
}

impl Registry {
    /// Starts one at a port that is free.
    pub fn start(settings: &Settings) -> Self {
        // Another test may take the port that was just free.
        let started = (0..10).find_map(|_| Self::start_at_a_free_port(settings));
        started.expect("docker-registry ends as soon as it is started, ten times")
    }

    fn start_at_a_free_port(settings: &Settings) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let address = format!("127.0.0.1:{}", free_port().unwrap());
        let data = dir.path().join("data");
        let Settings { http, more } = settings;
        let config = format!(
            "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: \"{}\"}}}}\n\
             http: {{addr: \"{address}\", secret: s{http}}}\n{more}\n",
            data.display()
        );
        let file = dir.path().join("registry.yml");
        std::fs::write(&file, config).unwrap();
        let mut server = Command::new("docker-registry");
        // Variables that begin with REGISTRY are settings of its own.
        server.env_clear().arg("serve").arg(file);
        let server = server.stdout(Stdio::null()).stderr(Stdio::null());
        let mut registry = Self {
            server: server.spawn().unwrap(),
            address,
            _dir: dir,
        };
        loop {
            let answers = TcpStream::connect(&registry.address).is_ok();
            match registry.server.try_wait().unwrap() {
                Some(_) => return None,
                None if answers => return Some(registry),
                None => thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }
}

/// Runs openssl in a folder.
pub fn openssl(dir: &Path, args: &[&str]) {
    let mut openssl = Command::new("openssl");
    run(openssl.args(args).current_dir(dir).stderr(Stdio::null()));
}
