"""A small real search on real Ray, from the space to the report and the exported model.

Ray and its libraries warn of things that are not ours to mend, so warnings are no errors here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from crnn_search import ledger, mnist
from crnn_search.data import Digits

SPACE = """
search: {trials: 4, max_epochs: 2, grace_epochs: 1, reduction_factor: 2, epoch_sequences: 256,
         seed: 3}
retrain: {epochs: 1, epoch_sequences: 256, seeds: 2, finalists: 2}
first:
  - {learning_rate: 0.01, conv_channels: [4]}
space:
  conv_channels: {list_of: {int: [2, 6]}, length: [1, 2]}
  kernel_size: 5
  pooling: 4
  gru_sizes: [8]
  learning_rate: {float: [1.0e-3, 2.0e-2], log: true}
  batch_size: 64
"""


def write_mnist(folder: Path, digits: Digits) -> Path:
    """Synthetic digits as MNIST's four files."""
    folder.mkdir()
    for part, rows in (("train", slice(0, 60_000)), ("t10k", slice(60_000, None))):
        images, labels = digits.images[rows].numpy(), digits.labels[rows].numpy()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(bytes(16) + images.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(bytes(8) + labels.tobytes())
    return folder


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, digits: Digits
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder of a finished run, and what its command printed."""
    root = tmp_path_factory.mktemp("search")
    (root / "space.yaml").write_text(SPACE)
    data = write_mnist(root / "data", digits)
    done = command(root, "launch", "space.yaml", "--name", "small", "--data-dir", str(data))
    return root / "runs" / "small", done


# Runs the command line with synthetic digits in MNIST's place, by their own checksums.
PROGRAM = """
import hashlib, pathlib, sys
from crnn_search import mnist
folder = pathlib.Path("data")
mnist.FILES = {
    name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in mnist.FILES
}
from crnn_search.cli import main
main()
"""


def command(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "COLUMNS": "200"},
    )


def test_it_ends_well_and_prints_the_report(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    run, done = finished
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "search: 4 jobs of up to 2 epochs" in done.stdout
    assert "trial-0000 completed after epoch 2" in done.stdout
    assert f"report: runs/{run.name}/report.md" in done.stdout


def test_ledger_tells_every_trial_once(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    trials = ledger.read_ledger(finished[0] / "trials.jsonl")
    assert sorted(trial["number"] for trial in trials) == [0, 1, 2, 3]
    for trial in trials:
        assert trial["state"] in {"COMPLETE", "PRUNED"}
        assert len(trial["values"]) == (2 if trial["state"] == "COMPLETE" else 1)
        assert trial["seconds"] > 0
        assert (finished[0] / trial["checkpoint"] / "state.safetensors").is_file()
    assert trials[0]["config"]["learning_rate"] == 0.01 or trials[1]["number"] == 0


def test_study_mirrors_the_ledger(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    import optuna

    run = finished[0]
    study = optuna.load_study(study_name="small", storage=f"sqlite:///{run / 'study.db'}")
    told = {trial.number: trial for trial in study.trials}
    for line in ledger.read_ledger(run / "trials.jsonl"):
        trial = told[line["number"]]
        assert trial.state.name == line["state"]
        assert trial.intermediate_values == dict(enumerate(line["values"], start=1))


def test_report_has_the_keys_others_rely_on(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    report = json.loads((finished[0] / "report.json").read_text())
    assert set(report["test"]["rmse_by_length"]) == {str(n) for n in range(1, 9)}
    for group, key in (
        ("test", "rmse"), ("test", "rmse_std"), ("test", "exact_sum_rate"),
        ("baselines", "mean_guess_rmse"), ("baselines", "count_only_rmse"),
        ("baselines", "mnist_crnn_2016_rmse"),
    ):  # fmt: skip
        assert report[group][key] >= 0
    states = report["trials"]
    assert states["completed"] + states["stopped"] == 4
    assert states["failed"] == 0
    finalists = json.loads((finished[0] / "finalists.json").read_text())["finalists"]
    assert report["best_config"] == finalists[0]["config"]
    assert finalists[0]["rmse"] == min(finalist["rmse"] for finalist in finalists)


def test_tensorboard_has_every_trials_scalars(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trial = EventAccumulator(str(finished[0] / "tensorboard" / "search" / "trial-0000"))
    trial.Reload()
    assert [event.step for event in trial.Scalars("validation_rmse")] == [1, 2]
    assert {"train_loss", "learning_rate", "exact_sum_rate"} <= set(trial.Tags()["scalars"])
    assert "_hparams_/session_start_info" in trial.summary_metadata


def test_exported_models_and_predict_agree(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    from PIL import Image

    run = finished[0]
    images = []
    for number in range(3):
        path = run.parent.parent / f"{number}.png"
        pixels = torch.full((28, 28), 20 + number, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(path)
        images.append(path.name)
    printed = {}
    for name in ("model.safetensors", "model.onnx", "model.pt2"):
        done = command(run.parent.parent, "predict", str(run / "model" / name), *images)
        assert done.returncode == 0, done.stderr
        printed[name] = done.stdout
    assert len(set(printed.values())) == 1
    assert [line.split(":")[0] for line in printed["model.onnx"].splitlines()] == images


def test_report_and_export_can_be_run_again(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    run, _ = finished
    before = json.loads((run / "report.json").read_text())
    data = str(run.parent.parent / "data")
    again = command(run.parent.parent, "report", str(run), "--data-dir", data)
    assert again.returncode == 0, again.stderr
    assert json.loads((run / "report.json").read_text()) == before
    export = command(run.parent.parent, "export", str(run), "--format", "onnx", "--data-dir", data)
    assert export.returncode == 0, export.stderr
    assert "onnx: largest difference to PyTorch" in export.stdout


def test_an_existing_name_is_refused(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    root = finished[0].parent.parent
    done = command(root, "launch", "space.yaml", "--name", "small")
    assert done.returncode == 2
    assert "a run called 'small' exists in runs; choose another with --name" in done.stderr


def test_the_synthetic_files_are_not_taken_for_mnist(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    from crnn_search.errors import DataError

    with pytest.raises(DataError, match="is truncated or altered"):
        mnist.load(finished[0].parent.parent / "data")
