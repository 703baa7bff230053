"""The share of a GPU that a trial gets: all but the GPU itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray.exceptions
import torch

from crnn_search.cluster import gpu_share
from crnn_search.cluster.gpu_share import GpuProbe, probe_gpu
from crnn_search.cluster.nodes import Node
from crnn_search.data.sequences import Digits
from crnn_search.errors import ConfigError, InputError
from crnn_search.hyperparameters import Arithmetic, ModelSpec, TrainingSpec, TrialConfig
from crnn_search.spaces.file import parse_space
from crnn_search.training import memory

SPACE = """
space:
  conv_channels: [8, 16]
  gru_sizes: {list_of: {int: [8, 256]}, length: 1}
"""
SMALL = TrialConfig(ModelSpec(conv_channels=(4,), gru_sizes=(8,)), TrainingSpec(batch_size=32))
NO_DIGITS = Digits(torch.zeros(50, 28, 28, dtype=torch.uint8), torch.zeros(50, dtype=torch.uint8))
PROBE = GpuProbe("NVIDIA H200", 150_000, 9_000, mps=False)
PROGRAM = """
import json, sys, time, ray, torch
from crnn_search.cluster import gpu_share, nodes
from crnn_search.data.sequences import Digits
from crnn_search.spaces.file import parse_space
ray.init("local", num_cpus=1, num_gpus=1, include_dashboard=False, configure_logging=False)
digits = Digits(torch.zeros(50, 28, 28, dtype=torch.uint8), torch.zeros(50, dtype=torch.uint8))
notes, alive = [], nodes.nodes()
probe = gpu_share.probe_gpu(parse_space(sys.argv[1]), digits, notes.append)

def add(first, second):
    return first + second

def run(function, *arguments, timeout_s=60):
    ((node, answer),) = nodes.run_on_nodes(alive, function, *arguments, timeout_s=timeout_s)
    return answer

late = run(lambda: time.sleep(60), timeout_s=0.5)
print(json.dumps([probe, notes, run(add, 2, 3), run(add, 2, "3").reason, late.reason]))
"""


def test_largest_network_is_measured() -> None:
    found = gpu_share.largest(parse_space(SPACE))
    assert found is not None
    assert found.model.gru_sizes[0] > 240


def test_without_a_feasible_network_there_is_no_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    infeasible = {"conv_channels": [8, 8, 8], "kernel_size": 9, "padding": "valid"}
    monkeypatch.setattr(gpu_share, "sample", lambda *arguments: [infeasible] * 3)
    assert gpu_share.largest(parse_space(SPACE)) is None


@pytest.mark.parametrize(
    ("peak_mb", "total_mb", "share"),
    [(2500, 80_000, 0.0625), (20_000, 80_000, 0.3333), (70_000, 80_000, 1.0), (90_000, 80_000, 1)],
)
def test_as_many_share_a_gpu_as_fit(peak_mb: float, total_mb: float, share: float) -> None:
    assert gpu_share.share_of(peak_mb, total_mb) == share
    fitting = round(1 / share)
    assert fitting * share <= 1
    if fitting > 1:  # then a process may take what was measured, at least
        assert memory.own_share(share, total_mb) * total_mb > peak_mb


def test_probe_describes_what_was_measured() -> None:
    text = PROBE.describe()
    assert "takes 9,000 of 150,000 MB, so 13 trials share it; MPS does not run" in text


def test_a_few_steps_and_a_validation_are_measured(digits: Digits) -> None:
    assert gpu_share.peak_of(SMALL, digits, 8, Arithmetic()) > 50


def test_mps_is_recognised_by_its_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    assert not memory.mps_runs()
    (tmp_path / "control").touch()
    assert memory.mps_runs()


class FakeRay:
    """Ray with a GPU, on which the probe gives this answer."""

    exceptions = ray.exceptions

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.cancelled = False

    def remote(self, *arguments: Any) -> Any:
        return self

    def options(self, **options: Any) -> Any:
        return self

    def get(self, reference: Any, timeout: float) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def cancel(self, reference: Any, force: bool) -> None:
        self.cancelled = True


@pytest.fixture
def fake_ray(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay(request.param)
    monkeypatch.setattr(gpu_share, "ray", fake)
    monkeypatch.setattr(gpu_share, "nodes", lambda: [Node("id", "name", 8, 1, 64.0)])
    return fake


@pytest.mark.parametrize("fake_ray", [PROBE], indirect=True)
def test_measured_gpu_is_returned(fake_ray: FakeRay) -> None:
    assert probe_gpu(parse_space(SPACE), NO_DIGITS, pytest.fail) == PROBE


@pytest.mark.parametrize(
    ("fake_ray", "reason"),
    [
        (None, "it has no CUDA, or too little free memory"),
        (ray.exceptions.GetTimeoutError("late"), "none is free within 180 s"),
        (ray.exceptions.WorkerCrashedError(), "WorkerCrashedError: The worker died"),
    ],
    indirect=["fake_ray"],
)
def test_gpu_that_cannot_be_measured_is_noted(fake_ray: FakeRay, reason: str) -> None:
    notes: list[str] = []
    assert probe_gpu(parse_space(SPACE), NO_DIGITS, notes.append) is None
    assert notes[0].startswith(f"no GPU could be measured: {reason}")
    assert fake_ray.cancelled == ("free" in reason and "none" in reason)


def raised(error: Exception) -> ray.exceptions.RayTaskError:
    return ray.exceptions.RayTaskError("_probe", "the traceback", error)


@pytest.mark.parametrize(
    ("fake_ray", "reason"),
    [
        (raised(ConfigError(["conv_channels must be"])), "ConfigError: conv_channels must be"),
        (
            raised(RuntimeError("CUDA error: no kernel\nmore")),
            "RuntimeError: CUDA error: no kernel",
        ),
    ],
    indirect=["fake_ray"],
)
def test_exception_of_the_measurement_is_not_hidden(fake_ray: FakeRay, reason: str) -> None:
    with pytest.raises(InputError, match=f"a trial takes of a GPU failed: {reason}; repair it"):
        probe_gpu(parse_space(SPACE), NO_DIGITS, pytest.fail)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU that answers")
def test_tasks_on_real_nodes() -> None:
    """A GPU that is only declared cannot be measured; nodes answer, fail and are late."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, SPACE], capture_output=True, text=True, check=True
    )
    probe, notes, answer, failure, late = json.loads(done.stdout.splitlines()[-1])
    assert probe is None
    assert notes == ["no GPU could be measured: it has no CUDA, or too little free memory"]
    assert answer == 5
    assert failure.startswith("the task failed: TypeError: unsupported operand")
    assert late == "it does not answer within 0 s"
