"""Each benchmark runs, in its smallest form, and writes what it measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import forecast, gpu, simulate, variants
from crnn_search.data.digits import Digits
from tests.benchmarks.synthetic import run
from tests.small_run import write_mnist


@pytest.fixture
def root(tmp_path: Path, digits: Digits) -> Path:
    """A folder with synthetic digits in `data`."""
    write_mnist(tmp_path / "data", digits)
    return tmp_path


@pytest.mark.long(30)
@pytest.mark.slow
def test_gpu_benchmark_needs_pytorch_only(root: Path) -> None:
    words = "--device cpu --sequences 256 --trials 2 --workers 0 --output found.json"
    blocked = ("ray", "pydantic", "optuna", "pyarrow", "obstore", "yaml", "torchvision")
    done = run(root, "benchmarks.gpu", *words.split(), blocked=blocked)
    assert done.returncode == 0, done.stderr
    results = json.loads((root / "found.json").read_text())
    found = results["found"]
    assert not results["left_out"]
    assert not [name for name, value in found.items() if "error" in str(value)], found
    assert found["2 trials"]["trials"] == 2
    for network, ratio in results["times_the_recipe"].items():
        rate = found[f"{network}, graphs"]["sequences_per_s"]
        assert ratio == rate / found[f"{network}, recipe, 0 workers"]
        assert f"{network}: {ratio:.1f} times the recipe" in done.stdout
        assert found[f"{network}, graphs"]["probed_mb"] > 0
    assert "Python 3" in done.stdout.splitlines()[0]


def test_gpu_benchmark_leaves_out_what_has_no_time() -> None:
    found = gpu.Measurements(limit_s=60)
    found.measure("one", lambda: 5.0)
    found.measure("two", lambda: 1 / 0)
    late = gpu.Measurements(limit_s=-1)
    late.measure("three", pytest.fail)
    assert found.found == {"one": 5.0, "two": {"error": "ZeroDivisionError: division by zero"}}
    assert (late.found, late.left_out) == ({}, ["three"])


def test_gpu_benchmark_needs_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        gpu.main([])
    assert "there is no CUDA here; --device cpu" in capsys.readouterr().err


@pytest.mark.long(50)
@pytest.mark.slow
def test_bench_measures_every_engine(root: Path) -> None:
    (root / "page.md").write_text("<!-- bench:begin -->\n<!-- bench:end -->\n")
    before = """
import pathlib
from benchmarks import __main__ as bench
del bench.NETWORKS["16-32-64 + GRU 64"]
bench.RESULTS = pathlib.Path("results")
bench.PAGE = pathlib.Path("page.md")
import dataclasses
measure = bench.measure
def one_trial(engine, work):
    return measure(engine, dataclasses.replace(work, seeds=work.seeds[:1]))
bench.measure = one_trial
"""
    words = "--sequences 300 --epochs 2 --repeats 1"
    done = run(
        root, "benchmarks.__main__", *words.split(), "--data-dir", str(root / "data"),
        before=before, all_cores=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    measured = json.loads((root / "results" / "bench.json").read_text())["networks"]
    for engines in measured.values():
        assert engines.keys() == {"ours", "ray", "optuna", "keras"}
        assert all(engine["epochs_per_hour"][0] > 0 for engine in engines.values())
    assert (root / "page.md").read_text().count("| Keras 3 |") == len(measured)


@pytest.mark.long(50)
@pytest.mark.slow
def test_driver_benchmark_measures_both_drivers(root: Path) -> None:
    words = "--trials 4 --every 2 --output found.json"
    done = run(root, "benchmarks.driver.__main__", *words.split())
    assert done.returncode == 0, done.stderr
    found = json.loads((root / "found.json").read_text())
    for name in ("ours", "stock"):
        assert [ended for ended, _, _ in found[name]["rows"]] == [0, 2, 4]
        assert found[name]["resume_s"] > 0


@pytest.mark.slow
def test_curves_are_recorded_and_a_recording_continues(root: Path) -> None:
    before = """
from benchmarks import record_curves
record_curves.SPACE = record_curves.Path(REPOSITORY, record_curves.SPACE)
record_curves.EPOCHS, record_curves.SEQUENCES, record_curves.VALIDATION_SEQUENCES = 3, 256, 64
record_curves.CONFIGURATIONS, record_curves.SECOND_SEEDS = COUNT, 1
""".replace("REPOSITORY", repr(str(Path(__file__).parents[2])))
    words = ("--processes", "1", "--data-dir", "data", "--output", str(root / "curves.jsonl"))
    for count in ("1", "2"):
        done = run(root, "benchmarks.record_curves", *words, before=before.replace("COUNT", count))
        assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (root / "curves.jsonl").read_text().splitlines()]
    assert sorted((line["number"], line["seed"]) for line in lines) == [(0, 0), (0, 1), (1, 0)]
    assert all(len(line["validation_rmse"]) == len(line["seconds"]) == 3 for line in lines)
    assert all(line["raw_rmse"].keys() == {"1", "3"} for line in lines)


@pytest.mark.slow
def test_searches_are_compared(root: Path) -> None:
    before = """
from benchmarks import sampling, variants
variants.SPACE = sampling.Path(REPOSITORY, variants.SPACE)
sampling.RESULTS = sampling.Path("found.json")
sampling.PAGE = sampling.Path("page.md")
sampling.TRIALS = 8
""".replace("REPOSITORY", repr(str(Path(__file__).parents[2])))
    (root / "page.md").write_text("<!-- sampling:begin -->\n<!-- sampling:end -->\n")
    names = ("random, ASHA", "promotion")
    done = run(root, "benchmarks.sampling", "--repeats", "2", "--only", *names, before=before)
    assert done.returncode == 0, done.stderr
    found = json.loads((root / "found.json").read_text())
    assert found["searches"].keys() == {variants.REFERENCE, *names}
    assert found["searches"][variants.REFERENCE]["needed"] <= 1
    assert found["searches"][variants.REFERENCE]["minus_reference"] == 0
    assert (root / "page.md").read_text().count("| promotion | ") == 1


def test_searches_are_compared_with_forecasts() -> None:
    setting = {"trials": 8, "workers": 2, "factor": 3, "grace": 27}
    rows = forecast.compare(setting, searches=2, forecasts=2, runs=20)
    assert rows.keys() == {"searches", "without learning", "with learning"}
    assert rows["searches"][0] == 8 * 27, "nothing is stopped early"
    for epochs, seconds, epochs_inside, seconds_inside in (
        rows["without learning"],
        rows["with learning"],
    ):
        assert (epochs, epochs_inside) == (8 * 27, 1)
        assert 0.3 < seconds / rows["searches"][1] < 3
        assert 0 <= seconds_inside <= 1


def test_simulated_workers_share_a_search() -> None:
    setting = {"trials": 60, "factor": 3, "grace": 1}
    rows = {
        workers: [simulate.search(**setting, workers=workers, seed=seed) for seed in (0, 1)]
        for workers in (1, 4)
    }
    for alone, together in zip(rows[1], rows[4], strict=True):
        assert alone["utilisation"] == pytest.approx(1)
        assert 0.25 < together["utilisation"] <= 1
        assert together["seconds"] < alone["seconds"] / 1.5
    results: dict[str, Any] = {
        "recorded": 240, "explained": 0.5,
        "workers": [{"workers": n} | simulate.mean(found) for n, found in rows.items()],
    }  # fmt: skip
    for name, values in simulate.VARIED.items():
        results[name] = [{name: value} | simulate.mean(rows[4]) for value in values]
    text = simulate.document(results)
    gain = results["workers"][0]["seconds"] / results["workers"][1]["seconds"]
    assert f"| 4 workers, 250 trials each | {gain:.1f}× for all trials" in text
    assert "| `grace_epochs` | 1 | 1 | 1 |" in text
    assert text.endswith("\n")
