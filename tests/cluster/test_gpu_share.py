"""What a trial takes of a GPU: all but the GPU itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from crnn_search.cluster import gpu_share
from crnn_search.data.sequences import Digits
from crnn_search.spaces.file import parse_space
from crnn_search.training import memory
from tests.training.test_engine import SMALL

SPACE = """
space:
  conv_channels: [8, 16]
  gru_sizes: {list_of: {int: [8, 256]}, length: 1}
"""
PROGRAM = """
import json, sys, ray, torch
from crnn_search.cluster import gpu_share
from crnn_search.data.sequences import Digits
from crnn_search.spaces.file import parse_space
ray.init("local", num_cpus=1, num_gpus=1, include_dashboard=False, configure_logging=False)
digits = Digits(torch.zeros(50, 28, 28, dtype=torch.uint8), torch.zeros(50, dtype=torch.uint8))
print(json.dumps(gpu_share.read_gpu(parse_space(sys.argv[1]), digits)))
"""


def test_the_largest_network_is_measured() -> None:
    found = gpu_share.largest(parse_space(SPACE))
    assert found is not None
    assert found.model.gru_sizes[0] > 240


def test_without_a_possible_network_there_is_no_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    impossible = {"conv_channels": [8, 8, 8], "kernel_size": 9, "padding": "valid"}
    monkeypatch.setattr(gpu_share, "sample", lambda *arguments: [impossible] * 3)
    assert gpu_share.largest(parse_space(SPACE)) is None


@pytest.mark.parametrize(
    ("peak_mb", "total_mb", "share"),
    [(2500, 80_000, 0.0625), (20_000, 80_000, 0.3333), (70_000, 80_000, 1.0), (90_000, 80_000, 1)],
)
def test_as_many_share_a_gpu_as_fit(peak_mb: float, total_mb: float, share: float) -> None:
    assert gpu_share.share_of(peak_mb, total_mb) == share
    fitting = round(1 / share)
    assert fitting * share <= 1
    if fitting > 1:  # what a process may take, then, is what was measured at least
        assert memory.own_share(share, total_mb) * total_mb > peak_mb


def test_a_reading_tells_what_was_measured() -> None:
    told = gpu_share.Reading("NVIDIA H200", 150_000, 9_000, mps=False).describe()
    assert "takes 9,000 of 150,000 MB, so 13 trials share it; MPS does not run" in told


def test_it_trains_and_evaluates(digits: Digits) -> None:
    assert gpu_share.measure(SMALL, digits, 8, torch.device("cpu")) > 50


def test_mps_is_seen_by_its_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    assert not memory.mps_runs()
    (tmp_path / "control").touch()
    assert memory.mps_runs()


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU that answers")
def test_a_gpu_that_does_not_answer_is_none() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, SPACE], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) is None
