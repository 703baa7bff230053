"""Ablations: what is trained, and what the table says of it."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import ablations
from crnn_search.data.digits import Digits
from crnn_search.hyperparameters import TrialConfig
from tests.benchmarks.synthetic import run
from tests.small_run import write_mnist


def lines(*values: float | None) -> list[dict[str, Any]]:
    return [{"sequences": 6000, "cpu_s": 59.6, "validation_rmse": value} for value in values]


def test_every_variant_differs_in_one_thing() -> None:
    recipe, *others = ablations.variants(ablations.F)
    assert recipe.config == TrialConfig.from_dict(ablations.F).to_dict()
    for other in others:
        changed = {name for name, value in other.config.items() if value != recipe.config[name]}
        in_code = other.name in {ablations.PLAIN_GRU, ablations.NO_GRU}
        assert (len(changed) > 0) != in_code
        TrialConfig.from_dict(other.config)
    without = next(v.config for v in others if v.name == "without reuse")
    assert (without["reuse"], without["batch_size"]) == (1, 32), "as many images in a batch"


def test_plain_grus_start_as_pytorchs() -> None:
    by_name = {v.name: v.start(0) for v in ablations.variants({"conv_channels": [4]})}
    gate = {
        name: by_name[name].model.grus[0].get_parameter("weight_hh_l0").detach()[:64]
        for name in (ablations.RECIPE, ablations.PLAIN_GRU)
    }
    torch.testing.assert_close(gate[ablations.RECIPE] @ gate[ablations.RECIPE].T, torch.eye(64))
    assert float(gate[ablations.PLAIN_GRU].abs().max()) <= 1 / 8


def test_sum_of_images_is_that_of_each_sequence() -> None:
    layer = ablations.ImageSum(2, 3)
    inputs = torch.randn(6, 2)  # lengths 3, 2 and 1, in packed order
    values = layer.project(inputs)
    states, last = layer.recur(values, torch.tensor([3, 2, 1]))
    torch.testing.assert_close(last[0], values[[0, 3, 5]].sum(0))
    torch.testing.assert_close(last[1], values[[1, 4]].sum(0))
    torch.testing.assert_close(last[2], values[2])
    torch.testing.assert_close(states[[5, 4, 2]], last)
    torch.testing.assert_close(states[3], values[[0, 3]].sum(0))


def test_network_without_a_gru_trains_and_predicts() -> None:
    (variant,) = (
        v for v in ablations.variants({"conv_channels": [4], "gru_sizes": [8, 5]})
        if v.name == ablations.NO_GRU
    )  # fmt: skip
    model = variant.start(0).model
    images, sizes = torch.randint(256, (3, 1, 28, 28), dtype=torch.uint8), torch.tensor([2, 1])
    model.eval()
    sums = model(images, sizes)
    alone = [model(images[[place]], torch.tensor([1])) for place in range(3)]
    bias = model.output.bias
    torch.testing.assert_close(sums[:1], alone[0] + alone[2] - bias)
    sums.sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())
    assert [tuple(weight.shape) for weight in model.grus.parameters()][1:] == [(8,)]


def test_table_compares_pairs() -> None:
    rows = {"recipe": lines(0.5, 0.6, 0.7), "without reuse": lines(0.55, 0.72, 0.77)}
    text = ablations.markdown(rows, {})
    logs = [math.log(x) for x in (1.1, 1.2, 1.1)]
    half = 4.303 * statistics.stdev(logs) / math.sqrt(3)
    mean = statistics.fmean(logs)
    low, middle, high = (f"{math.exp(mean + sign * half):.3f}" for sign in (-1, 0, 1))
    assert text.splitlines() == [
        "|  | sequences | CPU s | validation RMSE | times the recipe's |",
        "| --- | --: | --: | --: | --: |",
        "| recipe | 6,000 | 60 | 0.600 ± 0.100 |  |",
        f"| without reuse | 6,000 | 60 | 0.680 ± 0.115 | {middle} ({low} to {high}) |",
    ]


def test_table_of_one_seed_and_of_one_that_diverged() -> None:
    rows = {"recipe": lines(0.5), "a": lines(0.6), "b": lines(None)}
    text = ablations.markdown(rows, {"recipe": [0.4], "a": [0.5], "b": [9.0]})
    assert text.splitlines()[2:] == [
        "| recipe | 6,000 | 60 | 0.500 |  | 0.400 |",
        "| a | 6,000 | 60 | 0.600 | 1.200 | 0.500 |",
        "| b | 6,000 | 60 | 1 of 1 diverged |  | 9.000 |",
    ]


@pytest.mark.slow
def test_a_measurement_continues_and_scores_at_the_end(tmp_path: Path, digits: Digits) -> None:
    write_mnist(tmp_path / "data", digits)
    small = {"conv_channels": [4], "kernel_size": 5, "pooling": 4, "gru_sizes": [8]}
    (tmp_path / "recipe.json").write_text(json.dumps(small))
    words = ["--seconds", "0.2", "--data-dir", "data", "--recipe", "recipe.json"]
    words += ["--output", "found.jsonl", "--only", "without reuse"]
    first = run(tmp_path, "benchmarks.ablations", *words, "--seeds", "1")
    assert first.returncode == 0, first.stderr
    before = (tmp_path / "found.jsonl").read_text()
    second = run(tmp_path, "benchmarks.ablations", *words, "--seeds", "2", "--test")
    assert second.returncode == 0, second.stderr
    after = (tmp_path / "found.jsonl").read_text()
    assert after.startswith(before)
    found = [json.loads(line) for line in after.splitlines()]
    assert [(line["variant"], line["seed"]) for line in found] == [
        ("recipe", 0), ("without reuse", 0), ("recipe", 1), ("without reuse", 1),
    ]  # fmt: skip
    assert found[0]["sequences"] == found[2]["sequences"]
    assert found[0]["config"] | {"reuse": 1, "batch_size": 32} == found[1]["config"]
    assert "test RMSE" not in first.stdout
    assert "| without reuse | " in second.stdout
    assert "test RMSE" in second.stdout
    other = run(tmp_path, "benchmarks.ablations", *words, "--only", "without sense")
    assert other.returncode == 2
    assert "--only takes recipe; without reuse;" in other.stderr
