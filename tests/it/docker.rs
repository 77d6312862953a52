//! A real Docker daemon: loading, running, the daemon as a base, and what is said without one.

pub(crate) mod delta;
mod faults;
pub(crate) mod parts;
mod reports;
mod saved;

use std::process::Command;

use super::support::{Project, env_file, fixture, run};

const CRAFTED: &str = "name: docker-test
channels: ['@CHANNEL@']
dependencies: [python=3.11, activate-demo, hello-demo=1.0]
";

fn docker(args: &[&str]) -> String {
    let mut command = Command::new("docker");
    command.env("DOCKER_HOST", fixture("DOCKER_HOST"));
    run(command.args(args))
}

/// What the packages of an environment are, by the environment's own records.
const LIST: &str = "import glob, json, sys
for path in sorted(glob.glob(sys.prefix + '/conda-meta/*.json')):
    record = json.load(open(path))
    print(record['url'], record['sha256'])
";

/// Runs a command in a container without a network, as the tests' daemon has none.
fn in_container(image: &str, command: &[&str]) -> String {
    let run = ["run", "--rm", "--network", "none", image];
    docker(&[&run, command].concat())
}

fn project(env: &str) -> Project {
    Project::new(env).with_env("DOCKER_HOST", fixture("DOCKER_HOST"))
}

fn base() -> String {
    format!("oci:{}", fixture("IMGBUILD_TEST_BASE").display())
}

#[test]
fn what_is_built_runs() {
    let project = project(CRAFTED);
    let build = ["build", "env.yml", "-t", "it-docker:run", "--base", &base()];
    project.write("src/train.py", "print('trains')\n");
    let with_code = [&build[..], &["--code", "src", "--load", "-e", "MODE=test"]].concat();
    let first = project.ok(&with_code);
    assert!(
        first.stderr.contains("Loaded it-docker:run into Docker"),
        "{}",
        first.stderr
    );

    let seen = in_container(
        "it-docker:run",
        &[
            "python",
            "-c",
            "import os, sys, ssl, sqlite3; print(sys.prefix, os.getcwd(), os.environ['MODE'], os.environ['ACTIVATE_DEMO'])",
        ],
    );
    assert_eq!(seen.trim(), "/opt/conda /workspace test on in /opt/conda");
    assert_eq!(
        in_container("it-docker:run", &["python", "train.py"]).trim(),
        "trains"
    );

    let mut listed: Vec<_> = in_container("it-docker:run", &["python", "-c", LIST])
        .lines()
        .map(str::to_owned)
        .collect();
    listed.sort();
    assert_eq!(listed, locked(&project));

    let history = docker(&[
        "history",
        "--no-trunc",
        "--format",
        "{{.CreatedBy}}",
        "it-docker:run",
    ]);
    let lines: Vec<&str> = history.lines().collect();
    assert_eq!(lines[0], "User code in /workspace");
    assert!(lines[1].starts_with("Environment state: "), "{history}");
    assert!(
        history.contains("\nMiniconda base: python 3.11"),
        "{history}"
    );
    assert!(history.contains("hello-demo 1.0"), "{history}");

    let again = project.ok(&with_code);
    assert_eq!(first.digest(), again.digest());
    assert!(
        again.stderr.contains("holds it-docker:run already"),
        "{}",
        again.stderr
    );
}

#[test]
fn user_entrypoint_and_command() {
    let project = project(CRAFTED);
    project.ok(&[
        "build",
        "env.yml",
        "-t",
        "it-docker:entry",
        "--base",
        &base(),
        "--load",
        "--user",
        "1234:1234",
        "--workdir",
        "/tmp",
        "--entrypoint",
        "python -c",
        "--cmd",
        "'import os; print(os.getuid(), os.getcwd(), os.environ[\"ACTIVATE_DEMO\"])'",
    ]);
    // The activation wrapper stands before the user's own entrypoint.
    assert_eq!(
        in_container("it-docker:entry", &[]).trim(),
        "1234 /tmp on in /opt/conda"
    );
    assert_eq!(in_container("it-docker:entry", &["print(2)"]).trim(), "2");
}

#[test]
fn the_daemon_is_a_base() {
    let project = project(CRAFTED);
    project.ok(&[
        "build",
        "env.yml",
        "-t",
        "it-docker:base",
        "--base",
        &base(),
        "--load",
    ]);
    let on_top = project.ok(&[
        "build",
        "env.yml",
        "-t",
        "it-docker:top",
        "--base",
        "docker-daemon:it-docker:base",
        "--prefix",
        "/srv/env",
        "--load",
    ]);
    assert_eq!(
        in_container(
            "it-docker:top",
            &["python", "-c", "import sys; print(sys.prefix)"]
        )
        .trim(),
        "/srv/env"
    );
    assert_eq!(
        in_container(
            "it-docker:top",
            &[
                "/opt/conda/bin/python",
                "-c",
                "import sys; print(sys.prefix)"
            ]
        )
        .trim(),
        "/opt/conda"
    );
    // Over what Docker gives back the digest is the same again.
    docker(&["rmi", "it-docker:top"]);
    let again = project.ok(&[
        "build",
        "env.yml",
        "--base",
        "docker-daemon:it-docker:base",
        "--prefix",
        "/srv/env",
    ]);
    assert_eq!(on_top.digest(), again.digest());

    let absent = project.imgbuild(&[
        "build",
        "env.yml",
        "--base",
        "docker-daemon:it-docker:no-such",
    ]);
    absent.expect(3);
    assert!(
        absent.stderr.contains("docker pull it-docker:no-such"),
        "{}",
        absent.stderr
    );
}

#[test]
fn docker_archives_load() {
    let project = project(CRAFTED);
    for kind in ["docker-archive", "oci-archive"] {
        let name = format!("it-docker:{kind}");
        let output = format!("type={kind},dest=image.tar");
        project.ok(&[
            "build",
            "env.yml",
            "-t",
            &name,
            "--base",
            &base(),
            "-o",
            &output,
        ]);
        if kind == "docker-archive" {
            let tar = project.path("image.tar");
            docker(&["load", "-i", tar.to_str().unwrap()]);
            assert_eq!(
                in_container(&name, &["python", "-c", "print(1)"]).trim(),
                "1"
            );
        }
    }
}

#[test]
fn without_a_daemon() {
    let socket = "/nonexistent/docker.sock";
    let project = Project::new(CRAFTED).with_env("DOCKER_HOST", format!("unix://{socket}"));
    let load = project.imgbuild(&[
        "build",
        "env.yml",
        "-t",
        "it-docker:x",
        "--base",
        &base(),
        "--load",
    ]);
    load.expect(3);
    let probe = project.imgbuild(&["probe", "it-docker:x", "--cpu"]);
    probe.expect(5);
    for output in [load, probe] {
        assert!(output.stderr.contains(socket), "{}", output.stderr);
        assert!(output.stderr.contains("DOCKER_HOST"), "{}", output.stderr);
    }
}

#[test]
fn a_denied_daemon() {
    // The socket of the tests' daemon is root's; a user outside its group may not use it.
    let project = project(CRAFTED);
    let host = fixture("DOCKER_HOST");
    let socket = host
        .to_str()
        .unwrap()
        .trim_start_matches("unix://")
        .to_owned();
    let binary = project.path("imgbuild");
    // By another process, so that it can be run.
    run(Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_imgbuild"))
        .arg(&binary));
    run(Command::new("chmod")
        .args(["-R", "a+rwX"])
        .arg(project.dir.path())
        .arg(project.home()));
    let open = project
        .dir
        .path()
        .ancestors()
        .take_while(|dir| dir.starts_with(env!("CARGO_TARGET_TMPDIR")));
    for dir in open.chain([project.home()]) {
        run(Command::new("chmod").arg("a+x").arg(dir));
    }
    let mut command = project.command("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    command.arg(&binary).args(["probe", "it-docker:x", "--cpu"]);
    let output = project.output(&mut command);
    output.expect(5);
    assert!(output.stderr.contains(&socket), "{}", output.stderr);
    assert!(output.stderr.contains("denied"), "{}", output.stderr);
}

#[test]
fn probes_that_cannot_start() {
    let project = project(CRAFTED);
    project.ok(&[
        "build",
        "env.yml",
        "-t",
        "it-docker:no-torch",
        "--base",
        &base(),
        "--load",
    ]);
    let cases: [(&[&str], &str); 4] = [
        (
            &["probe", "it-docker:no-torch", "--gpus", "2"],
            "[no-runtime]",
        ),
        (
            &["probe", "it-docker:never-built", "--cpu"],
            "it-docker:never-built",
        ),
        (
            &["probe", "it-docker:no-torch", "--cpu", "--nproc", "2"],
            "torch",
        ),
        (
            &[
                "build",
                "env.yml",
                "-t",
                "it-docker:no-torch",
                "--base",
                &base(),
                "--probe",
                "--cpu",
            ],
            "torch",
        ),
    ];
    for (args, word) in cases {
        let output = project.imgbuild(args);
        output.expect(5);
        assert!(output.stderr.contains(word), "{args:?}: {}", output.stderr);
    }
    // Nothing said means four GPUs.
    let plain = project.imgbuild(&["probe", "it-docker:no-torch"]);
    plain.expect(5);
    assert!(plain.stderr.contains("NVIDIA"), "{}", plain.stderr);
}

#[test]
fn the_whole_job_with_torch() {
    let project = project(&env_file("torch")).with_env("CONDA_OVERRIDE_CUDA", "13.2");
    let build = [
        "build",
        "env.yml",
        "-t",
        "it-docker:torch",
        "--base",
        &base(),
        "--load",
        "--probe",
        "--cpu",
        "--nproc",
        "2",
    ];
    let built = project.ok(&build);
    assert!(built.stdout.starts_with("sha256:"), "{}", built.stdout);
    assert!(
        built
            .stdout
            .contains("PASS on CPU (gloo): proves the software path, not the GPUs"),
        "{}",
        built.stdout
    );

    let probe = [
        "probe",
        "it-docker:torch",
        "--cpu",
        "--nproc",
        "4",
        "--format",
        "json",
        "--report",
        "report.html",
        "--report",
        "report.xml",
    ];
    let report: serde_json::Value = serde_json::from_str(&project.ok(&probe).stdout).unwrap();
    reports::report_files(&project);
    assert_eq!(report["verdict"], "PASS", "{report}");
    assert_eq!(report["proves"], "software-path");
    assert_eq!(
        report["note"],
        "CPU (gloo): proves the software path, not the GPUs"
    );
    let ranks = report["ranks"].as_array().unwrap();
    assert_eq!(ranks.len(), 4);
    for rank in ranks {
        assert_eq!(rank["ok"], true, "{rank}");
        assert_eq!(rank["params_sha256"], ranks[0]["params_sha256"]);
    }
    assert!(
        report["summary"]["torch"]
            .as_str()
            .unwrap()
            .starts_with("2."),
        "{report}"
    );

    let late = project.imgbuild(&[
        "probe",
        "it-docker:torch",
        "--cpu",
        "--nproc",
        "2",
        "--timeout",
        "3",
    ]);
    late.expect(4);
    assert!(late.stdout.contains("FAIL"), "{}", late.stdout);
    let small_shm = project.imgbuild(&[
        "probe",
        "it-docker:torch",
        "--cpu",
        "--nproc",
        "4",
        "--shm-size",
        "64m",
    ]);
    small_shm.expect(4);
    assert!(small_shm.stdout.contains("[shm]"), "{}", small_shm.stdout);
    // Four ranks share the machine's CPUs and a model too small to be worth it.
    let slow = project.imgbuild(&[
        "probe",
        "it-docker:torch",
        "--cpu",
        "--nproc",
        "4",
        "--min-efficiency",
        "100",
    ]);
    slow.expect(4);
    assert!(slow.stdout.contains("[slow-scaling]"), "{}", slow.stdout);
    reports::on_the_host();
    faults::a_container_out_of_memory(&project);
    faults::a_host_out_of_memory();
    faults::a_container_without_gpus();
    faults::a_library_that_is_not_there();
    assert_eq!(left_behind("it-docker:torch"), "");
    interrupted(&project);
    assert_eq!(left_behind("it-docker:torch"), "");
}

/// The packages of the project's lock: URL and sha256, sorted.
fn locked(project: &Project) -> Vec<String> {
    let text = std::fs::read_to_string(project.path("env.lock.yml")).unwrap();
    let lock: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
    let packages = lock["packages"].as_sequence().unwrap();
    let mut lines: Vec<String> = packages
        .iter()
        .map(|package| {
            let text = |key: &str| package[key].as_str().unwrap();
            format!("{} {}", text("conda"), text("sha256"))
        })
        .collect();
    lines.sort();
    lines
}

fn left_behind(image: &str) -> String {
    docker(&["ps", "-aq", "--filter", &format!("ancestor={image}")])
}

/// Ctrl-C while the ranks run: exit status 130, and the container is gone.
fn interrupted(project: &Project) {
    let mut command = project.command(env!("CARGO_BIN_EXE_imgbuild"));
    let mut child = command
        .args(["probe", "it-docker:torch", "--cpu", "--nproc", "2"])
        .spawn()
        .unwrap();
    while left_behind("it-docker:torch").is_empty() {
        assert!(
            child.try_wait().unwrap().is_none(),
            "the probe ended before it was stopped"
        );
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    run(Command::new("kill").args(["-INT", &child.id().to_string()]));
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
