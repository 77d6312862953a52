//! A registry whose certificate only the user trusts.

use std::{
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    mini::{command, env},
    support::{Project, channel, run},
};

/// Debian's docker-registry on TLS.
struct Registry {
    server: Child,
    address: String,
    dir: TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }
}

fn openssl(dir: &Path, args: &[&str]) {
    let mut openssl = Command::new("openssl");
    run(openssl.args(args).current_dir(dir).stderr(Stdio::null()));
}

/// `ca.crt`, and `server.crt` and `server.key` that it signed.
fn certificates(dir: &Path) {
    let new = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ];
    let ca = ["-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.crt"];
    openssl(dir, &[&new[..], &ca].concat());
    let server = [
        "-subj",
        "/CN=registry",
        "-keyout",
        "server.key",
        "-out",
        "server.crt",
    ];
    let signed = ["-CA", "ca.crt", "-CAkey", "ca.key"];
    let names = [
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ];
    openssl(dir, &[&new[..], &server, &signed, &names].concat());
}

fn start() -> Registry {
    // Another test may take the port that was just free.
    let started = (0..10).find_map(|_| start_at_a_free_port());
    started.expect("docker-registry ends as soon as it is started, ten times")
}

fn start_at_a_free_port() -> Option<Registry> {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let at = dir.path().display();
    let config = format!(
        "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\n\
         storage: {{filesystem: {{rootdirectory: \"{at}/data\"}}}}\n\
         http: {{addr: \"{address}\", secret: s, tls: {{certificate: \"{at}/server.crt\", key: \"{at}/server.key\"}}}}\n"
    );
    std::fs::write(dir.path().join("registry.yml"), config).unwrap();
    let mut server = Command::new("docker-registry");
    // Variables that begin with REGISTRY are settings of its own.
    server
        .env_clear()
        .arg("serve")
        .arg(dir.path().join("registry.yml"));
    let server = server.stdout(Stdio::null()).stderr(Stdio::null());
    let mut registry = Registry {
        server: server.spawn().unwrap(),
        address,
        dir,
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

#[test]
fn a_registrys_own_ca_is_trusted_where_docker_and_podman_have_it() {
    let registry = start();
    let project = Project::new(&env(channel(), &["hello-demo=1.0"]));
    let name = format!("{}/tls/app:1", registry.address);
    project.ok(&["build", "env.yml", "--base", "scratch", "-t", &name]);
    let push = || project.output(&mut command(&project, &["push", &name]));
    // Without a certificate, this machine's registries are spoken to in plain HTTP.
    push().expect(3);

    let trusted = project
        .home()
        .join(".config/containers/certs.d")
        .join(&registry.address);
    std::fs::create_dir_all(&trusted).unwrap();
    let ca = trusted.join("ca.crt");
    // Another authority, of the same name.
    let other = tempfile::tempdir().unwrap();
    certificates(other.path());
    std::fs::copy(other.path().join("ca.crt"), &ca).unwrap();
    let refused = push();
    refused.expect(3);
    assert!(refused.stderr.contains("certs.d"), "{}", refused.stderr);
    std::fs::write(&ca, "no certificate").unwrap();
    let broken = push();
    broken.expect(3);
    assert!(broken.stderr.contains("ca.crt"), "{}", broken.stderr);

    std::fs::copy(registry.dir.path().join("ca.crt"), &ca).unwrap();
    let pushed = push();
    pushed.expect(0);
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["inspect", "--format", "{{.Digest}}", "--cert-dir"]);
    let digest = run(skopeo.arg(&trusted).arg(format!("docker://{name}")));
    assert_eq!(digest.trim(), pushed.digest());
    let base = ["build", "env.yml", "--base", &name, "-t", "over:1"];
    project.ok(&base);
}
