"""How fast trials train and what they take, measured before the first one."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest
import torch

from crnn_search.cluster import pace
from crnn_search.cluster.nodes import Node
from crnn_search.cluster.resources import Allocation
from crnn_search.data.digits import Digits
from crnn_search.data.mnist_sums import MnistSums
from crnn_search.hyperparameters import Arithmetic
from crnn_search.kernels.processor import cpu_model
from crnn_search.spaces.file import parse_space

SPACE = parse_space("""
search: {epoch_sequences: 1000}
first: [{gru_sizes: [16]}]
space:
  conv_channels: {choice: [[2], [4], [8]]}
  gru_sizes: {choice: [[8], [16]]}
  pooling: 4
""")


def test_middle_is_neither_the_smallest_nor_the_largest() -> None:
    config = pace.middle(SPACE)
    assert config is not None
    sizes = (config.model.conv_channels, config.model.gru_sizes)
    assert sizes not in {((2,), (8,)), ((8,), (16,))}


@pytest.mark.parametrize("cores", [1.0, 0.0])
def test_pace_is_measured_here(
    digits: Digits, monkeypatch: pytest.MonkeyPatch, cores: float
) -> None:
    alive = [Node("id", platform.node(), cores, 0.0, 8.0)]
    monkeypatch.setattr(pace, "nodes", lambda: alive)
    threads = torch.get_num_threads()
    found = pace.measure_pace(SPACE, MnistSums(digits, 8), Allocation(1.0, 0.0, 2), Arithmetic())
    assert torch.get_num_threads() == threads
    if cores:
        assert found is not None
        assert 1e-7 < found < 0.1
    else:
        assert found is None, "no node runs trials"


PROGRAM = """
import json, sys, ray, torch
from crnn_search.cluster import pace
from crnn_search.cluster.resources import Allocation
from crnn_search.data.digits import Digits, TRAINING_IMAGES
from crnn_search.data.mnist_sums import MnistSums
from crnn_search.errors import InputError
from crnn_search.hyperparameters import Arithmetic, ModelSpec, TrainingSpec, TrialConfig
from crnn_search.spaces.file import parse_space
ray.init("local", num_cpus=1, include_dashboard=False, configure_logging=False)
images = torch.zeros(TRAINING_IMAGES, 28, 28, dtype=torch.uint8)
labels = torch.arange(TRAINING_IMAGES).remainder(10).to(torch.uint8)
task, done = MnistSums(Digits(images, labels), 2), []
configs = [
    TrialConfig(ModelSpec(conv_channels=(width,), gru_sizes=(8,)), TrainingSpec())
    for width in (64, 4, 32)
]

def measured(task):
    return pace.measure_costs(
        configs, parse_space("space: {}"), task, Allocation(1.0, 0.0, 1), Arithmetic(),
        lambda *step: done.append(step),
    )

costs, device = measured(task)
try:
    measured(MnistSums(Digits(images[:50], labels[:50]), 2))
except InputError as error:
    failure = str(error)
print(json.dumps([[vars(cost) for cost in costs], device, done, failure]))
"""


@pytest.mark.long(25)
@pytest.mark.slow
def test_costs_are_measured_by_processes_of_rays() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wide, narrow, middle), device, steps, failure = json.loads(done.stdout.splitlines()[-1])
    assert narrow["memory_mb"] < middle["memory_mb"] < wide["memory_mb"], "the smallest first"
    assert all(
        0 < cost["retrain_epoch_s"] < cost["search_epoch_s"] for cost in (wide, narrow, middle)
    )
    assert device == cpu_model()
    assert steps == [["measuring", number, 3] for number in (1, 2, 3)]
    assert failure.startswith("measuring what a trial takes failed: ")
