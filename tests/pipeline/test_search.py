"""One small real search on real Ray, from the space to the report and the exported model."""

from __future__ import annotations

import json

import optuna
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from crnn_search.data import mnist
from crnn_search.errors import DataError
from crnn_search.models.folder import FORMATS
from crnn_search.storage import jsonl
from tests.small_run import FinishedRun, run_here


def test_launch_succeeds_and_prints_the_report(finished: FinishedRun) -> None:
    done = finished.done
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "search: 5 trials of up to 2 epochs" in done.stdout
    assert "trial-0000 completed after epoch 2" in done.stdout
    assert "report: runs/demo/report.html" in done.stdout


def test_the_log_of_a_good_run_has_no_warnings_and_tells_of_each_trial(
    finished: FinishedRun,
) -> None:
    """Ray Tune once warned of a file that each trial lacked."""
    log = (finished.folder / "search.log").read_text()
    assert not [line for line in log.splitlines() if " INFO " not in line]
    for number in range(5):
        assert f"INFO crnn_search: trial-000{number}: created, conv_channels " in log
        assert f"INFO crnn_search: trial-000{number}: epoch 1 of 2, validation RMSE " in log


def test_ledger_has_every_trial_once(finished: FinishedRun) -> None:
    trials = jsonl.read(finished.folder / "trials.jsonl")
    assert [trial["number"] for trial in trials] == [0, 1, 2, 3, 4]
    for trial in trials:
        assert trial["state"] in {"COMPLETE", "PRUNED"}
        assert len(trial["validation_rmse"]) == (2 if trial["state"] == "COMPLETE" else 1)
        assert trial["seconds"] > 0
        assert (finished.folder / trial["checkpoint"]).is_file()
    assert {trial["state"] for trial in trials} == {"COMPLETE", "PRUNED"}
    assert trials[0]["config"]["learning_rate"] == 0.005


def test_all_trials_have_the_arithmetic_of_the_manifest(finished: FinishedRun) -> None:
    arithmetic = json.loads((finished.folder / "manifest.json").read_text())["arithmetic"]
    report = json.loads((finished.folder / "report.json").read_text())
    trials = jsonl.read(finished.folder / "trials.jsonl")
    assert arithmetic["precision"] in {"float32", "bfloat16"}
    assert [trial["arithmetic"] for trial in trials] == [arithmetic] * 5
    assert len({name for trial in trials for name in trial["arithmetics"]}) == 1
    assert report["arithmetic"] == arithmetic


def test_study_has_the_trials_of_the_ledger(finished: FinishedRun) -> None:
    storage = f"sqlite:///{finished.folder / 'study.db'}"
    study = optuna.load_study(study_name="demo", storage=storage)
    by_number = {trial.number: trial for trial in study.trials}
    for line in jsonl.read(finished.folder / "trials.jsonl"):
        trial = by_number[line["number"]]
        assert trial.state.name == line["state"]
        assert trial.intermediate_values == dict(enumerate(line["validation_rmse"], start=1))


def test_report_has_the_documented_keys(finished: FinishedRun) -> None:
    report = json.loads((finished.folder / "report.json").read_text())
    assert set(report["test"]["rmse_by_length"]) == {str(n) for n in range(1, 9)}
    for score in (report["test"], *(report["baselines"][name] for name in BASELINES)):
        assert score["rmse"] > 0
        assert score["exact_sum_rate"] >= 0
    states = report["trials"]
    assert states["completed"] + states["stopped"] == 5
    assert states["failed"] == 0


BASELINES = ("mean_guess", "count_only", "mnist_crnn_2016")


def test_best_finalist_is_the_winner(finished: FinishedRun) -> None:
    report = json.loads((finished.folder / "report.json").read_text())
    finalists = json.loads((finished.folder / "finalists.json").read_text())["finalists"]
    assert len(finalists) == 2
    assert all(len(finalist["validation_rmse_by_seed"]) == 2 for finalist in finalists)
    assert report["best_config"] == finalists[0]["config"]
    means = [finalist["validation_rmse"] for finalist in finalists]
    assert means == sorted(means)
    assert report["best_validation_rmse"] == means[0]


def test_winner_is_exported_in_every_format(finished: FinishedRun) -> None:
    for name in FORMATS:
        assert (finished.folder / "model" / f"model.{name}").stat().st_size > 0


def test_tensorboard_has_the_scalars_and_pictures_of_a_trial(finished: FinishedRun) -> None:
    trial = EventAccumulator(str(finished.folder / "tensorboard" / "search" / "trial-0000"))
    trial.Reload()
    line = jsonl.read(finished.folder / "trials.jsonl")[0]
    rmse = [(event.step, event.value) for event in trial.Scalars("validation/rmse")]
    assert rmse == [(n, pytest.approx(v)) for n, v in enumerate(line["validation_rmse"], start=1)]
    assert trial.Scalars("trial/rmse_full_budget")[0].value == pytest.approx(rmse[-1][1])
    assert [picture.step for picture in trial.Images("validation/running prediction")] == [1, 2]
    assert "_hparams_/session_start_info" in trial.summary_metadata


def test_tensorboard_has_what_each_retrained_network_reached(finished: FinishedRun) -> None:
    folders = list((finished.folder / "tensorboard" / "retrain").iterdir())
    assert len(folders) == 4
    for folder in folders:
        scalars = EventAccumulator(str(folder)).Reload().Tags()["scalars"]
        assert "trial/train_rmse_retrained" in scalars
        assert not {"trial/rmse_full_budget", "trial/rmse_where_stopped"} & set(scalars)


def test_an_existing_name_is_refused(finished: FinishedRun) -> None:
    done = run_here(finished.root, "launch", "space.yaml", "--name", "demo")
    assert done.returncode == 2
    assert "a run called 'demo' exists in runs; choose another with --name" in done.stderr


def test_synthetic_files_are_not_accepted_as_mnist(finished: FinishedRun) -> None:
    with pytest.raises(DataError, match="is truncated or altered"):
        mnist.load(finished.root / "data")
