"""The manifests against the schemas of KubeRay, and what its operator refuses beyond them."""

import copy
import shlex
from functools import cache
from typing import Any

import jsonschema
import pytest
import yaml

from tests.helpers.manifests import FOLDERS, REPOSITORY, cluster_of, ray_clusters, render

SCHEMAS = REPOSITORY.parent / "shared/kuberay-crds"


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema of a custom resource's: Kubernetes drops unknown fields, this refuses them."""
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    made = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    if made.get("format") in ("int32", "int64"):
        del made["format"]
    if "properties" in made:
        made["properties"] = {name: closed(part) for name, part in made["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(made.get(key), dict):
            made[key] = closed(made[key])
    return made


@cache
def validator(kind: str) -> jsonschema.Draft202012Validator:
    if not SCHEMAS.is_dir():
        pytest.skip(f"the schemas of KubeRay are not in {SCHEMAS}")
    text = (SCHEMAS / f"ray.io_{kind.lower()}s.yaml").read_text()
    definition = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (schema,) = (
        version["schema"]["openAPIV3Schema"]
        for version in definition["spec"]["versions"]
        if version["name"] == "v1"
    )
    made = closed(schema)
    made["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own, not in the schema
    return jsonschema.Draft202012Validator(made)


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_ray_object_is_valid(folder):
    ours = [item for item in render(folder) if item["apiVersion"] == "ray.io/v1"]
    assert ours
    for item in ours:
        errors = [
            f"{error.json_path}: {error.message[:200]}"
            for error in validator(item["kind"]).iter_errors(item)
        ]
        assert not errors, (item["kind"], errors)


def test_the_check_finds_what_is_wrong():
    (cluster,) = (item for item in render("base") if item["kind"] == "RayCluster")
    for change in (
        lambda spec: spec["autoscalerOptions"].update(version="v3"),
        lambda spec: spec["headGroupSpec"]["template"]["spec"].update(nodeSelectr={}),
        lambda spec: spec["workerGroupSpecs"][0].update(maxReplicas="2"),
        lambda spec: spec["workerGroupSpecs"][0].pop("groupName"),
    ):
        broken = copy.deepcopy(cluster)
        change(broken["spec"])
        assert not validator("RayCluster").is_valid(broken)


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_the_operator_refuses_beyond_the_schemas(folder):
    """The operator checks these in validation.go of KubeRay 1.7."""
    items = render(folder)
    for cluster in ray_clusters(items).values():
        assert cluster["rayVersion"]  # authentication with tokens is refused without it
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        for group in groups:  # the autoscaler of version 2 replaces pods itself
            assert group["template"]["spec"].get("restartPolicy", "Never") == "Never"
            assert not (group.get("resources") and group.get("rayStartParams"))
        for feature in ("networkPolicy", "tlsOptions", "historyServerOptions"):  # gated
            assert feature not in cluster
        assert cluster.get("gcsFaultToleranceOptions", {}).get("backend") in (None, "redis")
    for job in (item for item in items if item["kind"] == "RayJob"):
        spec = job["spec"]
        assert "submitterPodTemplate" not in spec and spec["submissionMode"] == "SidecarMode"
        assert "shutdownAfterJobFinishes" not in spec  # there are deletion rules
        rules = spec["deletionStrategy"]["deletionRules"]
        assert "DeleteWorkers" not in [rule["policy"] for rule in rules]  # they scale themselves
        keys = [(rule["policy"], rule["condition"]["jobStatus"]) for rule in rules]
        assert len(set(keys)) == len(keys)
        # The submitter's shell sees the entry point, then Ray's: no line may end within it.
        assert "\n" not in spec["entrypoint"] and shlex.split(spec["entrypoint"])
        assert cluster_of(job)["workerGroupSpecs"]
