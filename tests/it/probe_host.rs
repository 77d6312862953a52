//! `imgbuild probe --runtime host` with a real torch on CPUs, Debian's: what passes, and faults made here.

mod catalogue;
mod p2p;
mod processes;

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use processes::{assert_gone, come_past, descendants, past, second, signal, told};
use serde_json::Value;

use crate::support::{Project, fixture, run, source, write_program};

const NOTE: &str = "CPU (gloo): proves the software path, not the GPUs";
const REPORTS: [&str; 3] = ["report.html", "report.xml", "report.txt"];
/// A node's environment: what the rest of a run leaves in `tmp` would be a leak.
const TEMPORARY: &str = "tmp";

/// A project whose `python` runs Debian's torch.
fn project() -> Project {
    run(Command::new(source("tests/support/need.sh")).arg("torchrun"));
    let project = Project::new("name: x\ndependencies: []\n");
    let torchrun = source("tests/support/debian_torch.py");
    let python = format!(
        "#!/bin/sh\nexec /usr/bin/python3 {} \"$@\"\n",
        torchrun.display()
    );
    write_program(&project.path("python"), &python);
    fs::create_dir(project.path(TEMPORARY)).unwrap();
    let temporary = project.path(TEMPORARY);
    project.with_env("TMPDIR", temporary)
}

fn command(project: &Project, flags: &[&str]) -> Command {
    let mut command = project.command(env!("CARGO_BIN_EXE_imgbuild"));
    command.args(["-q", "probe", "--runtime", "host", "--python"]);
    command.arg("./python").args(flags);
    command.args(["--format", "json"]);
    for report in REPORTS {
        command.args(["--report", report]);
    }
    command
}

/// The report on stdout, which the documented schema must accept.
fn report(stdout: &str) -> Value {
    let mut validator = Command::new(fixture("IMGBUILD_TEST_PYTHON"))
        .arg(source("tests/support/validate.py"))
        .arg(source("docs/probe-report.schema.json"))
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = validator.stdin.take().unwrap();
    stdin.write_all(stdout.as_bytes()).unwrap();
    drop(stdin);
    assert!(validator.wait().unwrap().success(), "{stdout}");
    serde_json::from_str(stdout).unwrap()
}

/// Whatever the verdict, a run on CPUs cannot be taken for one on GPUs.
#[track_caller]
fn says_cpu(project: &Project, report: &Value) {
    assert_eq!(report["proves"], "software-path");
    assert_eq!(report["note"], NOTE);
    for name in REPORTS {
        let text = fs::read_to_string(project.path(name)).unwrap();
        assert!(text.contains(NOTE), "{name}: {text}");
    }
}

#[track_caller]
fn left_nothing(project: &Project) {
    let left: Vec<_> = fs::read_dir(project.path(TEMPORARY)).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_pass_on_cpus() {
    let project = project();
    let output = project.output(&mut command(&project, &["--cpu", "--nproc", "2"]));
    output.expect(0);
    let report = report(&output.stdout);
    assert_eq!(report["verdict"], "PASS");
    says_cpu(&project, &report);
    left_nothing(&project);
    let names = |checks: &Value| -> Vec<String> {
        let list = checks.as_array().unwrap();
        list.iter()
            .map(|check| check["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        names(&report["before"]),
        ["python", "gpus", "driver", "memlock", "shm"]
    );
    let checks = names(&report["ranks"][0]["checks"]);
    for name in [
        "device_alone",
        "reduce_scatter",
        "one_process",
        "dataloader_shm",
        "speedup",
    ] {
        assert!(
            checks.iter().any(|check| check == name),
            "{name}: {checks:?}"
        );
    }
    assert!(report["ranks"][1]["gemm_tflops"].as_f64() > Some(0.0));
}

fn start(project: &Project, flags: &[&str]) -> Child {
    let mut command = command(project, flags);
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn end(child: Child) -> (Option<i32>, Value) {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code(), report(&text))
}

/// The check that a rank's own last lines say it was in.
fn begun(report: &Value, rank: &str) -> String {
    let lines = report["last_lines"][rank].as_array().unwrap();
    let last = lines
        .iter()
        .rev()
        .find_map(|line| line.as_str()?.strip_prefix("begins "));
    last.unwrap().to_owned()
}

#[test]
fn a_killed_rank_is_named() {
    let project = project().with_env("TORCHRUN_IS_LATE", "1");
    let (child, second) = past(&project, "rendezvous ", &["--cpu", "--nproc", "2"]);
    signal(second, "-KILL");
    let (status, report) = end(child);
    assert_eq!(status, Some(4));
    let failure = &report["failure"];
    assert_eq!(failure["code"], "rank-missing", "{failure}");
    assert_eq!(failure["rank"], 1, "{failure}");
    assert_eq!(failure["step"], begun(&report, "1"), "{report}");
    assert!(
        failure["message"].as_str().unwrap().contains("SIGKILL"),
        "{failure}"
    );
    assert_eq!(report["missing_ranks"], serde_json::json!([1]));
    let first = &report["ranks"][0];
    assert_eq!(first["code"], "peer-lost", "{first}");
    assert_eq!(first["secondary"], true, "{first}");
    // What the other rank wrote is not among this one's lines, wherever they are shown.
    let others = report["last_lines"]["0"].as_array().unwrap();
    assert!(
        others
            .iter()
            .any(|line| line == "Traceback (most recent call last):"),
        "{report}"
    );
    let own = format!("begins {}", begun(&report, "1"));
    for (name, between) in [
        ("report.txt", ["last lines of rank 1:", "]["]),
        ("report.xml", ["name=\"rank 1\"", "</testsuite>"]),
        ("report.html", ["Last lines of rank 1", "</pre>"]),
    ] {
        let text = fs::read_to_string(project.path(name)).unwrap();
        let rest = text.split(between[0]).nth(1).unwrap();
        let part = rest.split(between[1]).next().unwrap();
        assert!(
            part.contains(&own) && !part.contains("Traceback"),
            "{name}: {text}"
        );
    }
    says_cpu(&project, &report);
    left_nothing(&project);
}

#[test]
fn a_killed_worker_of_a_rank_is_named() {
    let project = project();
    let (mut child, mut told) = told(&project, &["--cpu", "--nproc", "2"]);
    // The children that a rank has before and after those of the check of /dev/shm.
    come_past(&mut told, "rendezvous ");
    let second = second(&child);
    let known = descendants(second);
    come_past(&mut told, "ddp_init ");
    thread::spawn(move || told.count());
    let worker = loop {
        let new = descendants(second)
            .into_iter()
            .find(|pid| !known.contains(pid));
        assert!(child.try_wait().unwrap().is_none(), "no worker was seen");
        match new {
            Some(worker) => break worker,
            None => thread::sleep(Duration::from_millis(2)),
        }
    };
    signal(worker, "-KILL");
    let (status, report) = end(child);
    assert_eq!(status, Some(4));
    let failure = &report["failure"];
    assert_eq!(failure["code"], "worker-killed", "{failure}");
    assert_eq!(
        (&failure["rank"], &failure["step"]),
        (&1.into(), &"train".into()),
        "{failure}"
    );
    left_nothing(&project);
}

/// So many seconds that ranks are past their imports by then, however busy this machine is: torchrun
/// imports torch, and then they do, all at once.
fn past_imports() -> String {
    let begun = Instant::now();
    run(Command::new("/usr/bin/python3").args(["-c", "import torch.distributed.run"]));
    (10 + 8 * begun.elapsed().as_secs_f64().ceil() as u64).to_string()
}

#[test]
fn a_rank_that_stands_still_is_named() {
    let project = project();
    let flags = ["--cpu", "--nproc", "2", "--timeout", &past_imports()];
    let child = start(&project, &flags);
    let second = second(&child);
    signal(second, "-STOP");
    let (status, report) = end(child);
    assert_eq!(status, Some(4));
    let failure = &report["failure"];
    assert_eq!(failure["code"], "timeout", "{failure}");
    assert!(
        failure["message"].as_str().unwrap().contains("rank 1"),
        "{failure}"
    );
    assert_eq!(report["ranks"][0]["code"], "terminated", "{report}");
    says_cpu(&project, &report);
    assert_gone(second);
    left_nothing(&project);
}

#[test]
fn a_rank_that_hangs_in_mid_job_is_a_stall() {
    let project = project();
    let flags = ["--cpu", "--nproc", "2", "--stall-timeout", "5"];
    let (child, second) = past(&project, "rendezvous ", &flags);
    signal(second, "-STOP");
    let (status, report) = end(child);
    assert_eq!(status, Some(4));
    let failure = &report["failure"];
    assert_eq!(failure["code"], "stall", "{failure}");
    assert_eq!(failure["rank"], 1, "{failure}");
    assert_eq!(failure["step"], begun(&report, "1"), "{report}");
    assert_gone(second);
    left_nothing(&project);
}

#[test]
fn a_torch_for_cpus_is_no_gpu_pass() {
    let project = project();
    let output = project.output(&mut command(&project, &["--gpus", "1"]));
    output.expect(4);
    let report = report(&output.stdout);
    assert_eq!(report["failure"]["code"], "cpu-torch");
    assert_eq!(report["verdict"], "FAIL");
    left_nothing(&project);
}

#[test]
fn a_python_that_ends_gives_no_results() {
    let project = project();
    write_program(
        &project.path("python"),
        "#!/bin/sh\necho gone >&2\nexit 9\n",
    );
    let output = project.output(&mut command(&project, &["--cpu", "--nproc", "2"]));
    output.expect(4);
    let report = report(&output.stdout);
    assert_eq!(report["failure"]["code"], "no-results");
    says_cpu(&project, &report);
}

/// The project's `python`, with a change to its words before and a last word of its own.
fn changed_python(project: &Project, before: &str, after: &str) {
    let real = fs::read_to_string(project.path("python")).unwrap();
    write_program(&project.path("real"), &real);
    let text = format!("#!/bin/sh\n{before}\n./real \"$@\"\n{after}\n");
    let text = text.replace("./real", &project.path("real").display().to_string());
    write_program(&project.path("python"), &text);
}

#[test]
fn ranks_that_pass_in_a_job_that_ends_badly() {
    let project = project();
    changed_python(&project, "", "exit 7");
    let output = project.output(&mut command(&project, &["--cpu", "--nproc", "1"]));
    output.expect(4);
    let report = report(&output.stdout);
    assert_eq!(report["failure"]["code"], "bad-end", "{report}");
    assert_eq!(report["exit_code"], 7);
    assert_eq!(report["ranks"][0]["ok"], true, "{report}");
}

#[test]
fn fewer_ranks_than_were_asked_for_are_another_job() {
    let project = project();
    let one = "set -- $(echo \"$@\" | sed s/--nproc_per_node=2/--nproc_per_node=1/)";
    changed_python(&project, one, "");
    let output = project.output(&mut command(&project, &["--cpu", "--nproc", "2"]));
    output.expect(4);
    let report = report(&output.stdout);
    assert_eq!(report["failure"]["code"], "wrong-job", "{report}");
    assert_eq!(report["ranks"][0]["world_size"], 1, "{report}");
}

#[test]
fn without_a_loopback_address_there_is_no_rendezvous() {
    let project = project();
    let inner = command(&project, &["--cpu", "--nproc", "2"]);
    let mut outer = project.command("unshare");
    outer
        .arg("-n")
        .arg(inner.get_program())
        .args(inner.get_args());
    let output = project.output(&mut outer);
    output.expect(4);
    let report = report(&output.stdout);
    assert_eq!(report["failure"]["code"], "rendezvous");
    says_cpu(&project, &report);
}

/// Python lines after the job's modules are on the path; gives what they print.
fn python(lines: &str) -> String {
    let templates = source("templates");
    let head =
        format!("import sys\nsys.dont_write_bytecode = True\nsys.path.insert(0, {templates:?})\n");
    run(Command::new("/usr/bin/python3").args(["-c", &(head + lines)]))
}

#[test]
fn a_device_that_hangs_is_killed_and_named() {
    let said = python(
        "import time\n\
         import ddp_alone, ddp_probe, ddp_report, multiprocessing\n\
         ddp_alone.choose = lambda *_: time.sleep(3600)\n\
         run = ddp_report.Run(ddp_probe.parse_args(['--backend', 'gloo', '--device-timeout', '1']), {}, dict)\n\
         try:\n    run.check('device_alone', ddp_alone.check_device_alone)\n\
         except ddp_report.ProbeError as error:\n    print(error.code, error)\n\
         print(multiprocessing.active_children())",
    );
    assert_eq!(
        said,
        "gpu-hang device 0 did not finish start within 1 s\n[]\n"
    );
}

#[test]
fn ranks_without_an_address_have_a_bad_environment() {
    let mut rank = Command::new("/usr/bin/python3");
    rank.env_clear().envs([
        ("RANK", "0"),
        ("WORLD_SIZE", "2"),
        ("PYTHONDONTWRITEBYTECODE", "1"),
    ]);
    rank.arg(source("templates/ddp_probe.py"))
        .args(["--backend", "gloo"]);
    let output = crate::support::Output::of(&mut rank);
    output.expect(3);
    assert!(
        output.stdout.contains(r#""code":"bad-env""#),
        "{}",
        output.stdout
    );
}

#[test]
fn a_rank_whose_python_has_no_torch() {
    let mut rank = Command::new(fixture("IMGBUILD_TEST_PYTHON"));
    rank.env_clear().env("PYTHONDONTWRITEBYTECODE", "1");
    rank.arg(source("templates/ddp_probe.py"));
    let output = crate::support::Output::of(&mut rank);
    output.expect(3);
    assert!(
        output.stdout.contains(r#""code":"no-torch""#),
        "{}",
        output.stdout
    );
    assert_eq!(
        output.stderr.lines().next(),
        Some("[rank0]: begins import"),
        "{}",
        output.stderr
    );
}

/// The recorded runs in docs/runs are of earlier versions: their fields still mean the same.
#[test]
fn recorded_runs_are_there() {
    let folder = source("docs/runs");
    let table = fs::read_to_string(folder.join("README.md")).unwrap();
    let recorded = fs::read_dir(&folder).unwrap().flatten();
    let recorded =
        recorded.filter(|entry| Path::new(&entry.file_name()).extension() == Some("json".as_ref()));
    for entry in recorded {
        let name = entry.file_name().into_string().unwrap();
        assert!(table.contains(&name), "{name}");
        let run: Value = serde_json::from_slice(&fs::read(entry.path()).unwrap()).unwrap();
        assert_eq!(run["schema"], 1, "{name}");
        assert_eq!(run["proves"], "gpus", "{name}");
    }
}
