"""The cluster files are valid by Ray's own schema, and by the fields that KubeRay publishes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
RAY_FILES = ["cluster.yaml", "cluster.on-prem.yaml"]
FILES = [*RAY_FILES, "cluster.kuberay.yaml"]


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def kuberay_fields() -> Any:
    return json.loads((ROOT / "tests" / "kuberay_fields.json").read_text())


@pytest.mark.parametrize("name", RAY_FILES)
def test_valid_by_rays_schema(name: str) -> None:
    import ray

    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(read(name), schema)


@pytest.mark.parametrize("name", RAY_FILES)
def test_every_node_requires_the_token_and_has_the_pinned_versions(name: str) -> None:
    config = read(name)
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        *_, start = config[key]
        assert "RAY_AUTH_MODE=token" in start.partition("ray start")[0]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    assert "nvidia-cuda-mps-control -d" in config["worker_start_ray_commands"][1]
    assert any("--constraint" in c and "constraints.txt" in c for c in config["setup_commands"])


def test_no_trial_runs_on_a_head() -> None:
    aws = read("cluster.yaml")
    assert aws["available_node_types"][aws["head_node_type"]]["resources"]["CPU"] == 0
    assert "--num-cpus=0" in read("cluster.on-prem.yaml")["head_start_ray_commands"][-1]
    assert (
        read("cluster.kuberay.yaml")["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    )


def test_on_premises_file_has_rays_node_type() -> None:
    from ray.autoscaler._private.local.config import prepare_local

    config, changed = prepare_local(read("cluster.on-prem.yaml"))
    assert changed
    (workers,) = config["available_node_types"].values()
    assert (workers["min_workers"], workers["max_workers"]) == (2, 2)


def test_every_field_is_kuberays() -> None:
    config = read("cluster.kuberay.yaml")
    jsonschema.validate(config, kuberay_fields())
    assert config["spec"]["authOptions"] == {"mode": "token"}
    pinned = (ROOT / "constraints.txt").read_text()
    assert f"ray=={config['spec']['rayVersion']}" in pinned


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("spec", "authOption"), {"mode": "token"}, "authOption"),
        (("spec", "authOptions", "mode"), "tokens", "is not one of"),
        (("spec", "headGroupSpec", "rayStartParams", "num-cpus"), 0, "is not of type 'string'"),
        (("spec", "workerGroupSpecs", 0, "minReplica"), 1, "minReplica"),
    ],
)
def test_wrong_field_is_found(path: tuple[Any, ...], value: Any, message: str) -> None:
    config = read("cluster.kuberay.yaml")
    part = config
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError, match=message):
        jsonschema.validate(config, kuberay_fields())


@pytest.mark.parametrize("name", FILES)
def test_examples_are_marked_to_be_changed(name: str) -> None:
    for line in (ROOT / name).read_text().splitlines():
        if re.search(r"ami-|example/|192\.168\.1\.10|region:|ssh_user: |claimName|CHANGE-ME", line):
            assert "CHANGE" in line, line
