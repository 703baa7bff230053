"""The benchmark's peers do the engine's work; its table says what was measured."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from benchmarks import gpu, simulate
from benchmarks.peers import keras_demo, recipe
from benchmarks.table import markdown, replace_section, summarise
from benchmarks.work import (
    NETWORKS,
    Trained,
    Work,
    epochs_per_hour,
    padded,
    start_s,
    validation,
)
from crnn_search.data.sequences import Digits, draw_table, split_images
from crnn_search.hyperparameters import TrialConfig
from crnn_search.training import engine, predict
from crnn_search.training.engine import TrainingData
from crnn_search.training.model import CRNN
from tests.conftest import small_table
from tests.small_run import write_mnist

CPU = torch.device("cpu")


@pytest.fixture(params=NETWORKS)
def config(request: pytest.FixtureRequest) -> TrialConfig:
    return TrialConfig.from_dict(NETWORKS[request.param])


def started(config: TrialConfig) -> CRNN:
    """A network whose batch norm, if it has any, has seen some images."""
    model = engine.start(config, seed=5, epochs=1, device=CPU).model
    model(torch.rand(16, 1, 1, 28, 28), torch.ones(16, dtype=torch.int64))
    return model.eval()


def test_plain_network_gives_the_packages_sums(config: TrialConfig, digits: Digits) -> None:
    model, plain = started(config), recipe.PlainCRNN(config.model).eval()
    plain.load_state_dict(model.state_dict())
    table = small_table(digits, 40)
    images, lengths, sums = next(iter(DataLoader(recipe.Sequences(digits, table), 40)))
    assert torch.equal(images, padded(digits, table, slice(None)))
    assert torch.equal(sums.float(), table.sums)
    with torch.no_grad():
        torch.testing.assert_close(
            plain(images, lengths), predict.predict(model, digits, table), rtol=1e-4, atol=1e-5
        )


def test_plain_training_is_the_engines(digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Work, "digits", lambda work: digits)
    config = {
        "conv_channels": [4], "kernel_size": 5, "pooling": 4, "batch_norm": False,
        "gru_sizes": [8], "batch_size": 32, "learning_rate": 0.01, "precision": "float32",
    }  # fmt: skip
    work = Work(config, (3, 4), 2, 160)
    plain = [rmse for rmse, _, _ in recipe.train(work, 3, num_workers=0)]
    pool, _ = split_images(digits.labels)
    data = TrainingData(digits, pool, validation(digits.labels, 160), 160, 8)
    state = engine.start(work.spec(), seed=3, epochs=2, device=CPU)
    ours = [metrics.validation_rmse for metrics in engine.train(state, data)]
    assert plain == pytest.approx(ours, rel=1e-3)


def test_keras_model_gives_the_packages_sums(
    config: TrialConfig, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    pytest.importorskip("keras")
    model, its = started(config), keras_demo.build(config.model)
    counted = [v for name, v in model.state_dict().items() if "num_batches" not in name]
    assert its.count_params() == sum(value.numel() for value in counted)
    keras_demo.copy_weights(model, its)
    table = draw_table(torch.arange(1000), digits.labels, 100, 8, 0)
    whole = (table.lengths == 8).nonzero().flatten()  # over blanks the two differ, as they should
    table = dataclasses.replace(
        table, indices=table.indices[whole], lengths=table.lengths[whole], sums=table.sums[whole]
    )
    images, sums = keras_demo.arrays(digits, table)
    assert sums.tolist() == table.sums.tolist()
    with torch.no_grad():
        predicted = its(images, training=False).squeeze(1)
    torch.testing.assert_close(
        predicted.cpu(), predict.predict(model, digits, table), rtol=1e-4, atol=1e-5
    )


def test_validation_repeats_images_as_a_search_does(digits: Digits) -> None:
    for sequences in (600, 6000, 60_000):
        table = validation(digits.labels, sequences)
        assert len(table) == sequences // 3
        used = torch.unique(table.indices[table.indices > 0])
        assert len(used) == pytest.approx(sequences / 6, rel=0.02)


def test_speed_counts_from_the_first_epochs_end() -> None:
    trials = [Trained([110.0, 114.0, 118.0], [3.0, 2.0, 1.0]), Trained([112.0, 114.0, 116.0], [])]
    assert epochs_per_hour(trials) == 3600 / 4 + 3600 / 2
    assert start_s(trials, began=100.0) == (6 + 10) / 2


def figures(speed: list[float], rmse: float) -> dict[str, list[Any]]:
    return {"epochs_per_hour": speed, "start_s": [2.0, 4.0, 3.0], "rmse": [[rmse, rmse + 1]] * 3}


RESULTS = {
    "repeats": 3,
    "sizes": {"small": (3840, 2)},
    "choices": {"small": {"num_workers": 2, "backend": "torch"}},
    "hardware": {"cpu": "a processor", "cores": 2, "bfloat16": False},
    "versions": {"python": "3.11", "torch": "2"},
    "commit": "abc",
    "minutes": 20.4,
    "summary": {
        "small": summarise(
            {
                "ours": figures([600.0, 640.0, 500.0], 2.0),
                "ray": figures([100.0, 80.0, 125.0], 2.25),
            }
        )
    },
}


def test_table_pairs_what_ran_in_turn() -> None:
    ours, ray = markdown(RESULTS).splitlines()[2:4]
    assert ours == "| small | crnn-search | 600 (500–640) |  | 3.0 | 2.50 |  |"
    assert ray == (
        "| small | Ray's recipe | 100 (80–125) | **6.0** (4.0–8.0) | 3.0 | 2.75 "
        "| +0.250 (+0.250 to +0.250) |"
    )


def test_table_says_what_it_depends_on() -> None:
    assert markdown(RESULTS).splitlines()[-1] == (
        "small: 3,840 training and 1,280 validation sequences an epoch, 2 epochs. 3 repeats in "
        "turn, two trials at once; medians (lowest–highest). small: num_workers 2, Keras on torch. "
        "a processor without bfloat16, 2 cores; Python 3.11, torch 2; commit abc; 20 minutes."
    )


def test_section_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nb\n")
    replace_section(page, "bench", "new \\1\n")
    assert page.read_text() == "a\n<!-- bench:begin -->\nnew \\1\n<!-- bench:end -->\nb\n"
    with pytest.raises(ValueError, match=r"page\.md has no section between"):
        replace_section(page, "other", "new\n")


GPU_PROGRAM = """
import sys
for name in ("ray", "pydantic", "optuna", "pyarrow"):
    sys.modules[name] = None
import hashlib, pathlib
from benchmarks import gpu
from crnn_search.data import mnist
for name in mnist.FILES:
    mnist.FILES[name] = hashlib.sha256(pathlib.Path("data", name).read_bytes()).hexdigest()
if __name__ == "__main__":
    gpu.main()
"""


def test_gpu_benchmark_needs_pytorch_only(tmp_path: Path, digits: Digits) -> None:
    """In its small form, on a CPU: every part runs, and what is written was measured."""
    write_mnist(tmp_path / "data", digits)
    (tmp_path / "program.py").write_text(GPU_PROGRAM)
    words = "--device cpu --sequences 300 --repeats 1 --trials 1 2 --workers 0"
    command = [sys.executable, "program.py", *words.split(), "--data-dir", "data"]
    done = subprocess.run(
        [*command, "--output", "found.json"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert [row["trials"] for row in found["together"]] == [1, 2]
    assert found["ratio"] == found["one_trial"][0] / found["recipe"]["0"][0]
    assert f"one trial: {found['ratio']:.1f} times the recipe" in done.stdout
    assert "2 trials without MPS: " in done.stdout


def test_gpu_benchmark_refuses_where_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        gpu.main([])
    assert "there is no CUDA here; --device cpu" in capsys.readouterr().err


def test_simulated_workers_share_a_search() -> None:
    setting = {"trials": 12, "factor": 3, "grace": 1}
    rows = {
        workers: [simulate.search(**setting, workers=workers, seed=seed) for seed in (0, 1)]
        for workers in (1, 4)
    }
    for alone, together in zip(rows[1], rows[4], strict=True):
        assert alone["utilisation"] == pytest.approx(1)
        assert 0.25 < together["utilisation"] <= 1
        assert together["seconds"] < alone["seconds"] / 1.5
    results: dict[str, Any] = {
        "recorded": 240, "neighbours": 5, "explained_by_neighbours": 0.5,
        "workers": [{"workers": n} | simulate.mean(found) for n, found in rows.items()],
    }  # fmt: skip
    for name, values in simulate.VARIED.items():
        results[name] = [{name: value} | simulate.mean(rows[4]) for value in values]
    text = simulate.document(results)
    gain = results["workers"][0]["seconds"] / results["workers"][1]["seconds"]
    assert f"| 4 workers, 250 trials each | {gain:.1f}× for all trials" in text
    assert "| `grace_epochs` | 1 | 1 | 1 |" in text
    assert text.endswith("\n")
