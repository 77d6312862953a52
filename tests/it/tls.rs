//! Registries whose certificate only the user trusts, and that want one of the user.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::{
    debian::{NEW, Registry, Settings, openssl},
    mini::{command, env},
    support::{Output, Project, channel, run},
};

const KEY: [&str; 4] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];

/// `ca.crt`, and what it signed: `server.crt` and `client.cert`, each with its `.key`.
struct Authority {
    dir: TempDir,
}

impl Authority {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let files = ["-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.crt"];
        openssl(dir.path(), &[&NEW[..], &KEY, &files].concat());
        let authority = Self { dir };
        authority.sign("server.crt", "server.key");
        authority.sign("client.cert", "client.key");
        authority
    }

    fn sign(&self, certificate: &str, key: &str) {
        let files = ["-subj", "/CN=imgbuild", "-keyout", key, "-out", certificate];
        let signed = ["-CA", "ca.crt", "-CAkey", "ca.key"];
        let names = [
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ];
        openssl(
            self.dir.path(),
            &[&NEW[..], &KEY, &files, &signed, &names].concat(),
        );
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// For a registry on TLS, with further fields of it.
    fn settings(&self, more: &str) -> Settings {
        let [certificate, key] = ["server.crt", "server.key"].map(|name| self.path(name));
        let http = format!(
            ", tls: {{certificate: \"{}\", key: \"{}\"{more}}}",
            certificate.display(),
            key.display()
        );
        Settings {
            http,
            ..Settings::default()
        }
    }

    fn copy(&self, names: &[&str], to: &Path) {
        fs::create_dir_all(to).unwrap();
        for name in names {
            fs::copy(self.path(name), to.join(name)).unwrap();
        }
    }
}

/// An image in the store under a registry's name, and where podman has the registry's certificates.
fn small(registry: &Registry) -> (Project, String, PathBuf) {
    let project = Project::new(&env(channel(), &["hello-demo=1.0"]));
    let name = format!("{}/tls/app:1", registry.address);
    project.ok(&["build", "env.yml", "--base", "scratch", "-t", &name]);
    let trusted = ".config/containers/certs.d";
    let trusted = project.home().join(trusted).join(&registry.address);
    (project, name, trusted)
}

fn push(project: &Project, name: &str) -> Output {
    project.output(&mut command(project, &["push", name]))
}

/// The digest that another tool sees with the same certificates.
fn inspect(name: &str, certificates: &Path) -> String {
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["inspect", "--format", "{{.Digest}}", "--cert-dir"]);
    let digest = run(skopeo.arg(certificates).arg(format!("docker://{name}")));
    digest.trim().to_owned()
}

#[test]
fn a_registrys_own_ca_is_trusted_where_docker_and_podman_have_it() {
    let authority = Authority::new();
    let registry = Registry::start(&authority.settings(""));
    let (project, name, trusted) = small(&registry);
    // Without a certificate, this machine's registries are spoken to in plain HTTP.
    push(&project, &name).expect(3);

    // Another authority, of the same name.
    Authority::new().copy(&["ca.crt"], &trusted);
    let refused = push(&project, &name);
    refused.expect(3);
    assert!(refused.stderr.contains("certs.d"), "{}", refused.stderr);
    fs::write(trusted.join("ca.crt"), "no certificate").unwrap();
    let broken = push(&project, &name);
    broken.expect(3);
    assert!(broken.stderr.contains("ca.crt"), "{}", broken.stderr);

    authority.copy(&["ca.crt"], &trusted);
    let pushed = push(&project, &name);
    pushed.expect(0);
    assert_eq!(inspect(&name, &trusted), pushed.digest());
    let base = ["build", "env.yml", "--base", &name, "-t", "over:1"];
    project.ok(&base);
}

#[test]
fn a_registry_that_wants_a_certificate_is_shown_the_users() {
    let authority = Authority::new();
    let ca = authority.path("ca.crt");
    let wanted = format!(", clientcas: [\"{}\"]", ca.display());
    let registry = Registry::start(&authority.settings(&wanted));
    let (project, name, trusted) = small(&registry);
    let base = ["build", "env.yml", "--base", &name, "-t", "over:1"];
    let check = ["auth", "check", "--push", &name];

    // Nothing to show, and what another authority signed.
    authority.copy(&["ca.crt"], &trusted);
    let place = format!("certs.d/{}/client.cert and client.key", registry.address);
    for round in ["no certificate", "another's"] {
        for args in [&["push", &name][..], &base, &check] {
            let out = project.imgbuild(args);
            out.expect(3);
            let hints = out.stderr.lines().filter(|line| line.contains("hint: "));
            assert_eq!(hints.count(), 1, "{round}: {}", out.stderr);
            assert!(out.stderr.contains(&place), "{round}: {}", out.stderr);
        }
        Authority::new().copy(&["client.cert", "client.key"], &trusted);
    }

    authority.copy(&["client.cert", "client.key"], &trusted);
    let pushed = push(&project, &name);
    pushed.expect(0);
    assert_eq!(inspect(&name, &trusted), pushed.digest());
    let out = project.ok(&check);
    assert!(
        out.stdout.ends_with("push        granted\n"),
        "{}",
        out.stdout
    );
    // On a machine that has nothing of the image.
    let (elsewhere, ..) = small(&registry);
    let home = elsewhere.home().join(".config/containers/certs.d");
    let home = home.join(&registry.address);
    authority.copy(&["ca.crt", "client.cert", "client.key"], &home);
    fs::remove_dir_all(&elsewhere.cache).unwrap();
    elsewhere.ok(&base);
    fs::remove_file(home.join("client.key")).unwrap();
    let keyless = elsewhere.imgbuild(&check);
    keyless.expect(3);
    assert!(keyless.stderr.contains("there is no"), "{}", keyless.stderr);
}

#[test]
fn attestations_go_over_tls() {
    let authority = Authority::new();
    let registry = Registry::start(&authority.settings(""));
    let (project, name, trusted) = small(&registry);
    authority.copy(&["ca.crt"], &trusted);
    let known = project.ok(&["sbom", &name]).stdout;
    for form in ["referrers", "index"] {
        let attached = ["--sbom", "--provenance", "--attach-as", form];
        let to = name.replace("app", form);
        project.ok(&[&["push", &name, &to][..], &attached].concat());
        // On a machine that has nothing of the image.
        let elsewhere = Project::new("");
        let home = elsewhere.home().join(".config/containers/certs.d");
        authority.copy(&["ca.crt"], &home.join(&registry.address));
        let found = elsewhere.ok(&["sbom", &to]);
        assert_eq!(found.stdout, known, "{form}: {}", found.stderr);
    }
}
