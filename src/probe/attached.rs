//! A verdict beside the image that it is about, in a registry, and which of several counts. Pure.

use jiff::Timestamp;

use super::report::{ProbeReport, Proves, SCHEMA, Verdict};
use crate::{
    attest::Attestation,
    digest::Digest,
    error::{Error, Result},
    image::{Annotations, timestamp},
};

/// The type of the artifact, and of the report in it (docs/probe-report.schema.json).
pub const PROBE_TYPE: &str = "application/vnd.dev.imgbuild.probe.v1+json";
/// When an artifact was made (OCI image-spec, annotations.md).
const CREATED: &str = "org.opencontainers.image.created";
const VERDICT: &str = "dev.imgbuild.probe.verdict";

/// The report as an artifact; `json` is the report's JSON, `created` seconds since the epoch.
pub fn attestation(report: &ProbeReport, json: String, created: u64) -> Attestation {
    let said = |key: &str, value: &str| (format!("dev.imgbuild.probe.{key}"), value.to_owned());
    let mut annotations = Annotations::from([
        (CREATED.to_owned(), timestamp(created)),
        (VERDICT.to_owned(), verdict(report).to_owned()),
        said("backend", &report.backend),
        said("world-size", &report.nproc.to_string()),
    ]);
    annotations.extend(report.note.iter().map(|note| said("note", note)));
    let gpus = models(report);
    if !gpus.is_empty() {
        annotations.extend([said("gpu", &gpus.join(", "))]);
    }
    Attestation {
        media_type: PROBE_TYPE,
        predicate_type: None,
        annotations,
        bytes: json.into_bytes(),
    }
}

/// In words that a rule for GPUs, which compares with `PASS`, cannot take one on CPUs for.
fn verdict(report: &ProbeReport) -> &'static str {
    match (report.verdict, report.proves) {
        (Verdict::Pass, Proves::Gpus) => "PASS",
        (Verdict::Fail, Proves::Gpus) => "FAIL",
        (Verdict::Pass, Proves::SoftwarePath) => "CPU-PASS",
        (Verdict::Fail, Proves::SoftwarePath) => "CPU-FAIL",
    }
}

/// Each model once, in the order of the ranks.
fn models(report: &ProbeReport) -> Vec<&str> {
    let mut models: Vec<&str> = Vec::new();
    for gpu in report.ranks.iter().filter_map(|rank| rank.gpu.as_ref()) {
        if !gpu.name.is_empty() && !models.contains(&gpu.name.as_str()) {
            models.push(&gpu.name);
        }
    }
    models
}

/// A verdict that is attached to an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Attached {
    /// The manifest that carries it.
    pub manifest: Digest,
    /// When it was attached, as its manifest says.
    pub created: Option<Timestamp>,
    /// The report.
    pub report: ProbeReport,
}

impl Attached {
    /// Reads what a registry has, by the annotations of its manifest and the report's bytes.
    ///
    /// # Errors
    /// When the report is none, or one of a later form.
    pub fn read(manifest: Digest, annotations: &Annotations, report: &[u8]) -> Result<Self> {
        let unreadable = |why: String| {
            Error::environment("an attached verdict cannot be read")
                .at(manifest)
                .why(why)
                .hint("a newer imgbuild may read it; what is no verdict should be removed from the registry")
        };
        let report: ProbeReport =
            serde_json::from_slice(report).map_err(|e| unreadable(e.to_string()))?;
        if report.schema != SCHEMA {
            return Err(unreadable(format!("its form is version {}", report.schema)));
        }
        let created = annotations.get(CREATED).and_then(|text| text.parse().ok());
        Ok(Self {
            manifest,
            created,
            report,
        })
    }

    /// `PASS on 4 ranks over nccl, 2026-11-25T10:00:00Z`.
    pub fn summary(&self) -> String {
        let report = &self.report;
        let (verdict, ranks, backend) = (verdict(report), report.nproc, &report.backend);
        let when = self
            .created
            .map_or_else(String::new, |at| format!(", {at}"));
        format!("{verdict} on {ranks} ranks over {backend}{when}")
    }

    fn counts(&self, gpus: u32) -> bool {
        let report = &self.report;
        report.proves == Proves::Gpus && report.backend == "nccl" && report.nproc >= gpus
    }
}

/// The verdict that counts: the newest on at least so many GPUs; of the same time, one that failed.
pub fn deciding(attached: &[Attached], gpus: u32) -> Option<&Attached> {
    let counting = attached.iter().filter(|one| one.counts(gpus));
    counting.max_by_key(|one| (one.created, !one.report.passed()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{
        Gpu,
        report::tests::{cpu_run, report},
    };

    fn gpus(nproc: u32, verdict: Verdict, created: u64) -> Attached {
        let report = ProbeReport {
            proves: Proves::Gpus,
            backend: "nccl".into(),
            note: None,
            verdict,
            ..report(&cpu_run(nproc))
        };
        attached(report, created)
    }

    /// As a registry gives it back.
    fn attached(report: ProbeReport, created: u64) -> Attached {
        let json = serde_json::to_string(&report).unwrap();
        let made = attestation(&report, json, created);
        Attached::read(Digest::of(b"manifest"), &made.annotations, &made.bytes).unwrap()
    }

    #[test]
    fn annotations_tell_what_was_proven() {
        let cpu = report(&cpu_run(2));
        let said = attestation(&cpu, String::new(), 0).annotations;
        assert_eq!(said[VERDICT], "CPU-PASS");
        assert_eq!(said[CREATED], "1970-01-01T00:00:00Z");
        assert_eq!(
            said["dev.imgbuild.probe.note"],
            crate::probe::CPU_NOTE,
            "{said:?}"
        );
        let mut gpu = gpus(2, Verdict::Fail, 0).report;
        for rank in &mut gpu.ranks {
            rank.gpu = Some(Gpu {
                name: "H100".into(),
                ..Gpu::default()
            });
        }
        let said = attestation(&gpu, String::new(), 0).annotations;
        assert_eq!(said[VERDICT], "FAIL");
        assert_eq!(said["dev.imgbuild.probe.world-size"], "2");
        assert_eq!(said["dev.imgbuild.probe.backend"], "nccl");
        assert_eq!(said["dev.imgbuild.probe.gpu"], "H100");
        assert!(!said.contains_key("dev.imgbuild.probe.note"), "{said:?}");
    }

    #[test]
    fn the_newest_on_enough_gpus_decides() {
        let all = [
            attached(report(&cpu_run(8)), 9),
            gpus(4, Verdict::Pass, 2),
            gpus(4, Verdict::Fail, 1),
            gpus(8, Verdict::Fail, 3),
            gpus(8, Verdict::Pass, 3),
            gpus(2, Verdict::Pass, 4),
        ];
        let verdict = |all: &[Attached], gpus| {
            deciding(all, gpus).map(|one| (one.report.nproc, one.report.verdict))
        };
        assert_eq!(verdict(&all, 1), Some((2, Verdict::Pass)));
        assert_eq!(verdict(&all, 4), Some((8, Verdict::Fail)));
        assert_eq!(verdict(&all[..3], 4), Some((4, Verdict::Pass)));
        assert_eq!(verdict(&all, 9), None);
        assert_eq!(verdict(&all[..1], 1), None);
    }

    #[test]
    fn what_is_no_report_is_told() {
        let read = |text: &str| {
            let read = Attached::read(Digest::of(b""), &Annotations::new(), text.as_bytes());
            read.map_err(|e| e.to_string())
        };
        assert!(read("{}").unwrap_err().contains("missing field"));
        let mut later = report(&cpu_run(1));
        later.schema = SCHEMA + 1;
        let later = serde_json::to_string(&later).unwrap();
        assert!(read(&later).unwrap_err().contains("version 2"));
    }
}
