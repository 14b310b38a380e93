"""What the tests of the manifests share: kustomize's output, and where things are in it."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
KUBERAY = REPOSITORY / "cluster/kuberay"
FOLDERS = (
    "base",
    *(
        f"overlays/{size}/{what}"
        for size in ("dev", "gpu")
        for what in ("cluster", "distill", "study")
    ),
)


def render(folder: str) -> list[dict[str, Any]]:
    """The objects that `kubectl apply -k cluster/kuberay/FOLDER` would send."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl, which renders the manifests, is not installed")
    rendered = subprocess.run(
        ["kubectl", "kustomize", KUBERAY / folder], capture_output=True, text=True
    )
    assert rendered.returncode == 0, rendered.stderr
    return list(yaml.safe_load_all(rendered.stdout))


def cluster_of(item: dict[str, Any]) -> dict[str, Any]:
    """The Ray cluster's specification in a RayCluster, RayJob or RayService."""
    spec = item["spec"]
    return {"RayCluster": spec, "RayJob": spec.get("rayClusterSpec")}.get(
        item["kind"], spec.get("rayClusterConfig")
    )


def ray_clusters(items: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The clusters' specifications, by the name of the object that has it."""
    ours = [item for item in items if item["apiVersion"] == "ray.io/v1"]
    return {item["metadata"]["name"]: cluster_of(item) for item in ours}


def pods(items: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(whose, specification) of every kind of pod."""
    for item in items:
        if item["kind"] == "StatefulSet":
            yield item["metadata"]["name"], item["spec"]["template"]["spec"]
    for name, cluster in ray_clusters(items).items():
        yield f"{name} head", cluster["headGroupSpec"]["template"]["spec"]
        for group in cluster["workerGroupSpecs"]:
            yield f"{name} {group['groupName']}", group["template"]["spec"]
