//! A probe on several machines: the job as the engine's own document, and its output read back.
//!
//! All pure: [`slurm()`] and [`kubernetes()`] write, [`read()`] judges what the nodes wrote.

mod kubernetes;
mod read;
mod slurm;

use serde::{Deserialize, Serialize};

use super::spec::{Backend, ProbeRequest, SCRIPTS, launch};

pub use kubernetes::{Form, kubernetes};
pub use read::read;
pub use slurm::slurm;

/// Runs on each node, beside the job's own files.
const NODE_SCRIPT: (&str, &str) = (
    "probe_node.py",
    include_str!("../../../templates/probe_node.py"),
);

/// A probe on several nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterJob {
    /// What runs on each node: the ranks of its backend are a node's.
    pub request: ProbeRequest,
    /// How many nodes.
    pub nodes: u32,
    /// What the ranks run in.
    pub what: What,
}

/// What the ranks of a cluster's job run in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// An image, by digest.
    Image(oci_client::Reference),
    /// The nodes' own Python.
    Python(String),
}

/// What each node says first about the job that it is part of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct JobFacts {
    engine: String,
    nodes: u32,
    backend: Backend,
    timeout_s: u64,
    image: Option<String>,
}

impl ClusterJob {
    /// [`JobFacts`] as JSON on one line.
    fn facts(&self, engine: &str) -> String {
        let facts = JobFacts {
            engine: engine.to_owned(),
            nodes: self.nodes,
            backend: self.request.backend,
            timeout_s: self.request.timeout.as_secs().max(1),
            image: match &self.what {
                What::Image(reference) => Some(reference.whole()),
                What::Python(_) => None,
            },
        };
        serde_json::to_string(&facts).unwrap_or_default()
    }

    /// The arguments of [`NODE_SCRIPT`], which adds which node it is.
    ///
    /// The first node is torchrun's store wherever its name points (static rendezvous), and node N has the
    /// ranks from N times a node's on: c10d's guesses both.
    fn words(&self) -> Vec<String> {
        let meeting = [
            format!("--nnodes={}", self.nodes),
            format!(
                "--rdzv_conf=timeout={}",
                self.request.timeout.as_secs().max(1)
            ),
        ];
        launch(&self.request, &meeting, ".")
    }
}

/// All that a node needs, by name.
fn files() -> impl Iterator<Item = (&'static str, &'static str)> {
    SCRIPTS.into_iter().chain([NODE_SCRIPT])
}

#[cfg(test)]
pub(in crate::probe) mod tests {
    use serde_json::json;

    use super::*;

    /// A job with the defaults.
    pub(in crate::probe) fn job(backend: Backend, nodes: u32, what: What) -> ClusterJob {
        ClusterJob {
            request: ProbeRequest::new(backend),
            nodes,
            what,
        }
    }

    #[test]
    fn facts_are_one_line_of_json() {
        let image = "registry.example/team/train:1".parse().unwrap();
        let facts = job(Backend::Gpus(4), 3, What::Image(image)).facts("slurm");
        assert_eq!(facts.lines().count(), 1);
        let facts: JobFacts = serde_json::from_str(&facts).unwrap();
        assert_eq!(
            facts.image.as_deref(),
            Some("registry.example/team/train:1")
        );
        assert_eq!(
            (facts.nodes, facts.backend, facts.timeout_s),
            (3, Backend::Gpus(4), 300)
        );
        // The path stays with the script that runs it.
        let facts = job(
            Backend::Cpu { nproc: 1 },
            1,
            What::Python("/a \"b\"".into()),
        );
        let facts: serde_json::Value = serde_json::from_str(&facts.facts("x")).unwrap();
        assert_eq!(facts["image"], json!(null));
        assert_eq!(facts["engine"], "x");
    }

    #[test]
    fn a_node_has_the_jobs_time_to_meet() {
        let mut job = job(Backend::Cpu { nproc: 2 }, 5, What::Python("python3".into()));
        job.request.timeout = std::time::Duration::from_millis(1);
        let words = job.words();
        assert_eq!(words[..2], ["-m", "torch.distributed.run"]);
        for word in ["--nnodes=5", "--rdzv_conf=timeout=1", "./ddp_probe.py"] {
            assert!(words.iter().any(|have| have == word), "{word}: {words:?}");
        }
        assert!(!words.iter().any(|word| word == "--standalone"));
    }

    #[test]
    fn files_have_names_that_need_no_quotes() {
        let names: Vec<&str> = files().map(|(name, _)| name).collect();
        let plain = |name: &&str| {
            name.chars()
                .all(|c| c.is_ascii_alphanumeric() || "_.".contains(c))
        };
        assert!(names.iter().all(plain), "{names:?}");
        assert!(names.contains(&NODE_SCRIPT.0));
    }
}
