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
        .replace("@JOB@", &quoted(&job.facts("slurm")))
        .replace("@RUN@", &run(job))
        .replace("@FILES@", &files.join("\n"))
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

/// An image as every enroot reads it: `[REGISTRY#]REPOSITORY:REFERENCE`, where the reference may be a digest;
/// Docker's `NAME@DIGEST` is only known to its latest versions (enroot, src/docker.sh).
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
