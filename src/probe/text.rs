//! The report as a table for people.

use std::fmt::{self, Write};

use super::{
    output::{Check, RankResult, Summary},
    report::{Failure, Place, ProbeReport},
};

/// How many lines of stderr are shown; the JSON has more.
const STDERR_LINES: usize = 15;
const WIDTH: usize = 96;
const HEADS: [&str; 5] = ["rank", "device", "samples/s", "checks", "loss"];

impl fmt::Display for ProbeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Container { image, .. } => {
                let id = image.id.get(..19).unwrap_or(&image.id);
                writeln!(f, "image {} ({id})", image.name)?;
            }
            Place::Host { hostname, python } => {
                writeln!(f, "host {hostname} ({})", python.display())?;
            }
            Place::Cluster {
                engine,
                nodes,
                container_image,
                ..
            } => {
                let runs = container_image.as_deref().unwrap_or("the nodes' Python");
                writeln!(f, "{engine}: {runs} on {}", nodes.join(", "))?;
            }
        }
        if let Some(note) = &self.note {
            writeln!(f, "*** {note} ***")?;
        }
        for check in &self.before {
            let seconds = check.seconds.unwrap_or_default();
            writeln!(f, "{:<11} {seconds:>6.3} s  {}", check.name, check.detail)?;
        }
        writeln!(f)?;
        f.write_str(&table(self))?;
        f.write_str(&times(self))?;
        if let Some(summary) = &self.summary {
            writeln!(f)?;
            f.write_str(&facts(summary))?;
        }
        writeln!(f)?;
        f.write_str(&verdict(self))
    }
}

fn table(report: &ProbeReport) -> String {
    let mut rows = vec![HEADS.map(str::to_owned)];
    let mut all: Vec<_> = report
        .ranks
        .iter()
        .map(|rank| (rank.rank, row(rank, report.place.node(rank.rank))))
        .collect();
    for &rank in &report.missing_ranks {
        let blank = || "-".to_owned();
        let silent = "no result".to_owned();
        all.push((rank, [rank.to_string(), blank(), blank(), silent, blank()]));
    }
    all.sort_by_key(|(rank, _)| *rank);
    rows.extend(all.into_iter().map(|(_, row)| row));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..HEADS.len()).map(|c| width(c).unwrap_or(0)).collect();
    let mut text = String::new();
    for [rank, device, speed, checks, loss] in &rows {
        let line = format!(
            "{rank:>w0$}  {device:<w1$}  {speed:>w2$}  {checks:<w3$}  {loss}",
            w0 = widths[0],
            w1 = widths[1],
            w2 = widths[2],
            w3 = widths[3],
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn row(rank: &RankResult, node: Option<&str>) -> [String; 5] {
    let device = rank.device.clone().unwrap_or_else(|| "-".into());
    let device = match node {
        Some(node) => format!("{node} {device}"),
        None => device,
    };
    let device = match &rank.gpu {
        Some(gpu) => format!("{device} {}", gpu.name),
        None => device,
    };
    [
        rank.rank.to_string(),
        device,
        rank.samples_per_s
            .map_or_else(|| "-".into(), |speed| format!("{speed:.1}")),
        checks(rank),
        match (rank.loss_first, rank.loss_last) {
            (Some(first), Some(last)) => format!("{first:.4} -> {last:.4}"),
            _ => "-".into(),
        },
    ]
}

fn checks(rank: &RankResult) -> String {
    let skipped = |check: &&Check| check.skipped;
    let ran = rank.checks.iter().filter(|check| !check.skipped).count();
    let passed = rank
        .checks
        .iter()
        .filter(|check| check.ok && !check.skipped)
        .count();
    let mut text = match &rank.failed_step {
        Some(step) if rank.secondary => format!("{passed} ok, stopped in {step}"),
        Some(step) if !rank.ok => format!("{passed} ok, {step} FAILED"),
        _ => format!("{passed}/{ran} ok"),
    };
    let skips = rank.checks.iter().filter(skipped).count();
    if skips > 0 {
        let _ = write!(text, ", {skips} n/a");
    }
    text
}

/// Each check of the job with the time that its slowest rank took.
fn times(report: &ProbeReport) -> String {
    let mut slowest: Vec<(&str, f64)> = Vec::new();
    let all = report.ranks.iter().flat_map(|rank| &rank.checks);
    for check in all.filter(|check| !check.skipped) {
        let seconds = check.seconds.unwrap_or_default();
        match slowest.iter_mut().find(|(name, _)| *name == check.name) {
            Some((_, longest)) => *longest = longest.max(seconds),
            None => slowest.push((&check.name, seconds)),
        }
    }
    let words = slowest
        .into_iter()
        .map(|(name, seconds)| format!("{name} {seconds:.2}"));
    wrapped("checks in seconds, slowest rank:", words)
}

/// A heading and its words, separated by commas, in indented lines of a terminal's width.
fn wrapped(heading: &str, words: impl Iterator<Item = String>) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() + 2 < WIDTH => {
                let _ = write!(line, ", {word}");
            }
            Some(line) => {
                line.push(',');
                lines.push(format!("  {word}"));
            }
            None => lines.push(format!("  {word}")),
        }
    }
    match lines.is_empty() {
        true => String::new(),
        false => format!("\n{heading}\n{}\n", lines.join("\n")),
    }
}

fn facts(summary: &Summary) -> String {
    let cudnn = summary.cudnn.map(|version| version.to_string());
    let versions: Vec<String> = [
        ("torch", &summary.torch),
        ("CUDA", &summary.cuda),
        ("cuDNN", &cudnn),
        ("NCCL", &summary.nccl),
        ("driver", &summary.driver),
        ("Python", &summary.python),
    ]
    .into_iter()
    .filter_map(|(name, version)| Some(format!("{name} {}", version.as_ref()?)))
    .collect();
    let mut text = format!("{}\n", versions.join(", "));
    let mut figures = Vec::new();
    if let Some(speed) = summary.samples_per_s {
        figures.push(format!("{speed:.1} samples/s in all"));
    }
    if let Some(bytes) = summary.shm_total_bytes {
        figures.push(format!("/dev/shm {}", binary_size(bytes)));
    }
    if !figures.is_empty() {
        let _ = writeln!(text, "{}", figures.join(", "));
    }
    text.push_str(&speed(summary));
    for (name, value) in &summary.env {
        let _ = writeln!(text, "set in the environment: {name}={value}");
    }
    text
}

/// How fast the ranks talk and train together.
fn speed(summary: &Summary) -> String {
    let mut text = String::new();
    let best = summary
        .bandwidth
        .iter()
        .max_by(|a, b| a.bus_gb_s.total_cmp(&b.bus_gb_s));
    if let Some(best) = best {
        let via: Vec<&str> = summary.transports.keys().map(String::as_str).collect();
        let via = match via.is_empty() {
            true => String::new(),
            false => format!(" via {}", via.join(", ")),
        };
        let size = binary_size(best.bytes);
        let _ = writeln!(text, "bus {:.1} GB/s at {size}{via}", best.bus_gb_s);
    }
    if let Some(last) = summary.scaling.last().filter(|last| last.ranks > 1) {
        let steps: Vec<String> = summary
            .scaling
            .iter()
            .map(|row| format!("{:.0}/s on {}", row.samples_per_s, row.ranks))
            .collect();
        let model = summary.model.as_deref().unwrap_or("the model");
        let _ = writeln!(
            text,
            "{model}: {}: {:.2}x of {}x",
            steps.join(", "),
            last.speedup,
            last.ranks
        );
    }
    text
}

/// `docker run --shm-size` counts in powers of two.
pub(super) fn binary_size(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{} KiB", bytes >> 10),
        0x10_0000..0x4000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

fn verdict(report: &ProbeReport) -> String {
    let ranks = if report.nproc == 1 { "rank" } else { "ranks" };
    let job = format!(
        "{} {ranks}, {}, {:.1} s",
        report.nproc, report.backend, report.seconds
    );
    match (&report.failure, &report.note) {
        (None, None) => format!("PASS  {job}\n"),
        (None, Some(note)) => format!("PASS on {note} ({job})\n"),
        (Some(failure), _) => format!("FAIL  {job}\n{}", failed(failure, report)),
    }
}

fn failed(failure: &Failure, report: &ProbeReport) -> String {
    let mut what = failure
        .rank
        .map(|rank| match report.place.node(rank) {
            Some(node) => format!("rank {rank} on {node}"),
            None => format!("rank {rank}"),
        })
        .unwrap_or_default();
    if let Some(step) = failure.step.as_ref().filter(|step| !step.is_empty()) {
        let _ = write!(what, " in {step}");
    }
    let what = match what.trim() {
        "" => String::new(),
        what => format!("{what}: "),
    };
    let mut text = format!("  why:  {what}{} [{}]\n", failure.message, failure.code);
    if let Some(fix) = &failure.fix {
        let _ = writeln!(text, "  hint: {fix}");
    }
    let evidence = failure.rank.and_then(|rank| {
        let failed = report.ranks.iter().find(|result| result.rank == rank)?;
        (!failed.evidence.is_empty()).then_some(&failed.evidence)
    });
    for (n, line) in evidence.into_iter().flatten().enumerate() {
        let head = if n == 0 { "nccl: " } else { "      " };
        let _ = writeln!(text, "  {head}{line}");
    }
    let own = failure
        .rank
        .and_then(|rank| Some((rank, report.last_lines.get(&rank)?)));
    if let Some((rank, lines)) = own {
        text.push_str(&last(&format!("last lines of rank {rank}"), lines));
    }
    // What torchrun tells belongs to no rank, nor does what came before the ranks began.
    let others = report
        .stderr
        .iter()
        .filter(|line| !line.starts_with("[rank"));
    if own.is_none() {
        text.push_str(&last("last lines", others));
    }
    text
}

fn last<'a>(heading: &str, lines: impl IntoIterator<Item = &'a String>) -> String {
    let lines: Vec<&String> = lines.into_iter().collect();
    let skipped = lines.len().saturating_sub(STDERR_LINES);
    let shown = lines.iter().skip(skipped);
    let shown: String = shown.map(|line| format!("    {line}\n")).collect();
    match shown.is_empty() {
        true => shown,
        false => format!("  {heading}:\n{shown}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::report::tests::{cpu_run, report};

    #[test]
    fn a_pass_on_cpus_says_so_twice() {
        let text = report(&cpu_run(2)).to_string();
        insta::assert_snapshot!(text, @r"
        image train:dev (sha256:0123456789ab)
        *** CPU (gloo): proves the software path, not the GPUs ***

        rank  device  samples/s  checks         loss
           0  cpu         100.5  1/1 ok, 1 n/a  2.4000 -> 0.5000
           1  cpu         100.5  1/1 ok, 1 n/a  2.4000 -> 0.5000

        checks in seconds, slowest rank:
          torch 1.00

        torch 2.15.0, Python 3.11.2
        201.0 samples/s in all, /dev/shm 2.0 GiB
        set in the environment: NCCL_DEBUG=INFO

        PASS on CPU (gloo): proves the software path, not the GPUs (2 ranks, gloo, 12.3 s)
        ");
    }

    #[test]
    fn a_failure_names_rank_step_and_way_out() {
        let mut run = cpu_run(2);
        run.fail(1, "shm", "dataloader_shm", false);
        for line in [
            "[rank0]: the other's",
            "[rank1]: begins dataloader_shm",
            "[rank1]: Traceback: something",
            "torchrun's own",
        ] {
            run.stderr(line);
        }
        run.outcome.exit_code = Some(1);
        let check = Check {
            name: "shm".into(),
            seconds: Some(0.004),
            detail: "64 MiB (--shm-size)".into(),
            ..Check::default()
        };
        let text = report(&run).after(vec![check]).to_string();
        insta::assert_snapshot!(text, @r"
        image train:dev (sha256:0123456789ab)
        *** CPU (gloo): proves the software path, not the GPUs ***
        shm          0.004 s  64 MiB (--shm-size)

        rank  device  samples/s  checks                              loss
           0  cpu         100.5  1/1 ok, 1 n/a                       2.4000 -> 0.5000
           1  cpu         100.5  1 ok, dataloader_shm FAILED, 1 n/a  2.4000 -> 0.5000

        checks in seconds, slowest rank:
          torch 1.00

        torch 2.15.0, Python 3.11.2
        201.0 samples/s in all, /dev/shm 2.0 GiB
        set in the environment: NCCL_DEBUG=INFO

        FAIL  2 ranks, gloo, 12.3 s
          why:  rank 1 in dataloader_shm: shm happened [shm]
          hint: give more shared memory: --shm-size (and --shm-size in your own docker run)
          last lines of rank 1:
            begins dataloader_shm
            Traceback: something
        ");
    }

    #[test]
    fn without_a_rank_the_launchers_words_are_shown() {
        let mut run = cpu_run(1);
        run.stderr("[rank0]: begins torch");
        run.stderr("torchrun's own");
        run.outcome.exit_code = Some(1);
        let text = report(&run).to_string();
        assert!(
            text.ends_with("  last lines:\n    torchrun's own\n"),
            "{text}"
        );
    }

    #[test]
    fn many_checks_are_wrapped() {
        let words = (0..30).map(|n| format!("check{n} 0.01"));
        let text = wrapped("all:", words);
        assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
        assert_eq!(text.matches("check").count(), 30);
        assert_eq!(wrapped("none:", std::iter::empty()), "");
    }
}
