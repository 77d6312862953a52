//! What podman, skopeo and Docker make of what was pushed.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
};

use tempfile::TempDir;

use crate::{
    mini::{base, env, read_json, write_json},
    platforms,
    support::{
        Codec, Image, Project, channel, fixture, run, statements, temp_dir, validate_layout,
    },
};

const PROGRAM: &str = "import platform; print(platform.python_version_tuple()[:2])";
const SAID: &str = "('3', '11')\n";

/// podman with a store of its own, removed at the end.
struct Podman {
    dir: TempDir,
}

impl Podman {
    fn new() -> Self {
        let dir = temp_dir();
        // Limits of its own, which podman could only raise; locks that no other podman sees; and
        // crun, which Debian's podman prefers, refuses hybrid cgroups.
        let settings = "[containers]\nlog_driver = \"k8s-file\"\n\
            default_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
            [engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n\
            lock_type = \"file\"\n";
        fs::write(dir.path().join("containers.conf"), settings).unwrap();
        Self { dir }
    }

    fn command(&self, args: &[&str]) -> Command {
        let at = |name: &str| self.dir.path().join(name);
        let mut command = as_root("env");
        command.args(["-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]);
        command.arg(format!("HOME={}", self.dir.path().display()));
        let settings = at("containers.conf");
        command.arg(format!("CONTAINERS_CONF={}", settings.display()));
        command.args(["podman", "--storage-driver", "overlay"]);
        command.arg("--root").arg(at("root"));
        command.arg("--runroot").arg(at("run"));
        command.arg("--tmpdir").arg(at("tmp"));
        command.args(args);
        command
    }

    fn run(&self, args: &[&str]) -> String {
        run(&mut self.command(args))
    }

    fn pull(&self, reference: &str, more: &[&str]) {
        let pull = ["pull", "--quiet", "--tls-verify=false"];
        self.run(&[&pull, more, &[reference]].concat());
    }

    /// Pulls an image and runs Python in it.
    fn runs(&self, reference: &str) {
        self.pull(reference, &[]);
        let container = ["run", "--rm", "--network", "none", reference];
        let said = self.run(&[&container[..], &["python", "-c", PROGRAM]].concat());
        assert_eq!(said, SAID, "{reference}");
    }

    /// What an image is, in the words of a Go template.
    fn told(&self, reference: &str, template: &str) -> String {
        let told = self.run(&["image", "inspect", "--format", template, reference]);
        told.trim().to_owned()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // What a failed test left, and a mount of its own store that podman does not undo.
        let _ = self.command(&["rm", "--all", "--force"]).output();
        let own = self.dir.path().join("root/overlay");
        let _ = as_root("umount").arg("-l").arg(own).output();
        // They are root's, and this process may be another's.
        let stores = ["root", "run", "tmp"].map(|name| self.dir.path().join(name));
        let _ = as_root("rm").arg("-rf").args(stores).output();
    }
}

/// podman without root needs more than Debian's package of it.
fn as_root(program: &str) -> Command {
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["-n", program]);
    command
}

/// Copies what a name stands for out of a registry, all platforms of it, and checks every rule of
/// images.
pub fn copied(reference: &str, dest: &Path) -> Vec<Image> {
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["copy", "--quiet", "--insecure-policy", "--multi-arch=all"]);
    skopeo.args(["--src-tls-verify=false", &format!("docker://{reference}")]);
    run(skopeo.arg(format!("oci:{}:1", dest.display())));
    // Older skopeo leaves out what the specification only recommends.
    let path = dest.join("index.json");
    let mut json = read_json(&path);
    json["mediaType"] = "application/vnd.oci.image.index.v1+json".into();
    write_json(&path, &json);
    validate_layout(dest)
}

/// The digest of what a name stands for, as skopeo says it.
fn inspect(reference: &str) -> String {
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["inspect", "--tls-verify=false", "--format", "{{.Digest}}"]);
    let digest = run(skopeo.arg(format!("docker://{reference}")));
    digest.trim().to_owned()
}

/// A name that no other test uses.
pub fn name(tag: &str) -> String {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let registry = fixture("IMGBUILD_TEST_REGISTRY");
    let process = std::process::id();
    format!("{}/peers/{process}-{number}:{tag}", registry.display())
}

fn project() -> Project {
    Project::new(&env(channel(), &["python=3.11"]))
}

#[test]
fn an_image_of_either_codec_is_read_and_runs() {
    let project = project();
    for (flag, codec) in [("zstd", Codec::Zstd), ("gzip", Codec::Gzip)] {
        // Both have one config, and a podman that has it keeps the digest that it came with first.
        let podman = Podman::new();
        let name = name(flag);
        let args = ["build", "env.yml", "--base", &base(), "-t", &name, "--push"];
        let out = project.ok(&[&args[..], &["--compression", flag]].concat());
        let images = copied(&name, &project.path(flag));
        assert_eq!(images.len(), 1);
        assert_eq!(images[0].digest, out.digest());
        assert!(images[0].ours().all(|layer| layer.codec == codec), "{flag}");
        assert_eq!(inspect(&name), out.digest());
        podman.runs(&name);
        assert_eq!(podman.told(&name, "{{.Digest}}"), out.digest());
        // Docker before 23 pulls no zstd.
        if codec == Codec::Gzip {
            let docker = |args: &[&str]| run(Command::new("docker").args(args));
            docker(&["pull", "--quiet", &name]);
            let container = ["run", "--rm", "--network", "none", &name];
            let said = docker(&[&container[..], &["python", "-c", PROGRAM]].concat());
            docker(&["image", "rm", "--force", &name]);
            assert_eq!(said, SAID);
        }
    }
}

#[test]
fn podman_finds_each_platform_in_an_index() {
    let (project, podman) = (project(), Podman::new());
    let base = platforms::Base::new();
    let name = name("1");
    let build = ["build", "env.yml", "--platform", platforms::BOTH, "--push"];
    let out = project.ok(&[&build[..], &["--base", &base.name(), "-t", &name]].concat());
    assert_eq!(inspect(&name), out.digest());
    let images = copied(&name, &project.path("copied"));
    podman.runs(&name);
    let machine = "{{.Os}}/{{.Architecture}}";
    assert_eq!(podman.told(&name, machine), "linux/amd64");
    let config = images[0].manifest["config"]["digest"].as_str().unwrap();
    assert_eq!(format!("sha256:{}", podman.told(&name, "{{.Id}}")), config);
    podman.pull(&name, &["--platform", "linux/arm64/v8"]);
    assert_eq!(podman.told(&name, machine), "linux/arm64");
    let config = images[1].manifest["config"]["digest"].as_str().unwrap();
    assert_eq!(format!("sha256:{}", podman.told(&name, "{{.Id}}")), config);
}

#[test]
fn attestations_are_in_nobodys_way() {
    let (project, podman) = (project(), Podman::new());
    for (form, count) in [("referrers", 0), ("index", 2)] {
        let name = name(form);
        let args = ["build", "env.yml", "--base", &base(), "-t", &name, "--push"];
        let attested = ["--sbom", "--provenance", "--attach-as", form];
        let out = project.ok(&[&args[..], &attested].concat());
        let dest = project.path(form);
        let images = copied(&name, &dest);
        assert_eq!(images.len(), 1);
        assert_eq!(images[0].digest, out.digest());
        assert_eq!(statements(&dest).len(), count, "{form}");
        assert_eq!(inspect(&name) == out.digest(), count == 0, "{form}");
        podman.runs(&name);
    }
}
