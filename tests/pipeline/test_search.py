"""A small real search on real Ray, from the space to the report and the exported model.

Ray and its libraries warn of things that are not ours to mend, so warnings are no errors here.
"""

from __future__ import annotations

import json

import pytest
import torch

from crnn_search.data import mnist
from crnn_search.storage import jsonl
from tests.small_run import FinishedRun, command


def test_it_ends_well_and_prints_the_report(
    finished: FinishedRun,
) -> None:
    run, done = finished.folder, finished.done
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "search: 5 jobs of up to 2 epochs" in done.stdout
    assert "trial-0000 completed after epoch 2" in done.stdout
    assert f"report: runs/{run.name}/report.md" in done.stdout


def test_ledger_tells_every_trial_once(
    finished: FinishedRun,
) -> None:
    trials = jsonl.read(finished.folder / "trials.jsonl")
    assert [trial["number"] for trial in trials] == [0, 1, 2, 3, 4]
    for trial in trials:
        assert trial["state"] in {"COMPLETE", "PRUNED"}
        assert len(trial["values"]) == (2 if trial["state"] == "COMPLETE" else 1)
        assert trial["seconds"] > 0
        assert (finished.folder / trial["checkpoint"]).is_file()
    assert {trial["state"] for trial in trials} == {"COMPLETE", "PRUNED"}
    assert trials[0]["config"]["learning_rate"] == 0.005


def test_study_mirrors_the_ledger(
    finished: FinishedRun,
) -> None:
    import optuna

    run = finished.folder
    study = optuna.load_study(study_name="demo", storage=f"sqlite:///{run / 'study.db'}")
    told = {trial.number: trial for trial in study.trials}
    for line in jsonl.read(run / "trials.jsonl"):
        trial = told[line["number"]]
        assert trial.state.name == line["state"]
        assert trial.intermediate_values == dict(enumerate(line["values"], start=1))


def test_report_has_the_keys_others_rely_on(
    finished: FinishedRun,
) -> None:
    report = json.loads((finished.folder / "report.json").read_text())
    assert set(report["test"]["rmse_by_length"]) == {str(n) for n in range(1, 9)}
    for group, key in (
        ("test", "rmse"), ("test", "rmse_std"), ("test", "exact_sum_rate"),
        ("baselines", "mean_guess_rmse"), ("baselines", "count_only_rmse"),
        ("baselines", "mnist_crnn_2016_rmse"),
    ):  # fmt: skip
        assert report[group][key] >= 0
    states = report["trials"]
    assert states["completed"] + states["stopped"] == 5
    assert states["failed"] == 0
    finalists = json.loads((finished.folder / "finalists.json").read_text())["finalists"]
    assert len(finalists) == 2
    assert all(len(finalist["rmse_by_seed"]) == 2 for finalist in finalists)
    assert report["best_config"] == finalists[0]["config"]
    assert finalists[0]["rmse"] == min(finalist["rmse"] for finalist in finalists)


def test_tensorboard_has_every_trials_scalars(
    finished: FinishedRun,
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trial = EventAccumulator(str(finished.folder / "tensorboard" / "search" / "trial-0000"))
    trial.Reload()
    assert [event.step for event in trial.Scalars("validation_rmse")] == [1, 2]
    assert {"train_loss", "learning_rate", "exact_sum_rate"} <= set(trial.Tags()["scalars"])
    assert "_hparams_/session_start_info" in trial.summary_metadata


def test_exported_models_and_predict_agree(
    finished: FinishedRun,
) -> None:
    from PIL import Image

    run = finished.folder
    images = []
    for number in range(3):
        path = finished.root / f"{number}.png"
        pixels = torch.full((28, 28), 20 + number, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(path)
        images.append(path.name)
    printed = {}
    for name in ("model.safetensors", "model.onnx", "model.pt2"):
        done = command(finished.root, "predict", str(run / "model" / name), *images)
        assert done.returncode == 0, done.stderr
        printed[name] = done.stdout
    assert len(set(printed.values())) == 1
    assert [line.split(":")[0] for line in printed["model.onnx"].splitlines()] == images


def test_report_and_export_can_be_run_again(
    finished: FinishedRun,
) -> None:
    run = finished.folder
    before = json.loads((run / "report.json").read_text())
    data = "data"
    again = command(finished.root, "report", str(run), "--data-dir", data)
    assert again.returncode == 0, again.stderr
    assert json.loads((run / "report.json").read_text()) == before
    export = command(finished.root, "export", str(run), "--format", "onnx", "--data-dir", data)
    assert export.returncode == 0, export.stderr
    assert "onnx: largest difference to PyTorch" in export.stdout


def test_an_existing_name_is_refused(
    finished: FinishedRun,
) -> None:
    root = finished.root
    done = command(root, "launch", "space.yaml", "--name", "demo")
    assert done.returncode == 2
    assert "a run called 'demo' exists in runs; choose another with --name" in done.stderr


def test_the_synthetic_files_are_not_taken_for_mnist(
    finished: FinishedRun,
) -> None:
    from crnn_search.errors import DataError

    with pytest.raises(DataError, match="is truncated or altered"):
        mnist.load(finished.root / "data")
