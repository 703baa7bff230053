"""The share of a GPU that a trial gets: all but the GPU itself."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from crnn_search.cluster import gpu_share
from crnn_search.cluster.gpu_share import GpuProbe, ProbeWork, probe_gpu
from crnn_search.cluster.nodes import Node, NoResult
from crnn_search.data.digits import Digits
from crnn_search.data.mnist_sums import MnistSums
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
NOTHING = MnistSums(
    Digits(torch.zeros(50, 28, 28, dtype=torch.uint8), torch.zeros(50, dtype=torch.uint8)), 8
)
PROBE = GpuProbe("NVIDIA H200", 150_000, 9_000, mps=False)
SMALLER = GpuProbe("NVIDIA A10", 24_000, 9_000, mps=False)
FULL = GpuProbe("NVIDIA T4", 16_000, None, mps=True)
PROGRAM = """
import json, os, sys, time, ray, torch
from crnn_search.cluster import gpu_share, nodes
from crnn_search.data.digits import Digits
from crnn_search.data.mnist_sums import MnistSums
from crnn_search.spaces.file import parse_space
ray.init("local", num_cpus=1, num_gpus=1, include_dashboard=False, configure_logging=False)
digits = Digits(torch.zeros(50, 28, 28, dtype=torch.uint8), torch.zeros(50, dtype=torch.uint8))
notes, alive = [], nodes.nodes()
probe = gpu_share.probe_gpu(parse_space(sys.argv[1]), MnistSums(digits, 8), notes.append)

def add(first, second):
    return first + second

def run(function, *arguments, timeout_s=60, gpus=0.0):
    ((node, answer),) = nodes.run_on_nodes(
        alive, function, *arguments, gpus=gpus, timeout_s=timeout_s
    )
    return answer

late = run(lambda: time.sleep(60), timeout_s=0.5)
processes = [run(lambda: os.getpid(), gpus=0.01) for _ in range(2)]
print(json.dumps(
    [probe, notes, run(add, 2, 3), run(add, 2, "3").reason, late.reason, processes]
))
"""


def test_largest_networks_are_measured() -> None:
    found = gpu_share.largest(parse_space(SPACE))
    assert len(found) == len(set(found)) == 3
    sizes = [config.model.gru_sizes[0] for config in found]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] > 230


def test_without_a_feasible_network_there_is_no_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    infeasible = {"conv_channels": [8, 8, 8], "kernel_size": 9, "padding": "valid"}
    monkeypatch.setattr(gpu_share, "sample", lambda *arguments: [infeasible] * 3)
    assert gpu_share.largest(parse_space(SPACE)) == ()


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


def test_trial_that_does_not_fit_gets_a_whole_gpu() -> None:
    assert FULL.share == 1.0
    assert "did not fit in its free memory, so a trial gets all of it; MPS runs" in FULL.describe()


def test_one_gpu_of_each_kind_is_measured() -> None:
    gpu = Node("a", "first", 8, 4, 64.0, "H100")
    alive = [
        gpu,
        dataclasses.replace(gpu, id="b", gpus=0, gpu_kind=None),
        dataclasses.replace(gpu, id="c", gpu_kind="A10G"),
        dataclasses.replace(gpu, id="d"),
        dataclasses.replace(gpu, id="e", gpu_kind=None),
        dataclasses.replace(gpu, id="f", gpu_kind=None),
        dataclasses.replace(gpu, id="g", gpu_kind="T4", cpus=1),
    ]
    assert [node.id for node in gpu_share.one_of_each_kind(alive, 2.0)] == ["a", "c", "e", "f"]


def test_mps_is_recognised_by_its_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    assert not memory.mps_runs()
    (tmp_path / "control").touch()
    assert memory.mps_runs()


class FakeCluster:
    """A node with a GPU for each answer of the probe; a node's name is its number."""

    def __init__(self, answers: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers = answers
        self.work: ProbeWork | None = None
        alive = [Node(str(n), str(n), 8, 1, 64.0, f"kind {n}") for n in range(len(answers))]
        monkeypatch.setattr(gpu_share, "nodes", lambda: alive)
        monkeypatch.setattr(gpu_share, "run_on_nodes", self.run_on_nodes)
        monkeypatch.setattr(gpu_share, "resolve_arithmetic", lambda *_: Arithmetic("bfloat16"))
        monkeypatch.setattr("ray.put", lambda value: value)

    def run_on_nodes(
        self, targets: list[Node], function: Any, work: ProbeWork, *_: Any, **options: Any
    ) -> list[tuple[Node, Any]]:
        assert options == {"gpus": 0.01, "timeout_s": 180.0}
        self.work = work
        return list(zip(targets, self.answers, strict=True))


def test_measured_gpu_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, space = FakeCluster([PROBE], monkeypatch), parse_space(SPACE)
    assert probe_gpu(space, NOTHING, pytest.fail) == PROBE
    assert cluster.work == ProbeWork(
        gpu_share.largest(space), space.search.epoch_sequences, Arithmetic("bfloat16")
    )


@pytest.mark.parametrize(
    ("answers", "decides"), [([PROBE, SMALLER], SMALLER), ([FULL, SMALLER, PROBE], FULL)]
)
def test_share_fits_on_unlike_gpus(
    answers: list[GpuProbe], decides: GpuProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeCluster(answers, monkeypatch)
    notes: list[str] = []
    assert probe_gpu(parse_space(SPACE), NOTHING, notes.append) == decides
    others = [probe for probe in answers if probe != decides]
    assert notes == [
        f"{probe.describe()}. {decides.gpu} decides: the share must fit on all GPUs"
        for probe in others
    ]
    assert all(probe.share <= decides.share for probe in others)


@pytest.mark.parametrize(
    ("answers", "probe"),
    [([NoResult("it does not answer within 180 s")], None), ([None, PROBE], PROBE)],
)
def test_gpu_that_cannot_be_measured_is_noted(
    answers: list[Any], probe: GpuProbe | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeCluster(answers, monkeypatch)
    notes: list[str] = []
    assert probe_gpu(parse_space(SPACE), NOTHING, notes.append) == probe
    reason = "it has no CUDA" if answers[0] is None else "it does not answer within 180 s"
    assert notes == [f"no GPU of 0 could be measured: {reason}"]


def test_exception_of_the_measurement_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCluster(["RuntimeError: CUDA error: no kernel"], monkeypatch)
    with pytest.raises(
        InputError, match="of a GPU of 0 failed: RuntimeError: CUDA error: no kernel; repair it"
    ):
        probe_gpu(parse_space(SPACE), NOTHING, pytest.fail)


@pytest.mark.parametrize(
    ("outcomes", "found"),
    [
        ([700.0, 900.0], GpuProbe("NVIDIA H200", 150_000, 900.0, mps=False)),
        ([700.0, torch.OutOfMemoryError("no")], GpuProbe("NVIDIA H200", 150_000, None, mps=False)),
        ([ConfigError(["conv_channels must be"])], "ConfigError: conv_channels must be"),
        ([RuntimeError("CUDA error: no kernel\nmore")], "RuntimeError: CUDA error: no kernel"),
    ],
)
def test_probe_answers(outcomes: list[Any], found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def peak_of(*_: Any) -> float:
        outcome: Any = waiting.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return float(outcome)

    waiting = list(outcomes)
    properties = SimpleNamespace(name="NVIDIA H200", total_memory=150e9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(MnistSums, "to", lambda task, device: task)
    monkeypatch.setattr(gpu_share, "peak_of", peak_of)
    work = ProbeWork((SMALL,) * len(outcomes), 60_000, Arithmetic())
    assert gpu_share._probe(work, NOTHING) == found


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_probe_runs_on_cuda(digits: Digits) -> None:
    work = ProbeWork((SMALL,), 60_000, Arithmetic())
    answer = gpu_share._probe(work, MnistSums(digits, 8))
    assert isinstance(answer, GpuProbe)
    assert answer.peak_mb is not None
    assert 47 < answer.peak_mb < answer.total_mb
    assert 1 / gpu_share.MAX_PER_GPU <= answer.share <= 1


@pytest.mark.long(20)
@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU that answers")
def test_tasks_on_real_nodes() -> None:
    """A GPU that is only declared cannot be measured; nodes answer, fail and are late."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, SPACE],
        capture_output=True,
        text=True,
        check=True,
        timeout=400,
    )
    probe, notes, answer, failure, late, processes = json.loads(done.stdout.splitlines()[-1])
    assert probe is None
    assert len(notes) == 1
    assert notes[0].endswith(" could be measured: it has no CUDA")
    assert answer == 5
    assert failure.startswith("the task failed: TypeError: unsupported operand")
    assert late == "it does not answer within 0 s"
    assert len(set(processes)) == 2  # one that has used a GPU would keep some of its memory
