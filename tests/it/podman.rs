//! Podman behind Docker's API: Debian's, with a store and a socket of its own.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use crate::{
    probe_attach::{build, project},
    support::{Project, run, source},
};

const IMAGE: &str = "localhost/it-podman:1";
/// What a service may give to containers is what it has itself, and runc is what works under old cgroups as well.
const SETTINGS: &str = r#"[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"#;

/// A service that ends, with its store, when this is dropped.
struct Podman {
    folder: tempfile::TempDir,
    service: Child,
}

impl Podman {
    fn start() -> Self {
        run(Command::new(source("tests/support/need.sh")).args(["podman", "catatonit", "runc"]));
        // Not the build's folder: a socket's path has to be short.
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("containers.conf"), SETTINGS).unwrap();
        let socket = folder.path().join("socket");
        let address = format!("unix://{}", socket.display());
        let service = command(folder.path())
            .args(["system", "service", "--time=0", &address])
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut podman = Self { folder, service };
        for _ in 0..1200 {
            // The socket's file is there before anybody listens.
            if UnixStream::connect(&socket).is_ok() {
                return podman;
            }
            if podman.service.try_wait().unwrap().is_some() {
                break;
            }
            thread::sleep(Duration::from_millis(100));
        }
        let log = fs::read_to_string(podman.folder.path().join("log")).unwrap();
        panic!("podman does not listen: {log}");
    }

    fn host(&self) -> String {
        format!("unix://{}", self.folder.path().join("socket").display())
    }

    fn run(&self, args: &[&str]) -> String {
        run(command(self.folder.path()).args(args))
    }

    /// What the image's code prints.
    fn says(&self) -> String {
        let python = ["python", "/workspace/train.py"];
        self.run(&[&["run", "--rm", "--network", "none", IMAGE], &python[..]].concat())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.service.kill();
        let _ = self.service.wait();
        // Its layers may belong to other users than this one.
        let _ = command(self.folder.path())
            .args(["rmi", "--all", "--force"])
            .output();
    }
}

fn command(folder: &Path) -> Command {
    let mut command = Command::new("podman");
    command
        .env("CONTAINERS_CONF", folder.join("containers.conf"))
        .arg("--root")
        .arg(folder.join("root"))
        .arg("--runroot")
        .arg(folder.join("run"));
    command
}

fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn podman_loads_and_probes() {
    let podman = Podman::start();
    let project = project().with_env("DOCKER_HOST", podman.host());
    project.write("src/train.py", "print('first')\n");
    let load = |stand_in: &str| build(&project, IMAGE, stand_in, &["--load"]);
    let first = load("passes");
    says(
        &first.stderr,
        &["Loaded localhost/it-podman:1 into Podman "],
    );
    assert!(!first.stderr.contains(" sent"), "{}", first.stderr);
    assert_eq!(podman.says(), "first\n");
    let again = load("passes");
    says(&again.stderr, &["holds localhost/it-podman:1 already"]);

    // Only what changed is sent, and all of it is there.
    project.write("src/train.py", "import torch\nprint('second')\n");
    let changed = load("passes");
    says(&changed.stderr, &["kB of ", " sent"]);
    assert_eq!(podman.says(), "second\n");

    probes(&project);
    load("fails");
    let failed = project.imgbuild(&["probe", IMAGE, "--cpu", "--nproc", "1"]);
    failed.expect(4);
    says(&failed.stdout, &["[mismatch]"]);
    assert_eq!(podman.run(&["ps", "--all", "--quiet"]), "");
}

fn probes(project: &Project) {
    let probe = ["probe", IMAGE, "--cpu", "--nproc", "2", "--format", "json"];
    let report = project.ok(&probe);
    let report: serde_json::Value = serde_json::from_str(&report.stdout).unwrap();
    assert_eq!(report["verdict"], "PASS", "{report}");
    assert_eq!(report["proves"], "software-path");
    let told = report["daemon"]["address"].as_str().unwrap();
    says(told, &["/socket (from DOCKER_HOST)"]);
    let gpus = project.imgbuild(&["probe", IMAGE, "--gpus", "1"]);
    gpus.expect(5);
    says(
        &gpus.stderr,
        &[
            "[no-runtime]",
            "podman run --rm --device nvidia.com/gpu=all",
        ],
    );
}
