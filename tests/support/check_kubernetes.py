#!/usr/bin/env python3
"""Holds Kubernetes documents against published schemas and prints their kinds; ends with 1 at the first fault.

    check_kubernetes.py FILE.yaml

Kubernetes' own kinds: its OpenAPI schemas as kubernetes-validate carries them, strict, of its oldest and its newest
version. JobSet: the models that Kubeflow generates from JobSet's OpenAPI (kubeflow-trainer-api); PyTorchJob: those of
kubeflow-training. Models drop what they do not know, so a document must come back whole; the pods in both are held
against Kubernetes' own schemas, too, as a Job's.
"""

import sys

import kubernetes_validate
import yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

from kubeflow.training import ApiClient

VERSIONS = ("1.33", "1.37")
CORE = {"ConfigMap", "Service", "Job"}


def core(document):
    for version in VERSIONS:
        kubernetes_validate.validate(document, version, strict=True)


def job(spec):
    core({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "of-another"}, "spec": spec})


def whole(document, again):
    if document != again:
        raise SystemExit(f"the models of {document['kind']} do not know all of it: {document} came back as {again}")


def job_set(document):
    whole(document, JobsetV1alpha2JobSet.from_dict(document).to_dict())
    for part in document["spec"]["replicatedJobs"]:
        job(part["template"]["spec"])


class Answer:
    """What the client's models are read from."""

    def __init__(self, data):
        self.data = data


def pytorch_job(document):
    import json

    client = ApiClient()
    model = client.deserialize(Answer(json.dumps(document)), "KubeflowOrgV1PyTorchJob")
    whole(document, client.sanitize_for_serialization(model))
    for part in document["spec"]["pytorchReplicaSpecs"].values():
        job({"template": part["template"]})


def main(path):
    with open(path, encoding="utf-8") as file:
        documents = list(yaml.safe_load_all(file))
    for document in documents:
        check = core if document["kind"] in CORE else {"JobSet": job_set, "PyTorchJob": pytorch_job}[document["kind"]]
        check(document)
    print(*(document["kind"] for document in documents))


if __name__ == "__main__":
    main(sys.argv[1])
