//! The rules, on small locks cut out of real indexes and locks (tests/it/data/gate).

use jiff::civil::date;
use rattler_conda_types::{PackageRecord, RepoDataRecord, package::DistArchiveIdentifier};
use url::Url;

use super::*;
use crate::{
    digest::Digest,
    explain,
    lock::{LockedEnv, LockedWheel},
};

const CONDA_1_12: &str = include_str!("../../tests/it/data/gate/conda-torch-1.12-cu113.txt");
const CONDA_2_0: &str = include_str!("../../tests/it/data/gate/conda-torch-2.0-cu118.txt");
const CONDA_2_0_1: &str = include_str!("../../tests/it/data/gate/conda-torch-2.0.1-cu118.txt");
const CONDA_CPU: &str = include_str!("../../tests/it/data/gate/conda-torch-2.0-cpu.txt");
const CONDA_1_7: &str = include_str!("../../tests/it/data/gate/conda-torch-1.7-cu102.txt");
const FORGE_2_10: &str = include_str!("../../tests/it/data/gate/conda-torch-2.10-cu129.txt");
const PIP_CU118: &str = include_str!("../../tests/it/data/gate/pip-torch-2.0.1-cu118.txt");
const PIP_CU121: &str = include_str!("../../tests/it/data/gate/pip-torch-2.4.1-cu121.txt");
const PIP_CU132: &str = include_str!("../../tests/it/data/gate/pip-torch-2.15-cu132.txt");
const PIP_CPU: &str = include_str!("../../tests/it/data/gate/pip-torch-2.9-cpu.txt");

/// A lock of the URLs in some texts.
fn lock(texts: &[&str]) -> Lock {
    let lines = texts.iter().flat_map(|text| text.lines());
    let urls: Vec<Url> = lines.filter_map(|line| line.parse().ok()).collect();
    let (wheels, packages): (Vec<Url>, Vec<Url>) = urls
        .into_iter()
        .partition(|url| url.path().ends_with(".whl"));
    let records = packages.into_iter().map(record).collect();
    Lock {
        env: LockedEnv::new(Vec::new(), records)
            .with_wheels(wheels.into_iter().map(wheel).collect()),
        ..Lock::default()
    }
}

fn record(url: Url) -> RepoDataRecord {
    let identifier = DistArchiveIdentifier::try_from_url(&url).unwrap();
    let file = url.path().rsplit('/').next().unwrap();
    let stem = file.trim_end_matches(".conda").trim_end_matches(".tar.bz2");
    let mut parts = stem.rsplitn(3, '-');
    let (build, version) = (parts.next().unwrap(), parts.next().unwrap());
    let package_record = PackageRecord::new(
        parts.next().unwrap().parse().unwrap(),
        version
            .parse::<rattler_conda_types::VersionWithSource>()
            .unwrap(),
        build.parse().unwrap(),
    );
    RepoDataRecord {
        package_record,
        identifier,
        channel: None,
        url,
    }
}

fn wheel(url: Url) -> LockedWheel {
    let mut wheel = LockedWheel {
        name: String::new(),
        version: String::new(),
        sha256: Digest::of(url.as_str().as_bytes()),
        size: None,
        url,
    };
    let file = wheel.file_name();
    let mut parts = file.split('-');
    wheel.name = parts.next().unwrap().replace('_', "-");
    wheel.version = parts.next().unwrap().to_owned();
    wheel
}

fn facts(texts: &[&str]) -> Facts {
    Facts::of(&lock(texts).env)
}

/// The machines of a test: a driver, or none, and GPUs.
fn fleet(driver: &str, gpus: &[&str]) -> Fleet {
    Fleet {
        driver: (!driver.is_empty()).then(|| driver.parse().unwrap()),
        gpus: gpus.iter().map(|name| name.parse().unwrap()).collect(),
        allow: Vec::new(),
    }
}

/// The findings in 2026, by code and severity; what is wrong with the upkeep is left out.
fn codes(texts: &[&str], fleet: &Fleet) -> Vec<(&'static str, Severity)> {
    found(texts, fleet)
        .into_iter()
        .filter(|f| !matches!(f.code, "python-eol" | "channel-frozen" | "channel-licence"))
        .map(|finding| (finding.code, finding.severity))
        .collect()
}

fn found(texts: &[&str], fleet: &Fleet) -> Vec<Finding> {
    judged(texts, fleet, None)
}

fn judged(texts: &[&str], fleet: &Fleet, cuda: Option<&str>) -> Vec<Finding> {
    let target = Target {
        fleet,
        cuda: cuda.and_then(Cuda::from_version),
        probed_on_gpus: false,
        today: date(2026, 11, 25),
    };
    let findings = review(&lock(texts), &target);
    for finding in &findings {
        let entry = explain::find(finding.code);
        assert!(entry.is_some(), "{} has no entry", finding.code);
    }
    findings
}

fn messages(findings: &[Finding]) -> String {
    let lines = findings.iter().map(|f| {
        let at = f.at.as_deref().unwrap_or("-");
        format!("[{}] {}\n  at: {at}\n  fix: {}", f.code, f.message, f.fix)
    });
    lines.collect::<Vec<_>>().join("\n")
}

use Severity::{Error, Warning};

#[test]
fn what_real_locks_need() {
    let all = [
        CONDA_1_7,
        CONDA_1_12,
        CONDA_2_0,
        CONDA_2_0_1,
        CONDA_CPU,
        FORGE_2_10,
        PIP_CU118,
        PIP_CU121,
        PIP_CU132,
        PIP_CPU,
    ];
    let told: Vec<String> = all
        .iter()
        .map(|text| facts(&[text]).lines().join("\n"))
        .collect();
    insta::assert_snapshot!(told.join("\n\n"));
}

#[test]
fn torch_and_its_build_are_told_apart() {
    let torch = |text| facts(&[text]).torch.unwrap();
    for (text, device, cuda) in [
        (CONDA_1_12, Device::Cuda, Some("11.3")),
        (CONDA_CPU, Device::Cpu, None),
        (FORGE_2_10, Device::Cuda, Some("12.9")),
        (PIP_CU118, Device::Cuda, Some("11.8")),
        (PIP_CU121, Device::Cuda, Some("12.1")),
        (PIP_CU132, Device::Cuda, Some("13.2")),
        (PIP_CPU, Device::Cpu, None),
    ] {
        let torch = torch(text);
        let cuda = cuda.and_then(Cuda::from_version);
        assert_eq!((torch.device, torch.cuda), (device, cuda), "{}", torch.item);
    }
    // Who made conda-forge's builds chose their own list.
    assert_eq!(facts(&[FORGE_2_10]).archs, None);
    assert!(facts(&[]).torch.is_none() && !facts(&[]).uses_cuda());
    assert!(!facts(&[CONDA_CPU]).uses_cuda() && facts(&[CONDA_CPU]).cuda.is_none());
}

#[test]
fn drivers_are_held_against_both_floors() {
    for (text, driver, expected) in [
        (CONDA_2_0, "450.80", vec![("driver-too-old", Error)]),
        (CONDA_2_0, "450.80.02", vec![("driver-below-cuda", Warning)]),
        (CONDA_2_0, "515.65.01", vec![("driver-below-cuda", Warning)]),
        (CONDA_2_0, "520.61.05", vec![]),
        (CONDA_2_0, "595.45.04", vec![]),
        (CONDA_1_7, "418.39", vec![("driver-too-old", Error)]),
        (CONDA_1_7, "440.33", vec![]),
        (FORGE_2_10, "520.61.05", vec![("driver-too-old", Error)]),
        (FORGE_2_10, "535.104", vec![("driver-below-cuda", Warning)]),
        (FORGE_2_10, "575.51.03", vec![]),
        (PIP_CU121, "535.104", vec![]),
        (PIP_CU132, "535.104", vec![("driver-too-old", Error)]),
        (PIP_CU132, "580.65.06", vec![("driver-below-cuda", Warning)]),
    ] {
        assert_eq!(codes(&[text], &fleet(driver, &[])), expected, "{driver}");
    }
}

#[test]
fn a_cuda_beyond_the_table_is_not_guessed() {
    let runtime = |version| {
        format!(
            "https://files.pythonhosted.org/packages/nvidia_cuda_runtime-{version}-py3-none-manylinux2014_x86_64.whl"
        )
    };
    let unknown = vec![("driver-unknown", Warning)];
    for (cuda, driver, expected) in [
        ("13.4.20", "575.51.03", vec![("driver-too-old", Error)]),
        ("13.4.20", "580.65.06", vec![("driver-below-cuda", Warning)]),
        ("13.4.20", "595.45.04", unknown.clone()),
        ("14.0.1", "580.65.06", vec![("driver-too-old", Error)]),
        ("14.0.1", "600.10", unknown),
    ] {
        let text = runtime(cuda);
        assert_eq!(
            codes(&[&text], &fleet(driver, &[])),
            expected,
            "{cuda} {driver}"
        );
    }
    let lines = facts(&[&runtime("14.0.1")]).lines();
    assert!(lines.concat().contains("at least"), "{lines:?}");
}

#[test]
fn the_cuda_that_machines_offer_counts_where_no_driver_is_told() {
    let of = |cuda| {
        let findings = judged(&[FORGE_2_10], &Fleet::default(), Some(cuda));
        findings.into_iter().map(|f| f.code).collect::<Vec<_>>()
    };
    assert_eq!(of("11.8"), ["driver-too-old"]);
    assert_eq!(of("12.4"), ["driver-below-cuda"]);
    assert_eq!(of("12.9"), [""; 0]);
    assert_eq!(of("13.0"), [""; 0]);
    let both = judged(&[FORGE_2_10], &fleet("575.51.03", &[]), Some("11.8"));
    assert_eq!(both, []);
}

#[test]
fn gpus_need_code_of_their_own() {
    let arch = vec![("arch", Error)];
    for (text, gpu, fits) in [
        (CONDA_1_12, "a100", true),
        (CONDA_1_12, "rtx4090", true),
        (CONDA_1_12, "k80", true),
        (CONDA_1_12, "h100", false),
        (CONDA_2_0, "h200", false),
        (CONDA_2_0_1, "h200", true),
        (CONDA_2_0_1, "b200", false),
        (PIP_CU118, "h100", true),
        (PIP_CU118, "rtx5090", false),
        (PIP_CU121, "v100", true),
        (PIP_CU121, "k80", false),
        (PIP_CU132, "h200", true),
        (PIP_CU132, "b300", true),
        (PIP_CU132, "rtx5090", true),
        (PIP_CU132, "v100", false),
        (PIP_CU132, "k80", false),
        // Not known, so only what no build of that CUDA can have is refused.
        (FORGE_2_10, "h200", true),
        (FORGE_2_10, "v100", true),
        (FORGE_2_10, "k80", false),
    ] {
        let expected = if fits { vec![] } else { arch.clone() };
        assert_eq!(codes(&[text], &fleet("", &[gpu])), expected, "{gpu}");
    }
    let two = codes(&[PIP_CU132], &fleet("", &["h200", "v100", "k80"]));
    assert_eq!(two, [arch.clone(), arch].concat());
}

#[test]
fn what_cannot_be_judged_is_said() {
    let said = |text, gpus: &[&str]| {
        let target = Target {
            fleet: &fleet("", gpus),
            cuda: None,
            probed_on_gpus: false,
            today: date(2026, 11, 25),
        };
        unjudged(&facts(&[text]), &target)
    };
    assert!(said(FORGE_2_10, &["h200"]).is_some_and(|text| text.contains("h200 (sm_90) is")));
    assert_eq!(said(FORGE_2_10, &[]), None);
    assert_eq!(said(PIP_CU132, &["h200"]), None);
    assert_eq!(said(CONDA_CPU, &["h200"]), None);
}

#[test]
fn a_cpu_torch_is_refused_where_gpus_are_meant() {
    let cpu = vec![("cpu-torch", Error)];
    for text in [CONDA_CPU, PIP_CPU] {
        assert_eq!(codes(&[text], &Fleet::default()), []);
        assert_eq!(codes(&[text], &fleet("", &["h200"])), cpu);
        assert_eq!(codes(&[text], &fleet("535.104", &[])), cpu);
        let offered = judged(&[text], &Fleet::default(), Some("12.9"));
        assert!(offered.iter().any(|f| f.code == "cpu-torch"));
        // CUDA's libraries beside it are a wish too.
        let nccl = "https://conda.anaconda.org/conda-forge/linux-64/nccl-2.29.2.1-h4d09622_1.conda";
        assert_eq!(codes(&[text, nccl], &Fleet::default()), cpu);
    }
    let probed = Target {
        fleet: &Fleet::default(),
        cuda: None,
        probed_on_gpus: true,
        today: date(2026, 11, 25),
    };
    let findings = review(&lock(&[PIP_CPU]), &probed);
    assert_eq!(findings.first().map(|f| f.code), Some("cpu-torch"));
}

#[test]
fn cuda_of_two_majors_is_refused() {
    let cudnn_12 = "https://files.pythonhosted.org/packages/nvidia_cudnn_cu12-9.1.0.70-py3-none-manylinux2014_x86_64.whl";
    let cudnn_11 = "https://files.pythonhosted.org/packages/nvidia_cudnn_cu11-8.7.0.84-py3-none-manylinux1_x86_64.whl";
    let cupy = "https://files.pythonhosted.org/packages/cupy_cuda11x-13.3.0-cp311-cp311-manylinux2014_x86_64.whl";
    let mixed = vec![("cuda-mixed", Error)];
    let none = Fleet::default();
    assert_eq!(codes(&[PIP_CU118, cudnn_12], &none), mixed);
    assert_eq!(codes(&[PIP_CU118, cudnn_11], &none), []);
    assert_eq!(codes(&[CONDA_2_0, cudnn_12], &none), mixed);
    assert_eq!(codes(&[CONDA_2_0, cudnn_11], &none), []);
    assert_eq!(codes(&[FORGE_2_10, cupy], &none), mixed);
    // A pin alone brings no library.
    let pin = "https://conda.anaconda.org/conda-forge/noarch/cuda-version-12.9-h4f385c5_3.conda";
    assert_eq!(codes(&[PIP_CU132, pin], &none), []);
    assert_eq!(facts(&[PIP_CU132, pin]).cuda, Cuda::from_version("13.2"));
    for text in [
        CONDA_1_7, CONDA_1_12, CONDA_2_0, FORGE_2_10, PIP_CU118, PIP_CU121, PIP_CU132,
    ] {
        assert_eq!(codes(&[text], &none), []);
    }
}

#[test]
fn what_is_there_twice_is_told() {
    let none = Fleet::default();
    assert_eq!(
        codes(&[CONDA_2_0_1, PIP_CU118], &none),
        [("torch-twice", Error)]
    );
    let twice = codes(&[FORGE_2_10, PIP_CU121], &none);
    assert_eq!(twice, [("torch-twice", Error), ("cudnn-twice", Warning)]);
}

#[test]
fn ends_of_life_and_channels() {
    let of = |text| {
        let findings = found(&[text], &Fleet::default());
        findings.iter().map(|f| f.code).collect::<Vec<_>>()
    };
    assert_eq!(
        of(CONDA_2_0),
        ["python-eol", "channel-frozen", "channel-licence"]
    );
    assert_eq!(of(CONDA_1_12), ["python-eol", "channel-frozen"]);
    assert_eq!(of(PIP_CU118), ["python-eol"]);
    assert_eq!(of(FORGE_2_10), [""; 0]);
    // A channel that is asked counts even where it gives nothing.
    for channel in ["https://repo.anaconda.com/pkgs/main/", "defaults"] {
        let mut asked = lock(&[FORGE_2_10]);
        asked.env.channels = vec![channel.to_owned()];
        let target = Target {
            fleet: &Fleet::default(),
            cuda: None,
            probed_on_gpus: false,
            today: date(2026, 11, 25),
        };
        let found = review(&asked, &target);
        assert_eq!(found.first().map(|f| f.code), Some("channel-licence"));
    }
    let mut target = Target {
        fleet: &Fleet::default(),
        cuda: None,
        probed_on_gpus: false,
        today: date(2025, 10, 31),
    };
    let before = review(&lock(&[CONDA_1_12]), &target);
    assert_eq!(before.first().map(|f| f.code), Some("channel-frozen"));
    target.today = date(2025, 11, 1);
    let after = review(&lock(&[CONDA_1_12]), &target);
    assert_eq!(after.first().map(|f| f.code), Some("python-eol"));
    // A Miniconda base is part of the image, and said once.
    let both = Lock {
        miniconda: Some(lock(&[CONDA_1_12]).env),
        ..lock(&[CONDA_1_12])
    };
    assert_eq!(review(&both, &target).len(), 2);
}

#[test]
fn what_is_allowed_is_let_pass() {
    let mut fleet = fleet("535.104", &["k80"]);
    fleet.allow = vec!["arch", "python-eol", "channel-frozen"];
    assert_eq!(
        codes(&[PIP_CU132], &fleet),
        [("driver-too-old", Error), ("arch", Warning)]
    );
    fleet.driver = None;
    let allowed = found(&[CONDA_1_12], &fleet);
    assert_eq!(allowed, []);
}

#[test]
fn images_say_what_they_need() {
    let all = [CONDA_1_7, CONDA_2_0, FORGE_2_10, PIP_CU132, PIP_CPU];
    let told = all.map(|text| {
        let facts = facts(&[text]);
        let pairs = labels(&facts).into_iter().chain(variables(&facts, &[]));
        pairs
            .map(|(k, v)| format!("{k}={v}"))
            .collect::<Vec<_>>()
            .join("\n")
    });
    insta::assert_snapshot!(told.join("\n\n"));
    // A base of NVIDIA's keeps its devices and capabilities; its CUDA is not what runs.
    let base = [
        "NVIDIA_VISIBLE_DEVICES=0",
        "NVIDIA_DRIVER_CAPABILITIES=all",
        "NVIDIA_REQUIRE_CUDA=cuda>=12.4",
    ];
    let kept = variables(&facts(&[CONDA_2_0]), &base);
    let requirement = (
        "NVIDIA_REQUIRE_CUDA".to_owned(),
        "cuda>=11.0,driver>=450.80.2".to_owned(),
    );
    assert_eq!(kept.into_iter().collect::<Vec<_>>(), [requirement]);
}

/// NVIDIA's two checks read the requirement: one in C, where `02` is 2, and one in Go, where a
/// part with a leading zero makes the whole no version (golang.org/x/mod/semver).
#[test]
fn requirements_are_plain_versions() {
    for text in [CONDA_1_7, CONDA_1_12, CONDA_2_0, FORGE_2_10, PIP_CU132] {
        let facts = facts(&[text]);
        let variables = variables(&facts, &[]);
        let requirement = &variables["NVIDIA_REQUIRE_CUDA"];
        for condition in requirement.split(',') {
            let (_, version) = condition.split_once(">=").unwrap();
            let parts: Vec<&str> = version.split('.').collect();
            assert!(parts.len() <= 3, "{requirement}");
            for part in parts {
                assert_eq!(
                    part.parse::<u32>().unwrap().to_string(),
                    part,
                    "{requirement}"
                );
            }
        }
    }
}

#[test]
fn texts_of_findings() {
    let cudnn_12 = "https://files.pythonhosted.org/packages/nvidia_cudnn_cu12-9.1.0.70-py3-none-manylinux2014_x86_64.whl";
    let all = [
        found(&[CONDA_2_0, cudnn_12], &fleet("450", &["h200"])),
        found(&[FORGE_2_10, PIP_CU121], &fleet("535.104", &["sm_37"])),
        found(&[PIP_CU132], &fleet("535.104", &["k80", "V100"])),
        found(&[PIP_CPU], &fleet("", &["h200"])),
        judged(&[FORGE_2_10], &Fleet::default(), Some("11.8")),
        judged(&[FORGE_2_10], &Fleet::default(), Some("12.4")),
    ];
    let texts: Vec<String> = all.iter().map(|findings| messages(findings)).collect();
    insta::assert_snapshot!(texts.join("\n\n"));
}
