//! `imgbuild probe --emit`: a real slurmctld with two slurmds and Debian's torch run what it writes, `--read` judges it;
//! Kubernetes documents are held against published schemas.

mod kubernetes;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use imgbuild::probe::free_port;

use crate::support::{Output, Project, run, source, write_program};

const NOTE: &str = "CPU (gloo): proves the software path, not the GPUs";
const EMIT: [&str; 9] = [
    "probe",
    "--runtime",
    "host",
    "--emit",
    "slurm",
    "--cpu",
    "--nproc",
    "2",
    "--python",
];

/// munged, slurmctld and two slurmds on this machine; they end when this is dropped.
struct Slurm {
    folder: tempfile::TempDir,
}

impl Slurm {
    fn start() -> Self {
        run(Command::new(source("tests/support/need.sh")).args([
            "slurmctld",
            "slurmd",
            "munged",
            "sbatch",
            "torchrun",
        ]));
        // Not the build's folder: a socket's path has to be short.
        let slurm = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let root = slurm.root();
        for name in ["state", "n1", "n2", "munge"] {
            fs::create_dir(root.join(name)).unwrap();
        }
        fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
        let at = |name: &str| root.join(name).display().to_string();
        fs::set_permissions(at("munge"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(at("munge/key"), [7; 1024]).unwrap();
        fs::set_permissions(at("munge/key"), fs::Permissions::from_mode(0o600)).unwrap();
        let host = run(Command::new("hostname").arg("-s"));
        fs::write(at("slurm.conf"), config(root, host.trim())).unwrap();
        run(Command::new("/usr/sbin/munged").args([
            "--force".to_owned(),
            format!("--socket={}", at("munge/socket")),
            format!("--key-file={}", at("munge/key")),
            format!("--pid-file={}", at("munge.pid")),
            format!("--log-file={}", at("munge/log")),
            format!("--seed-file={}", at("munge/seed")),
        ]));
        run(&mut slurm.command("/usr/sbin/slurmctld"));
        for node in ["n1", "n2"] {
            run(slurm.command("/usr/sbin/slurmd").args(["-N", node]));
        }
        slurm
    }

    fn root(&self) -> &Path {
        self.folder.path()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("SLURM_CONF", self.root().join("slurm.conf"));
        command
    }

    /// Submits the project's job; ends when the job does.
    fn submit(&self, project: &Project, variables: &[(&str, &str)]) -> Child {
        self.command("sbatch")
            .args(["--parsable", "--wait", "probe.sbatch"])
            .current_dir(project.path("."))
            .env("TMPDIR", project.path("tmp"))
            .env("PROJECT", project.path("."))
            .envs(variables.iter().copied())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        for name in ["n1", "n2", "ctld", "munge"] {
            if let Ok(pid) = fs::read_to_string(self.root().join(format!("{name}.pid"))) {
                let _ = Command::new("kill").arg(pid.trim()).status();
            }
        }
    }
}

fn config(root: &Path, host: &str) -> String {
    let mut ports = BTreeSet::new();
    while ports.len() < 3 {
        ports.insert(free_port().unwrap());
    }
    let ports: Vec<u16> = ports.into_iter().collect();
    let (root, main) = (root.display(), ports[0]);
    let user = run(Command::new("id").arg("-un"));
    let user = user.trim();
    let mut text = format!(
        "ClusterName=t\nSlurmctldHost={host}(127.0.0.1)\nSlurmctldPort={main}\nSlurmUser={user}\nSlurmdUser={user}\n\
         AuthType=auth/munge\nAuthInfo=socket={root}/munge/socket\nCredType=cred/munge\n\
         StateSaveLocation={root}/state\nSlurmdSpoolDir={root}/%n\nSlurmctldPidFile={root}/ctld.pid\n\
         SlurmdPidFile={root}/%n.pid\nSlurmctldLogFile={root}/ctld.log\nSlurmdLogFile={root}/%n.log\n\
         ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nSelectType=select/cons_tres\n\
         MpiDefault=none\nReturnToService=2\nSlurmdParameters=config_overrides\n\
         PartitionName=p Nodes=ALL Default=YES State=UP\n"
    );
    for n in [1, 2] {
        text.push_str(&format!(
            "NodeName=n{n} NodeHostname={host} NodeAddr=127.0.0.1 Port={} CPUs=8\n",
            ports[n]
        ));
    }
    text
}

/// A project whose `python` runs Debian's torch, with a job for it.
fn project(flags: &[&str]) -> Project {
    let project = Project::new("name: x\ndependencies: []\n");
    let torch = source("tests/support/debian_torch.py");
    let python = format!(
        "#!/bin/sh\nDEBIAN_TORCH=$0 exec /usr/bin/python3 {} \"$@\"\n",
        torch.display()
    );
    write_program(&project.path("python"), &python);
    fs::create_dir(project.path("tmp")).unwrap();
    let python = project.path("python").display().to_string();
    project.ok(&[&EMIT[..], &[&python, "-o", "probe.sbatch"], flags].concat());
    project
}

/// The only job's folder, once the batch script has made it.
fn job_folder(project: &Project) -> PathBuf {
    for _ in 0..600 {
        let mut entries = fs::read_dir(project.path("."))
            .unwrap()
            .map(|entry| entry.unwrap().path());
        if let Some(folder) = entries.find(|path| {
            path.is_dir()
                && path
                    .file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with("imgbuild-probe-"))
        }) {
            return folder;
        }
        thread::sleep(Duration::from_millis(100));
    }
    panic!("the job did not begin");
}

fn read(project: &Project, flags: &[&str]) -> Output {
    let folder = job_folder(project).display().to_string();
    project.imgbuild(&[&["probe", "--read", &folder], flags].concat())
}

/// The process of a rank of the project's job.
fn rank(project: &Project, rank: u32) -> String {
    let wanted = [
        format!("RANK={rank}"),
        format!("PROJECT={}", project.path(".").display()),
    ];
    let holds = |pid: &String| {
        let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let (environment, words) = (read("environ"), read("cmdline"));
        let variables: Vec<_> = environment.split(|byte| *byte == 0).collect();
        wanted
            .iter()
            .all(|want| variables.contains(&want.as_bytes()))
            && String::from_utf8_lossy(&words).contains("ddp_probe.py")
    };
    let pids: Vec<String> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(holds)
        .collect();
    // Not its DataLoader workers and other children.
    let parent = |pid: &String| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("PPid:"));
        line.unwrap_or_default().trim().to_owned()
    };
    let mut first = pids.iter().filter(|pid| !pids.contains(&parent(pid)));
    first.next().expect("the rank is gone").clone()
}

#[test]
fn slurm_runs_the_job_on_two_nodes() {
    let slurm = Slurm::start();
    let here = [("IMGBUILD_PROBE_ADDRESS", "127.0.0.1")];

    let project_of_pass = project(&[]);
    let script = fs::read_to_string(project_of_pass.path("probe.sbatch")).unwrap();
    assert!(script.contains(NOTE), "{script}");
    slurm.submit(&project_of_pass, &here).wait().unwrap();
    let passed = read(
        &project_of_pass,
        &["--report", "report.html", "--report", "report.xml"],
    );
    passed.expect(0);
    assert!(
        passed
            .stdout
            .contains(&format!("PASS on {NOTE} (4 ranks, gloo")),
        "{}",
        passed.stdout
    );
    assert!(
        passed.stdout.contains("slurm: the nodes' Python on n1, n2"),
        "{}",
        passed.stdout
    );
    assert!(
        passed.stdout.contains("\n   3  n2 cpu"),
        "{}",
        passed.stdout
    );
    for report in ["report.html", "report.xml"] {
        let text = fs::read_to_string(project_of_pass.path(report)).unwrap();
        assert!(text.contains(NOTE), "{report}: {text}");
    }
    let left: Vec<_> = fs::read_dir(project_of_pass.path("tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");

    killed_rank(&slurm, &here);
    nodes_that_do_not_meet(&slurm);
}

/// A rank of the second node is killed in the middle of the job.
fn killed_rank(slurm: &Slurm, variables: &[(&str, &str)]) {
    let project = project(&[]);
    let mut job = slurm.submit(&project, variables);
    let log = job_folder(&project).join("node-0.log");
    let begun = |word: &str| fs::read_to_string(&log).unwrap_or_default().contains(word);
    while !begun("all_reduce ") {
        assert!(
            job.try_wait().unwrap().is_none(),
            "the job ended before a rank was killed"
        );
        thread::sleep(Duration::from_millis(50));
    }
    // The job has not ended: that is neither a pass nor a failure.
    let early = read(&project, &[]);
    early.expect(5);
    assert!(
        early.stderr.contains("0 of 2 nodes have ended"),
        "{}",
        early.stderr
    );
    run(Command::new("kill").args(["-9", &rank(&project, 3)]));
    assert!(!job.wait().unwrap().success());
    let failed = read(&project, &["--format", "json"]);
    failed.expect(4);
    let report: serde_json::Value = serde_json::from_str(&failed.stdout).unwrap();
    assert_eq!(report["verdict"], "FAIL", "{report}");
    assert_eq!(report["note"], NOTE);
    assert_eq!(report["failure"]["rank"], 3, "{report}");
    assert_eq!(report["failure"]["code"], "rank-missing", "{report}");
    // Its own last line names the step, not where the others stopped.
    let lines = report["last_lines"]["3"].as_array().unwrap();
    let step = lines.last().unwrap().as_str().unwrap();
    let step = step.strip_prefix("begins ").unwrap();
    assert_eq!(report["failure"]["step"], step, "{report}");
    let text = read(&project, &[]).stdout;
    assert!(
        text.contains(&format!("rank 3 on n2 in {step}: it was killed")),
        "{text}"
    );
    assert!(text.contains("last lines of rank 3:\n"), "{text}");
}

/// The second node looks for the first under a name that nobody has.
fn nodes_that_do_not_meet(slurm: &Slurm) {
    let project = project(&["--timeout", "3"]);
    let nowhere = [("IMGBUILD_PROBE_ADDRESS", "nowhere.invalid")];
    assert!(!slurm.submit(&project, &nowhere).wait().unwrap().success());
    let failed = read(&project, &[]);
    failed.expect(4);
    assert!(
        failed.stdout.contains("does not resolve: nowhere.invalid"),
        "{}",
        failed.stdout
    );
    assert!(failed.stdout.contains("[rendezvous]"), "{}", failed.stdout);
}
