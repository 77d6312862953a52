//! The report as files: one page for people, JUnit XML for CI. Pure.

use minijinja::{AutoEscape, Environment, context};
use serde::Serialize;

use super::{
    chart::{Chart, Lines, Series},
    output::Summary,
    report::ProbeReport,
};
use crate::error::{Error, Exit, Result, chain};

const PAGE: &str = include_str!("../../templates/report.html");
const JUNIT: &str = include_str!("../../templates/junit.xml");

impl ProbeReport {
    /// One HTML page that loads nothing and runs no script, so that it opens from a CI's artifacts.
    ///
    /// # Errors
    /// Never for a report that was made here.
    pub fn to_html(&self) -> Result<String> {
        render("report.html", PAGE, self, charts(self))
    }

    /// JUnit XML as CI systems read it: a test case a check and rank.
    ///
    /// # Errors
    /// Never for a report that was made here.
    pub fn to_junit(&self) -> Result<String> {
        render("junit.xml", JUNIT, self, Vec::new())
    }
}

fn render(name: &str, template: &str, report: &ProbeReport, charts: Vec<Chart>) -> Result<String> {
    let failed = |e: minijinja::Error| {
        Error::new(Exit::Internal, format!("cannot write {name}")).why(chain(&e))
    };
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment
        .template_from_str(template)
        .and_then(|template| {
            template.render(context! {
                report,
                charts,
                totals => totals(report),
                text => report.to_string(),
            })
        })
        .map(|text| clean(&text))
        .map_err(failed)
}

/// XML has no place for most control characters (XML 1.0, section 2.2), and a page no use for them.
fn clean(text: &str) -> String {
    let allowed = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    text.chars().filter(|c| allowed(*c)).collect()
}

#[derive(Serialize)]
struct Totals {
    tests: usize,
    failures: usize,
    skipped: usize,
}

fn totals(report: &ProbeReport) -> Totals {
    let ranks = report.ranks.iter().flat_map(|rank| &rank.checks);
    let checks = || report.before.iter().chain(ranks.clone());
    let missing = report.missing_ranks.len();
    Totals {
        // The verdict is a test of its own, and so is it that a rank gave a result.
        tests: checks().count() + missing + 1,
        failures: checks().filter(|check| !check.ok).count()
            + missing
            + usize::from(!report.passed()),
        skipped: checks().filter(|check| check.skipped).count(),
    }
}

fn charts(report: &ProbeReport) -> Vec<Chart> {
    let summary = report.summary.as_ref();
    [
        summary.and_then(scaling),
        summary.and_then(bandwidth),
        steps(report),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn scaling(summary: &Summary) -> Option<Chart> {
    let rows = &summary.scaling;
    let last = rows.last().filter(|last| last.ranks > 1)?;
    let counts = || rows.iter().map(|row| f64::from(row.ranks));
    Lines {
        title: format!("Speed-up: {:.2}x of {}x", last.speedup, last.ranks),
        x_title: "ranks",
        y_title: "speed-up",
        x_ticks: rows
            .iter()
            .map(|row| (f64::from(row.ranks), row.ranks.to_string()))
            .collect(),
        series: vec![
            Series {
                name: "measured".into(),
                ideal: false,
                points: counts().zip(rows.iter().map(|row| row.speedup)).collect(),
            },
            Series {
                name: "ideal".into(),
                ideal: true,
                points: counts().zip(counts()).collect(),
            },
        ],
    }
    .lay_out()
}

fn bandwidth(summary: &Summary) -> Option<Chart> {
    let place = |index: usize| index as f64;
    let line = |name: &str, of: fn(&super::Bandwidth) -> f64| Series {
        name: name.into(),
        ideal: false,
        points: summary
            .bandwidth
            .iter()
            .enumerate()
            .map(|(index, row)| (place(index), of(row)))
            .collect(),
    };
    Lines {
        title: "All-reduce bandwidth by size".into(),
        x_title: "size of the tensor",
        y_title: "GB/s",
        x_ticks: summary
            .bandwidth
            .iter()
            .enumerate()
            .map(|(index, row)| (place(index), super::text::binary_size(row.bytes)))
            .collect(),
        series: vec![
            line("bus", |row| row.bus_gb_s),
            line("algorithm", |row| row.algorithm_gb_s),
        ],
    }
    .lay_out()
}

fn steps(report: &ProbeReport) -> Option<Chart> {
    let longest = report.ranks.iter().map(|rank| rank.step_ms.len()).max()?;
    let every = (longest / 6).max(1);
    Lines {
        title: "Time of each step, by rank".into(),
        x_title: "step",
        y_title: "ms",
        x_ticks: (0..longest)
            .step_by(every)
            .map(|step| (step as f64, (step + 1).to_string()))
            .collect(),
        series: report
            .ranks
            .iter()
            .map(|rank| Series {
                name: format!("rank {}", rank.rank),
                ideal: false,
                points: (0_u32..)
                    .map(f64::from)
                    .zip(rank.step_ms.iter().copied())
                    .collect(),
            })
            .collect(),
    }
    .lay_out()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{
        output::Check,
        report::tests::{cpu_run, report},
    };

    #[test]
    fn a_page_loads_nothing_and_hides_nothing() {
        let mut run = cpu_run(2);
        run.fail(1, "shm", "dataloader_shm", false);
        run.stderr("<script>alert(1)</script> & \u{1b}[31mred");
        let page = report(&run).to_html().unwrap();
        assert!(page.contains("&lt;script&gt;alert(1)"), "{page}");
        for outside in ["<script", "src=", "http://", "https://", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        for word in [
            "FAIL",
            "[shm]",
            "rank 1",
            "proves the software path, not the GPUs",
        ] {
            assert!(page.contains(word), "{word}");
        }
    }

    #[test]
    fn recorded_runs_can_still_be_read_and_drawn() {
        let text = include_str!("../../docs/runs/2026-11-25-h100x2.json");
        let report: ProbeReport = serde_json::from_str(text).unwrap();
        let page = report.to_html().unwrap();
        for word in ["1.99x", "P2P&#x2f;CUMEM", "327.3 GB/s", "NV18", "<polyline"] {
            assert!(page.contains(word), "{word}");
        }
    }

    #[test]
    fn junit_has_a_case_a_check_and_rank() {
        let xml = report(&cpu_run(2)).to_junit().unwrap();
        assert_eq!(xml.matches("<testcase").count(), 5);
        assert_eq!(xml.matches("<system-err").count(), 0);
        assert_eq!(xml.matches("<skipped").count(), 2);
        assert_eq!(xml.matches("<failure").count(), 0);
        let mut run = cpu_run(2);
        run.fail(0, "shm", "dataloader_shm", false);
        let xml = report(&run).to_junit().unwrap();
        assert_eq!(xml.matches("<failure").count(), 1, "{xml}");
        assert!(
            xml.contains("tests=\"5\" failures=\"1\" skipped=\"2\""),
            "{xml}"
        );
    }

    #[test]
    fn junit_has_the_checks_before_and_each_ranks_lines() {
        let mut run = cpu_run(2);
        run.lose(1);
        run.stderr("[rank1]: begins \u{1b}[31mtrain");
        run.outcome.exit_code = Some(1);
        let check = |name: &str, skipped| Check {
            name: name.into(),
            ok: true,
            skipped,
            seconds: Some(0.25),
            detail: "as found".into(),
        };
        let before = vec![check("memlock", false), check("driver", true)];
        let xml = report(&run).after(before).to_junit().unwrap();
        for words in [
            "<testsuite name=\"before the job\" tests=\"2\" failures=\"0\" skipped=\"1\" time=\"0.5\">",
            "name=\"memlock\" time=\"0.25\"",
            "<system-out>as found</system-out>",
            "<testsuite name=\"rank 1\" tests=\"1\" failures=\"1\"",
            "<system-err>begins [31mtrain</system-err>",
            "tests=\"6\" failures=\"2\" skipped=\"2\"",
        ] {
            assert!(xml.contains(words), "{words}: {xml}");
        }
    }

    #[test]
    fn a_page_has_each_ranks_lines_apart() {
        let mut run = cpu_run(2);
        run.fail(1, "shm", "dataloader_shm", false);
        run.stderr("[rank0]: what 0 wrote");
        run.stderr("[rank1]: what 1 wrote");
        let page = report(&run).to_html().unwrap();
        let own = "<details open><summary>Last lines of rank 1</summary><pre>what 1 wrote";
        assert!(page.contains(own), "{page}");
        assert!(page.contains("Checks of rank 1"), "{page}");
        let other = "<details><summary>Last lines of rank 0</summary><pre>what 0 wrote";
        assert!(page.contains(other), "{page}");
    }
}
