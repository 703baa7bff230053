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

from benchmarks import gpu, orchestration, profile_epoch, roofline, simulate
from benchmarks.lanes import CONVOLUTIONS, Lanes
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
from crnn_search import engine
from crnn_search.config import TrialConfig
from crnn_search.data import Digits, draw_table, split_images
from crnn_search.engine import TrainingData
from crnn_search.model import CRNN
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
            plain(images, lengths), engine.predict(model, digits, table), rtol=1e-4, atol=1e-5
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
        predicted.cpu(), engine.predict(model, digits, table), rtol=1e-4, atol=1e-5
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


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("_StemBackward", "first layer, if apart"),
        ("aten::mkldnn_convolution", "convolutions"),
        ("winograd_weights", "convolutions"),
        ("aten::native_batch_norm", "normalising, pooling, ReLU"),
        ("gru_forward", "recurrence"),
        ("aten::addmm", "matrix products"),
        ("Optimizer.step#AdamW.step", "optimizer, clipping"),
        ("update", "optimizer, clipping"),
        ("aten::copy_", "copies, gathering"),
        ("aten::view", "all else"),
    ],
)
def test_an_operation_belongs_to_a_part(name: str, part: str) -> None:
    assert profile_epoch.part_of(name) == part


def test_profiles_stand_side_by_side() -> None:
    about = {name: RESULTS[name] for name in ("hardware", "versions", "commit")}
    sections = [
        about | {network: {"whole": whole, **parts} for network in profile_epoch.NETWORKS}
        for whole, parts in ((2000.0, {"convolutions": 1500.0}), (900.0, {"first": 40.0}))
    ]
    lines = profile_epoch.markdown({"before": sections[0], "after": sections[1]}).splitlines()
    assert lines[0] == "| network | part | before, ms | after, ms |"
    assert lines[2:5] == [
        "| 2016 network | whole | 2,000 | 900 |",
        "| 2016 network | convolutions | 1,500 | 0 |",
        "| 2016 network | first | 0 | 40 |",
    ]
    assert lines[-1].startswith("after: a processor without bfloat16, 2 cores; ")


def test_roofline_counts_what_the_network_asks_for(digits: Digits) -> None:
    """By hand, of the 2016 network: images of 28 × 28, 4.5 a sequence, two layers, two GRUs."""
    config = TrialConfig.from_dict(NETWORKS["2016 network"])
    parts = {part.name: part for part in roofline.parts(config, digits)}
    images = 4.5
    assert parts["first layer"].operations == images * 2 * (2 * 16 * 8 * 25**2)
    assert parts["other layers"].operations == images * 3 * (2 * 9 * 8 * 8 * 10**2)
    assert parts["input projection"].operations == images * 3 * 2 * (800 * 300 + 100 * 150)
    assert parts["recurrence"].operations == images * 3 * 2 * (100 * 300 + 50 * 150)
    for part in parts.values():
        part.run()


@pytest.mark.parametrize("convolutions", CONVOLUTIONS)
@pytest.mark.parametrize(
    "options",
    [
        {"padding": "same", "kernel_size": 3},
        {"batch_norm": False, "gru_sizes": [7, 5], "pooling": [3, 1], "optimizer": "rmsprop"},
    ],
)
def test_a_lane_trains_as_it_would_alone(
    options: dict[str, Any], convolutions: str, digits: Digits
) -> None:
    base: dict[str, Any] = {
        "conv_channels": [4, 6], "kernel_size": 5, "pooling": [3, 2], "padding": "valid",
        "gru_sizes": [8], "batch_size": 32, "precision": "float32",
    } | options  # fmt: skip
    configs = [
        TrialConfig.from_dict(base | {"learning_rate": rate, "weight_decay": decay, **more})
        for rate, decay, more in [
            (0.003, 0.0, {}), (0.01, 0.1, {"gradient_clip": 0.0}), (0.001, 0.0, {"dropout": 0.5}),
        ]
    ]  # fmt: skip
    seeds = (3, 4, 5)
    pool = torch.arange(1000)
    together = Lanes(configs, seeds, epochs=2, device=CPU, convolutions=convolutions)
    losses = [together.train_epoch(digits, pool, 160) for _ in range(2)]
    table = small_table(digits, 50)
    for k in range(2):  # the third draws its dropout otherwise; it must not disturb the others
        state = engine.start(configs[k], seed=seeds[k], epochs=2, device=CPU)
        alone = list(engine.train(state, TrainingData(digits, pool, None, 160, 8)))
        assert [row[k] for row in losses] == pytest.approx([m.train_loss for m in alone], rel=1e-3)
        torch.testing.assert_close(
            engine.predict(together.lane(k), digits, table),
            engine.predict(state.model, digits, table),
            rtol=2e-3,
            atol=2e-3,
        )


GPU_PROGRAM = """
import sys
for name in ("ray", "pydantic", "optuna", "pyarrow"):
    sys.modules[name] = None
import hashlib, pathlib
from benchmarks import gpu
from crnn_search import mnist
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
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
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


def test_orchestration_is_what_a_journal_says() -> None:
    def epoch(name: str, at: float, seconds: float) -> dict[str, Any]:
        return {"event": "epoch", "name": name, "elapsed_s": at, "seconds": seconds}

    found = orchestration.figures(
        [
            {"event": "stage", "stage": "search", "elapsed_s": 0.0},
            epoch("a", 12.0, 10.0),  # begun at 2
            epoch("b", 13.0, 10.0),
            epoch("a", 23.0, 10.0),
            epoch("b", 24.0, 10.0),
            epoch("c", 33.5, 10.0),  # half a second after a's end
            epoch("d", 34.25, 10.0),
            {"event": "stage", "stage": "finalists", "elapsed_s": 35.0},
            epoch("e", 90.0, 1.0),
        ]
    )
    assert found["wall_s"] == 32.25
    assert found["engine_s_each"] == 30
    assert found["overhead"] == pytest.approx(0.075)
    assert found["waits_s"] == [0.5, 0.25]


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
