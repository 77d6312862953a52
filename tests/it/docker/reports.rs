//! A probe's report in files, and of a bare machine.

use std::process::Command;

use super::docker;
use crate::support::{Project, run};

/// The report's page as a browser has it, and the JUnit XML as Python's parser does.
pub(super) fn report_files(project: &Project) {
    let page = format!("file://{}", project.path("report.html").display());
    let flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--dump-dom",
        &page,
    ];
    let dom = run(Command::new("chromium").args(flags));
    for text in [
        "<h1>PASS on CPU</h1>",
        "proves the software path, not the GPUs",
        "All-reduce bandwidth by size",
        "Time of each step, by rank",
    ] {
        assert!(dom.contains(text), "{text}: {dom}");
    }
    assert_eq!(dom.matches("<svg").count(), 3, "{dom}");
    let count = "import sys, xml.etree.ElementTree as tree\n\
                 root = tree.parse(sys.argv[1]).getroot()\n\
                 print(root.get('failures'), len(root.findall('testsuite')))\n\
                 before = root.findall('testsuite')[1]\n\
                 print(before.get('name'), *(case.get('name') for case in before if case.get('time')))";
    let xml = project.path("report.xml");
    let counted = run(Command::new("python3").args(["-c", count]).arg(xml));
    let before = "before the job daemon gpu_runtime gpus driver memlock shm";
    assert_eq!(counted, format!("0 6\n{before}\n"));
}

/// `--runtime host` on a machine that has torch: the image itself, as seen from inside.
pub(super) fn on_the_host() {
    let program = format!("{}:/imgbuild:ro", env!("CARGO_BIN_EXE_imgbuild"));
    let inside = |flags: &[&str]| {
        let run = [
            "run",
            "--rm",
            "-h",
            "node7",
            "-v",
            &program,
            "--shm-size=1g",
        ];
        let probe = [
            "it-docker:torch",
            "/imgbuild",
            "-q",
            "probe",
            "--runtime",
            "host",
        ];
        docker(&[&run[..], &probe[..], flags].concat())
    };
    let report = inside(&["--cpu", "--nproc", "2", "--format", "json"]);
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["verdict"], "PASS", "{report}");
    assert_eq!(report["proves"], "software-path");
    assert_eq!(report["runtime"], "host");
    assert_eq!(report["hostname"], "node7");
    let summary = &report["summary"];
    assert_eq!(summary["scaling"].as_array().unwrap().len(), 2, "{summary}");
    let sizes = summary["bandwidth"].as_array().unwrap();
    assert!(
        sizes.iter().all(|row| row["bus_gb_s"].as_f64() > Some(0.0)),
        "{summary}"
    );
}
