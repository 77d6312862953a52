//! A probe as one sbatch script.

use oci_client::Reference;

use super::{ClusterJob, NODE_SCRIPT, What, files};
use crate::probe::spec::Backend;

const TEMPLATE: &str = include_str!("../../../templates/probe.sbatch");
/// Where the files are in a container.
const FOLDER: &str = "/imgbuild-probe";
/// What the scheduler gives a job beyond its own limits, in seconds: the image is pulled in it.
const SLACK: u64 = 900;
/// A rank and its two DataLoader workers.
const CPUS_PER_RANK: u32 = 3;
/// A line that no file has.
const END: &str = "END_OF_IMGBUILD_PROBE_FILE";

/// The sbatch script; it carries all that it needs. An image runs through NVIDIA's pyxis and enroot.
pub fn slurm(job: &ClusterJob) -> String {
    let (note, gpus) = match job.request.backend {
        Backend::Gpus(count) => (String::new(), format!("#SBATCH --gpus-per-node={count}\n")),
        Backend::Cpu { .. } => (format!("# {}\n", crate::probe::CPU_NOTE), String::new()),
    };
    let files: Vec<String> = files()
        .map(|(name, text)| format!("cat > \"$files/{name}\" <<'{END}'\n{text}{END}"))
        .collect();
    let cpus = job.request.backend.ranks().saturating_mul(CPUS_PER_RANK);
    let seconds = 2 * job.request.timeout.as_secs() + SLACK;
    TEMPLATE
        .replace("@NODES@", &job.nodes.to_string())
        .replace("@NOTE@", &note)
        .replace("@CPUS@", &cpus.to_string())
        .replace("@GPUS@", &gpus)
        .replace("@MINUTES@", &seconds.div_ceil(60).to_string())
        .replace("@FILES@", &files.join("\n"))
        .replace("@JOB@", &quoted(&job.facts("slurm")))
        // Last: a path may hold anything, the words above too.
        .replace("@RUN@", &run(job))
}

/// srun's flags for the image, and the command.
fn run(job: &ClusterJob) -> String {
    let script = NODE_SCRIPT.0;
    let start = match &job.what {
        What::Image(reference) => format!(
            "--container-image={} --no-container-mount-home --container-mounts=\"$files:{FOLDER}:ro\" \
             python {FOLDER}/{script}",
            quoted(&enroot(reference))
        ),
        What::Python(python) => format!("{} \"$files/{script}\"", quoted(python)),
    };
    let words: Vec<String> = job.words().iter().map(|word| quoted(word)).collect();
    format!("{start} {}", words.join(" "))
}

/// An image as enroot 3 and 4 read it: `[REGISTRY#]REPOSITORY:REFERENCE`, where the reference may be a digest
/// (src/docker.sh of 3.5.0, of 4.0); Docker's `NAME@DIGEST` is known to 4 alone.
fn enroot(image: &Reference) -> String {
    let reference = image.digest().or_else(|| image.tag()).unwrap_or("latest");
    let repository = image.repository();
    match image.registry() {
        "docker.io" => format!("{repository}:{reference}"),
        registry => format!("{registry}#{repository}:{reference}"),
    }
}

/// A word that a POSIX shell takes as it is.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::{probe::emit::tests::job, testing::no_forks_beside};

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn python(path: &str) -> What {
        What::Python(path.to_owned())
    }

    /// The words that a shell makes of a line.
    fn shell(line: &str) -> Vec<String> {
        let script = format!(r#"files=/some/files; printf '%s\n' {line}"#);
        let _forks = no_forks_beside();
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
        let words = String::from_utf8(output.stdout).unwrap();
        words.lines().map(str::to_owned).collect()
    }

    fn srun(script: &str) -> &str {
        let line = script
            .lines()
            .find(|line| line.starts_with("srun "))
            .unwrap();
        line.strip_suffix(" || status=$?").unwrap()
    }

    #[test]
    fn a_shell_takes_odd_words_as_they_are() {
        for path in [
            "/opt/my env/bin/python",
            "/opt/it's/python",
            r#"/opt/$HOME/`x`/"q"/\/python"#,
            "/opt/@FILES@/@JOB@/@NODES@/python",
        ] {
            let script = slurm(&job(Backend::Cpu { nproc: 1 }, 2, python(path)));
            let words = shell(srun(&script));
            let at = words.iter().position(|word| word == path);
            let script = &words[at.unwrap_or_else(|| panic!("{path}: {words:?}")) + 1];
            assert_eq!(script, "/some/files/probe_node.py");
        }
    }

    #[test]
    fn the_script_asks_for_what_the_nodes_need() {
        let lines = |backend, nodes| slurm(&job(backend, nodes, python("python3")));
        let three = lines(Backend::Gpus(4), 3);
        for line in [
            "#SBATCH --nodes=3",
            "#SBATCH --gpus-per-node=4",
            "#SBATCH --cpus-per-task=12",
            // Twice the time limit and a quarter of an hour.
            "#SBATCH --time=25",
        ] {
            assert!(three.lines().any(|have| have == line), "{line}");
        }
        let note = format!("# {}\n", crate::probe::CPU_NOTE);
        assert!(!three.contains(&note));
        let words = shell(srun(&three));
        for word in ["--nnodes=3", "--nproc_per_node=4", "--backend=nccl"] {
            assert!(words.iter().any(|have| have == word), "{word}: {words:?}");
        }
        let cpu = lines(Backend::Cpu { nproc: 2 }, 1);
        assert!(cpu.contains(&note));
        assert!(!cpu.contains("--gpus-per-node"));
        let left = cpu.lines().find(|line| {
            let mut parts = line.split('@').skip(1);
            parts.any(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_uppercase()))
        });
        assert_eq!(left, None);
    }

    #[test]
    fn the_script_carries_its_files() {
        let script = slurm(&job(Backend::Gpus(1), 2, python("python3")));
        for (name, text) in files() {
            let begin = format!("cat > \"$files/{name}\" <<'{END}'\n");
            let (_, rest) = script.split_once(&begin).unwrap();
            let (inside, _) = rest.split_once(&format!("\n{END}\n")).unwrap();
            assert_eq!(inside, text.trim_end_matches('\n'), "{name}");
        }
    }

    #[test]
    fn images_are_named_as_enroot_reads_them() {
        for (image, told) in [
            (format!("debian@{DIGEST}"), "library/debian"),
            (format!("team/train@{DIGEST}"), "team/train"),
            (
                format!("host.example:5000/a/b@{DIGEST}"),
                "host.example:5000#a/b",
            ),
        ] {
            let what = What::Image(image.parse().unwrap());
            let script = slurm(&job(Backend::Gpus(1), 2, what));
            let words = shell(srun(&script));
            let wanted = format!("--container-image={told}:{DIGEST}");
            assert!(words.contains(&wanted), "{wanted}: {words:?}");
            assert!(
                words
                    .iter()
                    .any(|word| word == "--container-mounts=/some/files:/imgbuild-probe:ro")
            );
        }
    }
}
