//! A probe as Kubernetes documents: its files in a ConfigMap, and a Job, a JobSet or a PyTorchJob.

use oci_client::Reference;
use serde_json::{Map, Value, json};

use super::{ClusterJob, NODE_SCRIPT, What, files};
use crate::{
    error::{Error, Result},
    probe::spec::Backend,
};

const NAME: &str = "imgbuild-probe";
const FILES: &str = "/imgbuild-probe";
const PORT: &str = "29400";

/// What runs the pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// An Indexed Job and a headless Service.
    Job,
    /// A JobSet (`jobset.x-k8s.io/v1alpha2`), which makes its own Service.
    JobSet,
    /// Kubeflow's PyTorchJob (`kubeflow.org/v1`), which makes its own Services.
    PyTorchJob,
}

impl Form {
    /// The engine's name in reports.
    fn engine(self) -> &'static str {
        match self {
            Self::Job => "kubernetes",
            Self::JobSet => "jobset",
            Self::PyTorchJob => "pytorchjob",
        }
    }

    /// The first pod's name in the cluster's DNS, where the engine does not tell it to the pods.
    fn first(self) -> Option<String> {
        match self {
            Self::Job => Some(format!("{NAME}-0.{NAME}")),
            Self::JobSet => Some(format!("{NAME}-nodes-0-0.{NAME}")),
            Self::PyTorchJob => None,
        }
    }
}

/// The documents as one YAML stream.
///
/// # Errors
/// When the job has no image.
pub fn kubernetes(job: &ClusterJob, form: Form) -> Result<String> {
    let What::Image(image) = &job.what else {
        return Err(Error::input("a cluster of containers needs an image")
            .hint("--runtime host goes with --emit slurm"));
    };
    let pod = pod(job, image, form);
    let mut documents = vec![config_map()];
    match form {
        Form::Job => documents.extend([service(), indexed_job(job, pod)]),
        Form::JobSet => documents.push(job_set(job, pod)),
        Form::PyTorchJob => documents.push(pytorch_job(job, &pod)),
    }
    let mut text = head(job);
    for document in documents {
        text.push_str("---\n");
        let yaml = serde_yaml::to_string(&document)
            .map_err(|e| Error::input("the job is no YAML").why(e))?;
        text.push_str(&yaml);
    }
    Ok(text)
}

fn head(job: &ClusterJob) -> String {
    let note = match job.request.backend {
        Backend::Gpus(_) => String::new(),
        Backend::Cpu { .. } => format!("# {}\n", crate::probe::CPU_NOTE),
    };
    format!(
        "# A probe of {} nodes, written by imgbuild.\n{note}# Run it:\n#     kubectl apply -f probe.yaml\n\
         # and read the verdict when its pods have ended:\n\
         #     kubectl logs --tail=-1 -l app={NAME} | imgbuild probe --read -\n",
        job.nodes
    )
}

fn config_map() -> Value {
    let data: Map<String, Value> = files()
        .map(|(name, content)| (name.to_owned(), content.into()))
        .collect();
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME}, "data": data})
}

/// Gives each pod a name that the others resolve, before it is ready.
fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME},
        "spec": {"clusterIP": "None", "publishNotReadyAddresses": true, "selector": {"app": NAME}},
    })
}

/// One failure is the verdict, a second try would hide it; and it must not end the other pods, whose logs would go
/// with them: hence the limit for each index (Kubernetes 1.29).
fn indexed_spec(job: &ClusterJob, pod: Value) -> Value {
    json!({
        "completionMode": "Indexed", "completions": job.nodes, "parallelism": job.nodes,
        "backoffLimitPerIndex": 0, "template": pod,
    })
}

fn indexed_job(job: &ClusterJob, mut pod: Value) -> Value {
    pod["spec"]["subdomain"] = NAME.into();
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": NAME},
        "spec": indexed_spec(job, pod),
    })
}

fn job_set(job: &ClusterJob, pod: Value) -> Value {
    json!({
        "apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": {"name": NAME},
        "spec": {
            "network": {"enableDNSHostnames": true, "publishNotReadyAddresses": true},
            "failurePolicy": {"maxRestarts": 0},
            "replicatedJobs": [
                {"name": "nodes", "replicas": 1, "template": {"spec": indexed_spec(job, pod)}},
            ],
        },
    })
}

fn pytorch_job(job: &ClusterJob, pod: &Value) -> Value {
    let replicas =
        |count: u32| json!({"replicas": count, "restartPolicy": "Never", "template": pod});
    let mut specs = json!({"Master": replicas(1)});
    if job.nodes > 1 {
        specs["Worker"] = replicas(job.nodes - 1);
    }
    json!({
        "apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": {"name": NAME},
        "spec": {
            // The pods stay, for their logs are the verdict.
            "runPolicy": {"backoffLimit": 0, "cleanPodPolicy": "None"},
            "pytorchReplicaSpecs": specs,
        },
    })
}

fn pod(job: &ClusterJob, image: &Reference, form: Form) -> Value {
    let shm = json!({"medium": "Memory", "sizeLimit": job.request.shm().to_string()});
    let apart = json!({"labelSelector": {"matchLabels": {"app": NAME}}, "topologyKey": "kubernetes.io/hostname"});
    let mut spec = json!({
        "restartPolicy": "Never",
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        // Two pods on one machine would prove nothing of the network.
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}},
        "containers": [container(job, image, form)],
        "volumes": [
            {"name": "files", "configMap": {"name": NAME}},
            {"name": "shm", "emptyDir": shm},
        ],
    });
    if matches!(job.request.backend, Backend::Gpus(_)) {
        spec["tolerations"] =
            json!([{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]);
    }
    json!({"metadata": {"labels": {"app": NAME}}, "spec": spec})
}

fn container(job: &ClusterJob, image: &Reference, form: Form) -> Value {
    let variable = |name: &str, value: String| json!({"name": name, "value": value});
    let mut env = vec![
        variable("IMGBUILD_PROBE_JOB", job.facts(form.engine())),
        json!({"name": "IMGBUILD_PROBE_NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}),
    ];
    if let Some(first) = form.first() {
        env.push(variable("MASTER_ADDR", first));
        env.push(variable("MASTER_PORT", PORT.to_owned()));
    }
    let mut args = vec!["python".to_owned(), format!("{FILES}/{}", NODE_SCRIPT.0)];
    args.extend(job.words());
    let mut container = json!({
        // A PyTorchJob asks for this name.
        "name": "pytorch", "image": image.whole(), "args": args, "env": env,
        "volumeMounts": [
            {"name": "files", "mountPath": FILES, "readOnly": true},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    });
    if let Backend::Gpus(count) = job.request.backend {
        container["resources"] = json!({"limits": {"nvidia.com/gpu": count.to_string()}});
        // RDMA pins memory, and a pod has no field for the limit of that.
        container["securityContext"] = json!({"capabilities": {"add": ["IPC_LOCK"]}});
    }
    container
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::emit::tests::job;

    const IMAGE: &str = "host.example:5000/a/b@sha256:\
                         e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn documents(backend: Backend, nodes: u32, form: Form) -> Vec<Value> {
        let job = job(backend, nodes, What::Image(IMAGE.parse().unwrap()));
        let text = kubernetes(&job, form).unwrap();
        let documents = serde_yaml::Deserializer::from_str(&text);
        documents
            .map(|document| serde::Deserialize::deserialize(document).unwrap())
            .collect()
    }

    fn variable<'a>(pod: &'a Value, name: &str) -> Option<&'a str> {
        let env = pod["spec"]["containers"][0]["env"].as_array().unwrap();
        let found = env.iter().find(|variable| variable["name"] == name)?;
        found["value"].as_str()
    }

    #[test]
    fn a_pod_a_node() {
        let all = documents(Backend::Gpus(4), 3, Form::Job);
        let [files_of, service, run] = &all[..] else {
            panic!("{all:?}");
        };
        for (name, text) in files() {
            assert_eq!(files_of["data"][name], text, "{name}");
        }
        let spec = &run["spec"];
        assert_eq!(
            (&spec["completions"], &spec["parallelism"]),
            (&json!(3), &json!(3))
        );
        let pod = &spec["template"];
        assert_eq!(pod["metadata"]["labels"], service["spec"]["selector"]);
        assert_eq!(pod["spec"]["subdomain"], service["metadata"]["name"]);
        assert_eq!(
            variable(pod, "MASTER_ADDR"),
            Some("imgbuild-probe-0.imgbuild-probe")
        );
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["image"], IMAGE);
        assert_eq!(container["resources"]["limits"]["nvidia.com/gpu"], "4");
        let facts: Value =
            serde_json::from_str(variable(pod, "IMGBUILD_PROBE_JOB").unwrap()).unwrap();
        assert_eq!(
            (&facts["image"], &facts["nodes"]),
            (&json!(IMAGE), &json!(3))
        );
        let args = container["args"].as_array().unwrap();
        assert!(args.contains(&json!("--nnodes=3")), "{args:?}");
    }

    #[test]
    fn a_pytorch_job_has_a_master_and_the_others() {
        let replicas = |nodes: u32| {
            let all = documents(Backend::Cpu { nproc: 2 }, nodes, Form::PyTorchJob);
            all[1]["spec"]["pytorchReplicaSpecs"].clone()
        };
        let three = replicas(3);
        assert_eq!(three["Master"]["replicas"], 1);
        assert_eq!(three["Worker"]["replicas"], 2);
        let pod = &three["Worker"]["template"];
        // The operator tells where the master is.
        assert_eq!(variable(pod, "MASTER_ADDR"), None);
        assert_eq!(pod["spec"]["containers"][0].get("resources"), None);
        assert_eq!(replicas(1).get("Worker"), None);
    }

    #[test]
    fn a_job_set_has_its_own_names() {
        let all = documents(Backend::Gpus(1), 2, Form::JobSet);
        let jobs = &all[1]["spec"]["replicatedJobs"][0];
        let pod = &jobs["template"]["spec"]["template"];
        let first = format!("{NAME}-{}-0-0.{NAME}", jobs["name"].as_str().unwrap());
        assert_eq!(variable(pod, "MASTER_ADDR"), Some(first.as_str()));
    }

    #[test]
    fn pods_need_an_image() {
        let job = job(Backend::Gpus(1), 2, What::Python("python3".into()));
        assert!(
            kubernetes(&job, Form::Job)
                .unwrap_err()
                .to_string()
                .contains("needs an image")
        );
    }
}
