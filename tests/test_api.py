"""The public surface of `crnn_search`: its names, their signatures, and what they do."""

from __future__ import annotations

import contextlib
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import crnn_search
from crnn_search import api, errors
from crnn_search.hyperparameters import PARAMETERS
from crnn_search.models.predictor import Predictor
from crnn_search.pipeline.log_progress import LogProgress
from crnn_search.spaces.file import parse_space
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.trial import InfeasibleTrial
from crnn_search.tuning.progress import Stage
from tests.models.networks import SPECS, info_of
from tests.small_run import FinishedRun

SPACE = "space: {dropout: {float: [0.0, 0.5]}}"

SIGNATURES = {
    "evaluate": "(model: 'Model | str | Path', data: 'str | Path | SequenceData', *, "
    "target: 'str | None' = None, split: 'str | None' = None, "
    "data_dir: 'str | Path | None' = None) -> 'dict[str, Any]'",
    "extend": "(run: 'Run | str | Path', trials: 'int', *, time_budget: 'str | None' = None, "
    "compute_budget: 'str | None' = None, force: 'bool' = False, "
    "**session: 'Unpack[Session]') -> 'Run'",
    "forecast": "(space: 'SearchSpace | str | Path', *, data_dir: 'str | Path | None' = None, "
    "data: 'SequenceData | None' = None, on_note: 'Callable[[str], None] | None' = None, "
    "on_progress: 'Callable[[str, int, int], None] | None' = None) -> 'Forecast'",
    "launch": "(space: 'SearchSpace | str | Path', *, name: 'str | None' = None, "
    "storage: 'str | Path' = 'runs', time_budget: 'str | None' = None, "
    "compute_budget: 'str | None' = None, warm_start: 'Sequence[Run | str | Path]' = (), "
    "**session: 'Unpack[Session]') -> 'Run'",
    "load_model": "(path: 'str | Path') -> 'Model'",
    "load_space": "(path_or_text: 'str | Path', overrides: 'Sequence[str]' = ()) -> 'SearchSpace'",
    "open_run": "(place: 'Run | str | Path') -> 'Run'",
    "resume": "(run: 'Run | str | Path', *, force: 'bool' = False, "
    "**session: 'Unpack[Session]') -> 'Run'",
}

METHODS = {
    "Run": ["check", "folder", "location", "model", "name", "report", "status", "trials"],
    "Model": [
        "check",
        "metrics",
        "predict",
        "predict_files",
        "predict_pixels",
        "predict_running",
        "predictor",
        "prepare",
        "preprocessing",
        "spec",
        "task",
        "warnings",
    ],
}

SESSION = {
    "address", "command", "data", "data_dir", "display", "on_end", "on_trial_end", "study_storage",
    "verbose",
}  # fmt: skip


def test_public_names() -> None:
    tree = [name for name in vars(errors) if inspect.isclass(getattr(errors, name))]
    public = {name for name in tree if not name.startswith("_") and name not in {"Sequence"}}
    assert set(crnn_search.__all__) == {
        *public, *SIGNATURES, *METHODS, "Forecast", "SequenceData", "Session", "__version__",
    }  # fmt: skip
    assert crnn_search.__all__ == sorted(crnn_search.__all__)
    assert set(crnn_search.__all__) <= set(dir(crnn_search))


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str) -> None:
    assert str(inspect.signature(getattr(crnn_search, name))) == SIGNATURES[name]


def test_methods_and_session() -> None:
    for name, methods in METHODS.items():
        kind = getattr(crnn_search, name)
        found = {*vars(kind), *kind.__dataclass_fields__}
        assert sorted(item for item in found if not item.startswith("_")) == methods
    assert set(api.Session.__annotations__) == SESSION


def test_import_is_light() -> None:
    program = (
        "import sys, crnn_search; crnn_search.launch, crnn_search.CrnnSearchError; "
        "assert not {'ray', 'torch', 'optuna', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="module 'crnn_search' has no attribute 'lunch'"):
        crnn_search.lunch  # noqa: B018


def test_space_from_file_and_text(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    for given in (path, str(path), SPACE):
        space = crnn_search.load_space(given, ["search.trials=7"])
        assert space.search.trials == 7
    with pytest.raises(crnn_search.SpaceError, match="cannot be read"):
        crnn_search.load_space("nowhere.yaml")


class Pipeline:
    """Records the calls of the pipeline; the first raises `error` if there is one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.error = error
        for name in ("launch", "resume", "extend"):
            monkeypatch.setattr(f"crnn_search.pipeline.run.{name}", self._called)

    def _called(self, *arguments: Any, **more: Any) -> None:
        self.calls.append((*arguments, more))
        if self.error:
            raise self.error


def test_launch_hands_its_keywords_to_the_pipeline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pipeline, notes = Pipeline(monkeypatch), []

    @contextlib.contextmanager
    def display(folder: RunFolder) -> Iterator[LogProgress]:
        notes.append(folder.root)
        yield LogProgress()

    run = crnn_search.launch(
        SPACE, name="my run", storage=tmp_path, compute_budget="2corehours", address="auto",
        data_dir="data", on_end=print, display=display,
    )  # fmt: skip
    assert run.location == str(tmp_path / "my run")
    assert notes == [tmp_path / "my run"]
    ((space, folder, _, options, more),) = pipeline.calls
    assert space == parse_space(SPACE)
    assert folder.root == tmp_path / "my run"
    assert (options.address, options.data_dir, options.hooks.on_end) == (
        "auto", Path("data"), print,
    )  # fmt: skip
    assert more["budget"].core_seconds == 7200
    assert options.command == (
        f"crnn-search launch '{tmp_path}/my run/space.yaml' --compute-budget 2corehours"
    )


def test_launch_that_is_refused_leaves_no_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Pipeline(monkeypatch, crnn_search.DataError("no data"))
    with pytest.raises(crnn_search.DataError, match="no data"):
        crnn_search.launch(SPACE, name="demo", storage=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_unknown_keyword_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'adress'"):
        crnn_search.launch(SPACE, name="demo", storage=tmp_path, adress="auto")  # type: ignore[call-arg]
    assert list(tmp_path.iterdir()) == []


def test_extend_refuses_no_trials(tmp_path: Path) -> None:
    with pytest.raises(crnn_search.InputError, match="trials must be a whole number from 1 on"):
        crnn_search.extend(tmp_path, 0)


def test_missing_run_is_refused(tmp_path: Path) -> None:
    for function in (crnn_search.open_run, crnn_search.resume):
        with pytest.raises(crnn_search.RunFolderError, match="is not the folder of a run"):
            function(tmp_path)


def test_report_of_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    with pytest.raises(crnn_search.InputError, match=r"has no report\.json"):
        crnn_search.open_run(tmp_path).report()


def test_finished_run(finished: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = crnn_search.open_run(finished.folder)
    assert (run.name, run.location) == ("demo", str(finished.folder))
    assert run.status()["stage"] == "finished"
    assert run.report() == json.loads((finished.folder / "report.json").read_text())
    pipeline = Pipeline(monkeypatch)
    assert crnn_search.resume(run) == run
    assert pipeline.calls == [], "nothing is left to do"
    crnn_search.extend(run, 3, time_budget="1h")
    ((folder, trials, _, _, budget, _),) = pipeline.calls
    assert (folder.root, trials, budget.time_s) == (finished.folder, 3, 3600)


def test_trials_are_rows_of_a_table(finished: FinishedRun) -> None:
    rows = crnn_search.open_run(finished.folder).trials()
    lines = map(json.loads, (finished.folder / "trials.jsonl").read_text().splitlines())
    ledger = sorted(lines, key=lambda line: line["number"])
    assert [row["validation_rmse_by_epoch"] for row in rows] == [
        line["validation_rmse"] for line in ledger
    ]
    assert all(list(row) == [*api.COLUMNS, *PARAMETERS] for row in rows)
    assert not set(api.COLUMNS) & set(PARAMETERS)
    table = pd.DataFrame(rows)
    assert list(table["learning_rate"]) == [line["config"]["learning_rate"] for line in ledger]
    polars = pytest.importorskip("polars", reason="not a dependency")
    assert polars.DataFrame(rows)["number"].to_list() == list(range(len(rows)))


def test_infeasible_trials_have_the_same_columns(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    trial = InfeasibleTrial(3, {"conv_channels": [8, 8]}, "too small")
    (tmp_path / "trials.jsonl").write_text(json.dumps(trial.to_dict()) + "\n")
    (row,) = crnn_search.open_run(tmp_path).trials()
    assert list(row) == [*api.COLUMNS, *PARAMETERS]
    assert (row["number"], row["state"], row["reason"]) == (3, "INFEASIBLE", "too small")
    assert (row["conv_channels"], row["validation_rmse"]) == ([8, 8], None)


def test_model_takes_images_in_each_form(finished: FinishedRun) -> None:
    model = crnn_search.open_run(finished.folder).model()
    images = np.random.default_rng(0).integers(256, size=(2, 3, 28, 28), dtype=np.uint8)
    lengths = [3, 1]
    sums = model.predict(images, lengths)
    assert sums.shape == (2,)
    assert sums.dtype == np.float32
    pixels = images[:, :, None] / 255
    for form in (pixels, pixels.astype(np.float32), images[:, :, None]):
        np.testing.assert_allclose(model.predict(form, np.array(lengths)), sums, rtol=1e-5)
    from_file = crnn_search.load_model(finished.folder / "model" / "model.onnx")
    np.testing.assert_allclose(from_file.predict(images, lengths), sums, rtol=1e-3, atol=1e-3)
    alone = model.predict(images[1:, :1])
    np.testing.assert_allclose(alone, sums[1:], rtol=1e-4, atol=1e-4)


GOOD = np.zeros((2, 3, 28, 28), np.uint8)


@pytest.mark.parametrize(
    ("images", "lengths", "message"),
    [
        (np.zeros((3, 28, 28)), None, r"images must have the shape .* got \(3, 28, 28\)"),
        (np.zeros((0, 3, 28, 28)), None, r"got \(0, 3, 28, 28\)"),
        (np.full((1, 1, 28, 28), 255.0), None, r"floats from 0 to 1, got float64 from 255\.0"),
        (np.full((1, 1, 28, 28), np.nan), None, "floats from 0 to 1, got float64 from nan"),
        (GOOD.astype(np.int64), None, "uint8, or floats from 0 to 1, got int64"),
        (GOOD, [3], r"lengths must be 2 whole numbers from 1 to 3, got \[3\]"),
        (GOOD, [3, 4], r"got \[3, 4\]"),
        (GOOD, [0, 1], r"got \[0, 1\]"),
        (GOOD, [1.0, 2.0], r"got \[1\.0, 2\.0\]"),
    ],
)
def test_model_refuses_other_arrays(images: Any, lengths: Any, message: str) -> None:
    info = info_of(SPECS["2016"])
    model = crnn_search.Model(Predictor(lambda images, _: images.mean((2, 3, 4)), info))
    with pytest.raises(crnn_search.InputError, match=message):
        model.predict(images, lengths)


def test_log_progress_writes_to_the_packages_logger(caplog: pytest.LogCaptureFixture) -> None:
    progress = LogProgress()
    with caplog.at_level("DEBUG", "crnn_search"):
        progress.doing("starting Ray")
        progress.stage(Stage("search", "search", 5, 2, 100, (), {}))
        progress.started("trial-0000")
        progress.epoch("trial-0000")
        progress.ended("trial-0000")
        progress.note("a note")
        progress.close()
    assert caplog.messages == [
        "starting Ray",
        "search: 5 trials of up to 2 epochs",
        "a note",
    ]
