//! `imgbuild probe --attach` and `--check-attached`: verdicts of a real daemon's containers and of cluster jobs, beside
//! images in a real registry. The containers' torchrun is a stand-in, for the verdict is not what is tested here.

use std::{path::PathBuf, process::Command, sync::Mutex};

use serde_json::{Value, json};

use crate::{
    faulty::{Fault, Faulty},
    mini::{base, env},
    sbom::{document, listed, manifest, registry},
    support::{Output, Project, channel, fixture, run, source},
};

const NOTE: &str = "CPU (gloo): proves the software path, not the GPUs";
const TYPE: &str = "application/vnd.dev.imgbuild.probe.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Ranks that say what the image's own variable tells them to.
pub const TORCHRUN: &str = r#"import json, os, sys
ok = os.environ["STAND_IN"] == "passes"
nproc = next(word for word in sys.argv if word.startswith("--nproc_per_node="))
world = int(nproc.split("=")[1])
for rank in range(world):
    said = {"rank": rank, "ok": ok, "backend": "gloo", "world_size": world, "params_sha256": "x"}
    if not ok:
        said.update(code="mismatch", failed_step="ddp_train", error="the parameters differ")
    print("IMGBUILD_PROBE_RANK", json.dumps(said))
print("IMGBUILD_PROBE_SUMMARY", json.dumps({"ok": ok, "torch": "2.0"}))
sys.exit(0 if ok else 1)
"#;

/// A project whose images have that torchrun.
pub fn project() -> Project {
    let project = Project::new(&env(channel(), &["python=3.11"]));
    for name in ["torch/__init__.py", "torch/distributed/__init__.py"] {
        project.write(&format!("src/{name}"), "");
    }
    project.write("src/torch/distributed/run.py", TORCHRUN);
    project.with_env("DOCKER_HOST", fixture("DOCKER_HOST"))
}

pub fn build(project: &Project, reference: &str, stand_in: &str, more: &[&str]) -> Output {
    let (base, variable) = (base(), format!("STAND_IN={stand_in}"));
    let args = ["build", "env.yml", "--base", &base, "--code", "src"];
    let more = [&["-e", &variable, "-e", "PYTHONPATH=/workspace"], more].concat();
    let form = ["--compression", "gzip", "-t", reference];
    project.ok(&[&args[..], &form, &more].concat())
}

fn repository(name: &str) -> String {
    format!("probed/{name}-{}", std::process::id())
}

/// Attaches a run's verdict, as of a day in 2026.
fn attach(project: &Project, args: &[&str], day: u32) -> Output {
    let seconds = 1_767_225_600 + day * 86_400;
    let mut command = project.command(env!("CARGO_BIN_EXE_imgbuild"));
    command.env("SOURCE_DATE_EPOCH", seconds.to_string());
    project.output(command.arg("probe").args(args))
}

fn verdicts(entries: &[Value]) -> Vec<&Value> {
    entries
        .iter()
        .map(|entry| &entry["annotations"]["dev.imgbuild.probe.verdict"])
        .collect()
}

#[test]
fn a_containers_verdict_is_attached() {
    let (registry, repository) = (registry(), repository("docker"));
    let project = project();
    let reference = format!("{registry}/{repository}:1");
    let digest = build(&project, &reference, "passes", &["--load", "--push"])
        .digest()
        .to_owned();
    let cpu = ["--cpu", "--nproc", "2", "--attach"];
    let probe = [&[reference.as_str()][..], &cpu].concat();
    attach(&project, &probe, 1).expect(0);
    attach(&project, &probe, 1).expect(0);

    let entries = listed(&registry, &repository, &digest);
    let annotations = &entries[0]["annotations"];
    assert_eq!(
        annotations,
        &json!({
            "org.opencontainers.image.created": "2026-01-02T00:00:00Z",
            "dev.imgbuild.probe.verdict": "CPU-PASS",
            "dev.imgbuild.probe.backend": "gloo",
            "dev.imgbuild.probe.world-size": "2",
            "dev.imgbuild.probe.note": NOTE,
        })
    );
    let name = entries[0]["digest"].as_str().unwrap();
    let artifact = manifest(&registry, &repository, name, MANIFEST).unwrap();
    assert_eq!(artifact["artifactType"], TYPE);
    assert_eq!(artifact["layers"][0]["mediaType"], TYPE);
    assert_eq!(&artifact["annotations"], annotations);
    assert_eq!(artifact["subject"]["digest"], digest);
    assert_eq!(artifact["subject"]["mediaType"], MANIFEST);
    let report = document(&registry, &repository, &entries[0]);
    project.write("attached.json", &report.to_string());
    run(Command::new(fixture("IMGBUILD_TEST_PYTHON"))
        .arg(source("tests/support/validate.py"))
        .arg(source("docs/probe-report.schema.json"))
        .stdin(std::fs::File::open(project.path("attached.json")).unwrap()));

    // However good it is: no GPU had a part in it.
    let checked = project.imgbuild(&["probe", &reference, "--check-attached"]);
    checked.expect(5);
    for words in [
        "no verdict on GPUs",
        "attached: CPU-PASS on 2 ranks over gloo",
    ] {
        assert!(checked.stderr.contains(words), "{}", checked.stderr);
    }
    assert_eq!(checked.stdout, "");
    run(Command::new("docker").args(["image", "rm", "--force", &reference]));
}

#[test]
fn a_failure_is_attached_and_another_image_is_not() {
    let (registry, repository) = (registry(), repository("fails"));
    let project = project();
    let reference = format!("{registry}/{repository}:1");
    let cpu = [reference.as_str(), "--cpu", "--nproc", "1", "--attach"];
    let digest = build(&project, &reference, "fails", &["--load", "--push"])
        .digest()
        .to_owned();
    let failed = attach(&project, &cpu, 1);
    failed.expect(4);
    assert!(failed.stdout.contains("[mismatch]"), "{}", failed.stdout);
    assert_eq!(
        verdicts(&listed(&registry, &repository, &digest)),
        ["CPU-FAIL"]
    );

    // Built anew and not pushed: the registry's image is not what would be probed.
    let unpushed = build(&project, &reference, "passes", &["--load"])
        .digest()
        .to_owned();
    let refused = attach(&project, &cpu, 1);
    refused.expect(2);
    assert!(
        refused.stderr.contains("is not the one in the registry"),
        "{}",
        refused.stderr
    );
    assert!(
        refused.stderr.contains(&format!("there: {digest}")),
        "{}",
        refused.stderr
    );
    assert!(!refused.stderr.contains("Probing"), "{}", refused.stderr);
    let nowhere = format!("--attach={registry}/{repository}:none");
    let absent = attach(&project, &[&cpu[..4], &[&nowhere]].concat(), 1);
    absent.expect(3);
    assert!(
        absent.stderr.contains("the registry has no such image"),
        "{}",
        absent.stderr
    );

    // One that ran without a verdict leaves nothing.
    std::fs::remove_dir_all(project.path("src/torch")).unwrap();
    project.write("src/empty", "");
    let other = build(&project, &reference, "passes", &["--load", "--push"])
        .digest()
        .to_owned();
    assert_ne!(other, unpushed);
    attach(&project, &cpu, 1).expect(5);
    let tag = other.replace(':', "-");
    assert!(manifest(&registry, &repository, &tag, INDEX).is_none());
    run(Command::new("docker").args(["image", "rm", "--force", &reference]));
}

/// The log of a cluster's job over `ranks` GPUs, as the image's nodes would have written it.
fn log(project: &Project, image: &str, ranks: u32, ok: bool) -> PathBuf {
    let gpus = ranks.to_string();
    let emitted = project.ok(&[
        "probe", image, "--emit", "slurm", "--nodes", "1", "--gpus", &gpus,
    ]);
    let job = emitted
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix("IMGBUILD_PROBE_JOB='"));
    let job = job.unwrap().trim_end_matches('\'');
    let mut lines = vec![format!(
        r#"IMGBUILD_PROBE_NODE {{"index": 0, "node": "n1", "job": {job}}}"#
    )];
    for rank in 0..ranks {
        let said = json!({
            "rank": rank, "ok": ok, "backend": "nccl", "world_size": ranks, "params_sha256": "x",
            "code": if ok { Value::Null } else { "mismatch".into() },
            "gpu": {"name": "NVIDIA H100 80GB HBM3", "uuid": format!("GPU-{rank}")},
        });
        lines.push(format!("IMGBUILD_PROBE_RANK {said}"));
    }
    lines.push(format!(r#"IMGBUILD_PROBE_SUMMARY {{"ok": {ok}}}"#));
    let status = i32::from(!ok);
    lines.push(format!(
        r#"IMGBUILD_PROBE_END {{"index": 0, "node": "n1", "status": {status}, "seconds": 9.5}}"#
    ));
    let name = format!("job-{ranks}-{ok}.log");
    project.write(&name, &lines.join("\n"));
    project.path(name)
}

/// Attaches verdicts on GPUs through one address of a registry, and asks for them.
fn gpu_verdicts(project: &Project, reference: &str) {
    let check =
        |gpus: &str| project.imgbuild(&["probe", reference, "--check-attached", "--gpus", gpus]);
    let of_job = |ranks, ok, day, status| {
        let log = log(project, reference, ranks, ok).display().to_string();
        attach(project, &["--read", &log, "--attach"], day).expect(status);
    };
    let none = check("2");
    none.expect(5);
    assert!(none.stderr.contains("none at all is"), "{}", none.stderr);
    of_job(4, true, 2, 0);
    of_job(2, false, 1, 4);
    let passed = check("4");
    passed.expect(0);
    assert!(passed.stdout.contains("PASS"), "{}", passed.stdout);
    // What failed is older.
    check("1").expect(0);
    let more = check("8");
    more.expect(5);
    assert!(
        more.stderr.contains("PASS on 4 ranks over nccl"),
        "{}",
        more.stderr
    );
    of_job(2, false, 3, 4);
    let newest = check("2");
    newest.expect(4);
    assert!(newest.stdout.contains("[mismatch]"), "{}", newest.stdout);
    check("4").expect(0);
}

#[test]
fn the_newest_verdict_on_enough_gpus_counts() {
    let (registry, repository) = (registry(), repository("gpus"));
    let project = project();
    let reference = format!("{registry}/{repository}:1");
    let digest = build(&project, &reference, "passes", &["--push"])
        .digest()
        .to_owned();
    gpu_verdicts(&project, &reference);
    let entries = listed(&registry, &repository, &digest);
    assert_eq!(verdicts(&entries), ["PASS", "FAIL", "FAIL"]);
    assert_eq!(
        entries[0]["annotations"]["dev.imgbuild.probe.gpu"],
        "NVIDIA H100 80GB HBM3"
    );

    // The nodes' own Python is no image's verdict.
    let mut log = std::fs::read_to_string(project.path("job-4-true.log")).unwrap();
    log = log.replace(&format!(r#""{registry}/{repository}@{digest}""#), "null");
    project.write("host.log", &log);
    let host = project.imgbuild(&["probe", "--read", "host.log", "--attach"]);
    host.expect(2);
    assert!(
        host.stderr.contains("no image to attach"),
        "{}",
        host.stderr
    );
}

/// A registry that lists referrers itself, as Debian's does not: by the manifests that came by digest.
fn with_referrers(registry: &str) -> Faulty {
    let came = Mutex::new(Vec::<Value>::new());
    Faulty::faulty_proxy(registry, move |request| {
        let mut came = came.lock().unwrap();
        if let Some((_, hex)) = request
            .strip_prefix("PUT ")
            .and_then(|path| path.split_once("/manifests/sha256:"))
        {
            let digest = format!("sha256:{hex}");
            came.push(
                json!({"digest": digest, "artifactType": TYPE, "mediaType": MANIFEST, "size": 1}),
            );
        }
        match request.contains("/referrers/") {
            true => {
                let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": *came});
                Fault::Bytes(index.to_string().into_bytes().leak())
            }
            false => Fault::Fine,
        }
    })
}

#[test]
fn a_registry_with_a_list_of_referrers_gets_no_tag() {
    let (registry, repository) = (registry(), repository("listed"));
    let project = project();
    let plain = format!("{registry}/{repository}:1");
    let digest = build(&project, &plain, "passes", &["--push"])
        .digest()
        .to_owned();
    let proxy = with_referrers(&registry);
    gpu_verdicts(&project, &format!("{}/{repository}:1", proxy.address()));
    assert!(manifest(&registry, &repository, &digest.replace(':', "-"), INDEX).is_none());
}
