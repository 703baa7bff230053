"""The figures of a report, and which runs have none."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crnn_search.data.digits import TRAINING_IMAGES
from crnn_search.data.mnist_sums import MnistSums
from crnn_search.data.own import OwnSequences
from crnn_search.data.sequences import SequenceTable
from crnn_search.errors import InputError, RunError
from crnn_search.hyperparameters import MNIST_CRNN_2016, TrialConfig
from crnn_search.results import report, scored, scores
from crnn_search.results.schema import Report
from crnn_search.results.summary import summary
from crnn_search.storage import jsonl, stages
from crnn_search.storage.files import read_json
from crnn_search.storage.journal import Journal
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.trial import TrialRecord
from crnn_search.training import checkpoint, metrics
from crnn_search.training.model import CRNN
from tests.results.result_files import (
    ARITHMETIC,
    REASON,
    SMALL,
    SMALL_DEFAULT,
    change,
    make_run,
    predictions,
    record,
    record_stages,
)
from tests.small_run import without

TIMED = {"ms_per_sequence"}
"""What is measured again when networks are scored again."""


def test_scores_are_those_of_the_models_on_the_test_sequences(
    reported: RunFolder, written: dict[str, Any], sums: MnistSums
) -> None:
    table = sums.testing_table()
    assert int(table.indices[table.indices > 0].min()) >= TRAINING_IMAGES
    ours = [predictions(reported, f"winner-{seed}", sums) for seed in range(2)]
    theirs = [predictions(reported, "mnist_crnn_2016-0", sums)]
    assert_close(written["test"], scores.score(ours, table, sums=True).to_dict())
    exported = metrics.rmse(ours[0], table.targets)
    assert written["test"]["exported_rmse"] == pytest.approx(exported)
    assert written["test"]["images"] == 1000
    found = written["baselines"]["mnist_crnn_2016"]
    assert_close(found, scores.score(theirs, table, sums=True).to_dict())
    assert found["rmse_std"] is None
    assert_close(written["improvement"], scores.paired_difference(theirs, ours, table).to_dict())
    mean = torch.stack(ours).double().mean(0)
    ensemble = written["ensemble"]
    assert_close(ensemble, scores.score([mean], table, sums=True).to_dict())
    assert ensemble["rmse"] == pytest.approx(metrics.rmse(mean, table.targets))
    gain = written["test"]["rmse"] - ensemble["rmse"]
    assert ensemble["improvement"]["difference"] == pytest.approx(gain, abs=1e-6)
    assert ensemble["networks"] == 2
    (row,) = (row for row in written["rows"] if row["number"] == written["best_trial"])
    assert ensemble["ms_per_sequence"] == 2 * row["ms_per_sequence"]
    assert written["baseline_ensemble"] is None, "it has one seed"


def assert_close(found: Any, expected: Any) -> None:
    """Figures are equal but for what float32 makes of other batches."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            assert_close(found[key], value)
    else:
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_blind_baselines_come_from_training_labels(
    written: dict[str, Any], sums: MnistSums
) -> None:
    table = sums.testing_table()
    mean = sums.digits.labels[:TRAINING_IMAGES].double().mean()
    guess = (mean * 3 - table.targets).square().mean().sqrt()
    count = (mean * table.lengths - table.targets).square().mean().sqrt()
    assert written["baselines"]["mean_guess"]["rmse"] == pytest.approx(guess.item())
    assert written["baselines"]["count_only"]["rmse"] == pytest.approx(count.item())


def test_search_figures(written: dict[str, Any]) -> None:
    trials, compute = written["trials"], written["compute"]
    assert (trials["completed"], trials["stopped"], trials["failed"]) == (12, 2, 2)
    assert trials["infeasible"] == 1
    assert trials["failures"] == [{"reason": REASON, "count": 2, "numbers": [14, 15]}]
    assert compute["core_seconds"] == {
        "completed": 360.0, "stopped": 30.0, "failed": 30.0, "finalists": 100.0, "retrain": 180.0,
    }  # fmt: skip
    assert compute["gpu_seconds"]["retrain"] == 22.5
    assert compute["asha_saved_share"] == pytest.approx(1 - 39 / 42)
    assert written["seconds"] == {
        "start": 2.0, "search": 90.0, "finalists": 30.0, "retrain": 8000.0,
    }  # fmt: skip


def test_best_trial_and_manifest(written: dict[str, Any]) -> None:
    assert written["best_config"] == SMALL.to_dict()
    expected = sum(p.numel() for p in CRNN(SMALL.model).parameters())
    assert written["best_parameters"] == expected
    assert (written["best_trial"], written["best_validation_rmse"]) == (3, 1.25)
    assert {"name", "command", "git_commit", "versions", "hardware"} <= set(written["run"])
    assert set(written["space"]) == {"task", "search", "retrain"}
    assert set(written) == {*Report.__annotations__}, "as the types say"


def test_arithmetic_of_the_run_and_of_its_trials(written: dict[str, Any]) -> None:
    assert written["arithmetic"] == {"precision": "float32", "cpu_kernels": True}
    trained = [f"trial-{number:04d}" for number in range(15)]  # the last one died at once
    retrained = ["winner-0", "winner-1", "mnist_crnn_2016-0"]
    assert written["arithmetics"] == {
        ARITHMETIC: [*trained, "finalist 3", "finalist 5", *retrained]
    }


def test_different_arithmetics_are_recorded_by_trial(fresh: RunFolder, sums: MnistSums) -> None:
    moved = dataclasses.replace(
        record(1, "PRUNED", [9.0, 8.0]), arithmetics=[ARITHMETIC, "float32"]
    )
    fresh.ledger.write_text("")
    for ended in (record(0, "COMPLETE", [9.0, 8.0, 1.0]), moved):
        jsonl.append(fresh.ledger, ended.to_dict())
    entries = read_json(fresh.retrained)["winner"]
    entries[1]["arithmetics"] = ["bfloat16"]
    change(fresh.retrained, winner=entries)
    rows = read_json(fresh.finalists)["finalists"]
    rows[1]["arithmetics"] = ["float32"]
    change(fresh.finalists, finalists=rows)
    result = report.write_report(fresh, sums)
    assert result["arithmetics"] == {
        ARITHMETIC: ["trial-0000", "trial-0001", "finalist 3", "winner-0", "mnist_crnn_2016-0"],
        "float32": ["trial-0001", "finalist 5"],
        "bfloat16": ["winner-1"],
    }


def test_report_can_be_written_again_and_is_the_same(reported: RunFolder) -> None:
    """Without data and networks, of what was predicted once."""
    before = {path: path.read_bytes() for path in reported.root.rglob("*") if path.is_file()}
    assert report.is_scored(reported)
    result = report.write_again(reported)
    assert {path: path.read_bytes() for path in before} == before
    assert result == read_json(reported.report_json)


def test_ensembles_of_an_older_file_of_predictions_need_no_scoring_again(
    reported: RunFolder, tmp_path: Path
) -> None:
    """Such a file states another score of an ensemble; the predictions are those of all seeds."""
    run = RunFolder(tmp_path / "older")
    shutil.copytree(reported.root, run.root)
    found = scored.read(run)
    theirs = found.predictions["mnist_crnn_2016"]
    found.predictions["mnist_crnn_2016"] = torch.cat([theirs, theirs + 1])
    found.facts["ensemble"] = {"rmse": 0.0}
    scored.write(found, run)
    stages.record(run, stages.REPORT, [run.test_predictions])
    written: Any = report.write_again(run)
    assert written["ensemble"]["rmse"] > 0
    other = written["baseline_ensemble"]
    table = found.table
    assert other["rmse"] == pytest.approx(metrics.rmse(theirs[0] + 0.5, table.targets))
    assert other["ms_per_sequence"] is None, "nothing has measured it"


def test_scores_again_are_the_same_but_for_measured_times(
    fresh: RunFolder, sums: MnistSums
) -> None:
    first, second = (without(TIMED, report.write_report(fresh, sums)) for _ in range(2))
    assert first == second


def test_predictions_that_are_not_as_written_are_not_trusted(
    fresh: RunFolder, sums: MnistSums
) -> None:
    assert not report.is_scored(fresh)
    report.write_report(fresh, sums)
    stages.reopen(fresh, stages.REPORT)
    assert not report.is_scored(fresh), "the networks may be others since"
    report.write_report(fresh, sums)
    path = fresh.test_predictions
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert not report.is_scored(fresh)
    path.write_bytes(b"PK")
    with pytest.raises(InputError, match=r"cannot read .*test_predictions.npz: .* --rescore"):
        report.write_again(fresh)


def test_missing_figures_are_null_and_missing_in_words(fresh: RunFolder, sums: MnistSums) -> None:
    fresh.journal.unlink()
    fresh.ledger.write_text("")
    jsonl.append(fresh.ledger, record(0, "FAIL", []).to_dict())
    result = report.write_report(fresh, sums)
    assert result["compute"]["asha_saved_share"] is None
    text = fresh.report_markdown.read_text()
    for expected in (
        "Missing: it needs at least 8 trials",
        "Wall time: missing.",
    ):
        assert expected in text
    assert "Early stopping saved" not in text
    assert "early stopping" not in summary(result)


def test_a_winner_that_is_the_network_of_2016_counts_once(
    fresh: RunFolder, sums: MnistSums
) -> None:
    change(fresh.best, config=MNIST_CRNN_2016.to_dict())
    change(fresh.retrained, winner=read_json(fresh.retrained)["baseline"])
    result = report.write_report(fresh, sums)
    assert result["compute"]["core_seconds"]["retrain"] == 60.0
    assert result["arithmetics"][ARITHMETIC].count("mnist_crnn_2016-0") == 1
    assert (result["improvement"]["difference"], result["improvement"]["ratio"]) == (0.0, 1.0)
    assert "They are the same network" in fresh.report_markdown.read_text()


def test_networks_of_another_configuration_are_refused(fresh: RunFolder, sums: MnistSums) -> None:
    other = dataclasses.replace(SMALL.training, learning_rate=0.5)
    change(fresh.best, config=TrialConfig(SMALL.model, other).to_dict())
    with pytest.raises(RunError, match=r"winner-0\.safetensors must have the configuration"):
        report.write_report(fresh, sums)


def test_a_run_without_a_retrained_winner_is_refused(fresh: RunFolder, sums: MnistSums) -> None:
    change(fresh.retrained, winner=[])
    with pytest.raises(RunError, match="must list at least one network of each kind, got none"):
        report.write_report(fresh, sums)


def test_missing_and_altered_files_are_named(fresh: RunFolder, sums: MnistSums) -> None:
    model = fresh.root / "retrained/winner-1.safetensors"
    model.write_bytes(model.read_bytes()[:-1] + b"!")
    with pytest.raises(InputError, match=r"winner-1\.safetensors was removed, cut or altered"):
        report.write_report(fresh, sums)
    model.unlink()
    with pytest.raises(InputError, match=r"winner-1\.safetensors was removed, cut or altered"):
        report.write_report(fresh, sums)
    for path in (fresh.best, fresh.finalists):
        path.write_text("[]")
    with pytest.raises(InputError, match=r"finalists\.json, .*best\.json was removed, cut or alte"):
        report.write_report(fresh, sums)
    fresh.stages.unlink()
    with pytest.raises(InputError, match="has not finished its stage finalists: continue it"):
        report.write_report(fresh, sums)


def test_a_short_ledger_is_completed_from_the_journal(fresh: RunFolder, sums: MnistSums) -> None:
    """Once trials.jsonl shortened by two bytes counted a trial less."""
    fresh.ledger.unlink()
    fresh.journal.unlink()
    log = Journal(fresh)
    for number in range(2):
        ended = record(number, "COMPLETE", [8.0, 3.0, 1.0])
        log.write("trial", stage="search", trial=ended.trial.to_dict())
        known = TrialRecord(ended.trial)
        for epoch, value in enumerate(ended.validation_rmse, start=1):
            known.apply(
                log.write(
                    "epoch", name=ended.trial.name, epoch=epoch, validation_rmse=value,
                    train_loss=value, failure=None, checkpoint=None, seconds=5.0, cpus=2,
                    gpus=0.2, node="a", device="cpu", arithmetic=ARITHMETIC,
                )
            )  # fmt: skip
        known.state = ended.state
        log.write_ended(known)
    expected = report.write_report(fresh, sums)
    assert expected["trials"]["completed"] == 2
    fresh.ledger.write_bytes(fresh.ledger.read_bytes()[:-2])
    again = report.write_report(fresh, sums)
    assert without(TIMED, again) == without(TIMED, expected)


def test_a_network_that_diverged_is_refused(fresh: RunFolder, sums: MnistSums) -> None:
    model = CRNN(SMALL.model, sums.info.shape)
    torch.nn.init.constant_(model.output.bias, float("nan"))
    path, info = fresh.root / "retrained/winner-0.safetensors", {"task": sums.info.to_dict()}
    checkpoint.save_model(path, model, SMALL, info)
    record_stages(fresh)
    with pytest.raises(RunError, match="got 2000 that are not: the training diverged"):
        report.write_report(fresh, sums)
    assert not fresh.report_json.exists()


def test_report_json_is_strict_json(reported: RunFolder) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(reported.report_json.read_text(), parse_constant=refuse)


def test_own_scores_are_those_of_the_models_on_the_test_sequences(
    own_reported: RunFolder, own_written: dict[str, Any], own: OwnSequences
) -> None:
    table = own.testing_table()
    ours = [predictions(own_reported, f"winner-{seed}", own) for seed in range(2)]
    theirs = [predictions(own_reported, "default-0", own)]
    assert_close(own_written["test"], scores.score(ours, table).to_dict())
    assert_close(own_written["baselines"]["default"], scores.score(theirs, table).to_dict())
    assert_close(
        own_written["improvement"], scores.paired_difference(theirs, ours, table).to_dict()
    )
    assert own_written["baseline_config"] == SMALL_DEFAULT.to_dict()
    real = torch.arange(14) < table.lengths[:, None]
    assert own_written["test"]["images"] == len(set(table.indices[real].tolist()))
    assert own_written["test"]["groups"] == 12
    assert set(own_written["baselines"]) == {"mean_guess", "length_only", "default"}
    expected_parameters = sum(p.numel() for p in CRNN(SMALL.model, own.info.shape).parameters())
    assert own_written["best_parameters"] == expected_parameters


def test_own_baselines_know_training_and_validation(
    own_written: dict[str, Any], own: OwnSequences
) -> None:
    targets = torch.cat([own.training.targets, own.validation.targets])
    lengths = torch.cat([own.training.lengths, own.validation.lengths]).double()
    test = own.testing_table()
    guess = metrics.rmse(targets.mean().expand(36), test.targets)
    assert own_written["baselines"]["mean_guess"]["rmse"] == pytest.approx(guess)
    slope, start = np.polyfit(lengths.numpy(), targets.numpy(), 1)
    line = metrics.rmse(torch.as_tensor(start + slope * test.lengths.numpy()), test.targets)
    assert own_written["baselines"]["length_only"]["rmse"] == pytest.approx(line)


def test_what_is_in_own_data(own_written: dict[str, Any], own: OwnSequences) -> None:
    found = own_written["data"]
    assert found["facts"] == [list(fact) for fact in own.facts[:2]]
    assert found["warnings"] == ["2 identical images are in more than one split"]
    values = own.testing_table().targets.numpy()
    assert found["targets"]["test"] == {
        "sequences": 36, "mean": values.mean(), "std": values.std(), "min": values.min(),
        "q25": np.quantile(values, 0.25), "median": np.median(values),
        "q75": np.quantile(values, 0.75), "max": values.max(),
    }  # fmt: skip
    known = [*own.training.targets.tolist(), *own.validation.targets.tolist()]
    assert found["targets"]["training and validation"]["sequences"] == 50
    assert found["targets"]["training and validation"]["max"] == max(known)
    lengths = [*own.training.lengths.tolist(), *own.validation.lengths.tolist()]
    assert found["longer_sequences"] == sum(length > 8 for length in lengths)
    assert own_written["task"] == own.info.to_dict()


def test_own_report_can_be_written_again_and_is_the_same(own_reported: RunFolder) -> None:
    before = own_reported.report_json.read_bytes()
    report.write_again(own_reported)
    assert own_reported.report_json.read_bytes() == before


def test_sequences_of_one_length_have_no_section_of_lengths(
    tmp_path: Path, own: OwnSequences
) -> None:
    def same(table: SequenceTable) -> SequenceTable:
        return SequenceTable(
            table.indices[:, :1], torch.ones_like(table.lengths), table.targets, table.groups
        )

    training, validation, test = map(same, (own.training, own.validation, own.testing_table()))
    task = dataclasses.replace(own, training=training, validation=validation, test=test)
    run = make_run(tmp_path / "same", task.info)
    result = report.write_report(run, task)
    assert set(result["baselines"]) == {"mean_guess", "default"}
    assert "by length" not in run.report_markdown.read_text()
    assert stages.first_open(run) == stages.EXPORT


def test_two_baselines_of_different_configurations_are_refused(
    fresh: RunFolder, sums: MnistSums
) -> None:
    found = read_json(fresh.retrained)
    change(fresh.retrained, baseline=[*found["baseline"], found["winner"][0]])
    with pytest.raises(RunError, match=r"winner-0\.safetensors must have the configuration"):
        report.write_report(fresh, sums)
