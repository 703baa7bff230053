"""check --forecast: what is printed, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from crnn_search import api
from crnn_search.cli.forecast import show_forecast
from crnn_search.data.digits import Digits
from crnn_search.hyperparameters import Arithmetic
from crnn_search.results.forecast import Forecast, Range, StageForecast
from tests.cli.conftest import CommandLine
from tests.pipeline.small_pipeline import forecasts_here
from tests.pipeline.test_forecast import TINY

ZERO = Range(0.0, 0.0, 0.0)


def stage(name: str, trials: int, epochs: Range, hours: Range, share: float) -> StageForecast:
    time_s = Range(*(1800 * hour for hour in dataclasses.astuple(hours)))
    return StageForecast(name, trials, epochs, hours, ZERO, share, time_s)


FORECAST = Forecast(
    stages=(
        stage("search", 1_000_000, Range(1.9e6, 2.3e6, 3.1e6), Range(8e4, 123_456, 234_567), 0.9),
        stage("finalists", 9, Range(5.0, 5.0, 5.0), Range(3.04, 9.96, 19.9), 0.07),
        stage("retraining", 6, Range(240.0, 240.0, 240.0), Range(0.001, 0.0456, 0.1), 0.03),
    ),
    whole=stage("whole", 1_000_015, Range(1.9e6, 2.3e6, 3.1e6), Range(8e4, 1.3e5, 2.4e5), 1.0),
    concurrent=2,
    cpus=1.0,
    gpus=0.0,
    memory_mb=Range(512.0, 700.0, 1049.0),
    configurations=10,
    device="AMD EPYC",
    arithmetic=Arithmetic("float32", cpu_kernels=True),
    runs=200,
    at_most=(),
)


def lines_of(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> list[str]:
    """What is printed on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    show_forecast(dataclasses.replace(FORECAST, **changes))
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    return [" ".join(line.split()) for line in lines]


def test_a_forecast_is_a_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = stage("search", 64, Range(198.0, 231.0, 282.0), Range(7.94, 12.3, 19.0), 0.9)
    found = lines_of(
        capsys, monkeypatch, stages=(small, *FORECAST.stages[1:]),
        whole=dataclasses.replace(small, name="whole", share=1.0),
    )  # fmt: skip
    assert found == [
        "",
        "trials epochs core hours share hours, 2 at once",
        "search 64 231 (198–282) 12 (7.9–19) 90% 6.2 (4.0–9.5)",
        "finalists 9 5 10 (3.0–20) 7% 5.0 (1.5–10)",
        "retraining 6 240 0.05 (0.00–0.10) 3% 0.02 (0.00–0.05)",
        "whole 64 231 (198–282) 12 (7.9–19) 100% 6.2 (4.0–9.5)",
        "Medians of 200 simulated runs, and where 90 % of them are: that depends on",
        "which trials ASHA stops, and on which configurations are drawn.",
        "memory: one trial 0.5–1.0 GB, 2 at once up to 2.1 GB, as measured",
        "measured: 10 configurations, 2 at once, each on 1 core of",
        "AMD EPYC, in float32, compiled kernels",
    ]


def test_a_large_forecast_fits_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = lines_of(capsys, monkeypatch)
    assert "days, 2" in " ".join(found)


def test_gpu_hours_and_at_most(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = FORECAST.stages[1]
    on_gpu = [
        dataclasses.replace(small, gpu_hours=Range(1.0, 2.0, 3.0), time_s=Range(60.0, 150.0, 300.0))
        for _ in range(4)
    ]
    found = lines_of(
        capsys, monkeypatch, stages=tuple(on_gpu[:3]), whole=on_gpu[3], gpus=0.25, concurrent=16,
        cpus=2.0, at_most=("search.target", "search.patience"),
    )  # fmt: skip
    assert found[1] == "trials epochs GPU hours share minutes, 16 at once"
    assert found[3] == "finalists 9 5 2.0 (1.0–3.0) 7% 2.5 (1.0–5.0)"
    assert "At most: search.target or search.patience may end the search earlier." in found
    assert "GPU memory: one trial 0.5–1.0 GB, 16 at once up to 16.8 GB, as measured" in found
    assert found[-2] == "measured: 10 configurations, 10 at once, each on 0.25 GPUs of"


def test_check_forecasts_a_run(crnn_search: CommandLine, tmp_path: Path, digits: Digits) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(TINY)
    with forecasts_here(digits):
        done = crnn_search("check", str(path), "--forecast")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{path} is valid.\n")
    assert all(len(line) <= 80 for line in done.out.splitlines()[1:])
    names = [line.split()[0] for line in done.out.splitlines() if line]
    assert names[-9:-5] == ["search", "finalists", "retraining", "whole"]
    assert "measured: 10 configurations" in done.out


def test_check_alone_forecasts_nothing(
    crnn_search: CommandLine, space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "forecast", None)
    done = crnn_search("check", str(space))
    assert (done.code, done.err) == (0, "")
    assert "measured" not in done.out


def test_missing_data_are_refused(crnn_search: CommandLine, space: Path, tmp_path: Path) -> None:
    data = tmp_path / "nowhere"
    done = crnn_search("check", str(space), "--forecast", "--data-dir", str(data))
    assert done.code == 2
    assert done.err.startswith("error: --data-dir must be a folder")
    assert len(done.err.splitlines()) == 1
