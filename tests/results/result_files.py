"""The files of a run that has been retrained, without a search: what a report is made of."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from crnn_search.data.own import OwnSequences
from crnn_search.data.sequences import SequenceTable
from crnn_search.data.task import Task
from crnn_search.data.task_info import TaskInfo
from crnn_search.hyperparameters import MNIST_CRNN_2016, ImageShape, TrialConfig
from crnn_search.results import scored
from crnn_search.results.page import render
from crnn_search.storage import jsonl, stages
from crnn_search.storage.files import read_json, write_json, write_text
from crnn_search.storage.journal import Journal
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.trial import InfeasibleTrial, Trial, TrialRecord, TrialState, trial_name
from crnn_search.training import checkpoint
from crnn_search.training.model import CRNN
from crnn_search.training.predict import predict

SMALL = TrialConfig.from_dict(
    {"conv_channels": [4], "kernel_size": [5], "pooling": [4], "gru_sizes": [8]}
)
SMALL_DEFAULT = TrialConfig.from_dict(SMALL.to_dict() | {"gru_sizes": [6]})
REASON = "diverged: training loss `nan` | <script>\nTraceback of many lines"
ARITHMETIC = "float32, compiled kernels"


def record(number: int, state: str, rmse: list[float | None], **config: Any) -> TrialRecord:
    """A trial of the search that ended. rmse: its validation RMSE by epoch."""
    trial = Trial(
        name=trial_name(number),
        number=number,
        config=TrialConfig.from_dict(SMALL.to_dict() | config),
        seed=number,
        epochs=3,
        grace_epochs=1,
        epoch_sequences=500,
        data="mnist_sums/5",
    )
    return TrialRecord(
        trial,
        validation_rmse=rmse,
        train_loss=rmse,
        seconds=5.0 * len(rmse),
        core_seconds=10.0 * len(rmse),
        gpu_seconds=1.0 * len(rmse),
        node="a",
        device="cpu",
        arithmetics=[ARITHMETIC] if rmse else [],
        state=TrialState(state),
        reason=REASON if state == "FAIL" else None,
    )


def full_budget_records(count: int = 12) -> list[TrialRecord]:
    """Trials whose RMSE depends on the learning rate alone; three other things vary, too."""
    rng = random.Random(0)
    records = []
    for number in range(count):
        rate = 10 ** rng.uniform(-4, -1)
        rmse = 1 + abs(rate - 0.001) ** 0.5
        other = {
            "batch_size": rng.choice([32, 64]), "gru_sizes": rng.choice([[8], [16]]),
            "batch_norm": rng.choice([True, False]),
        }  # fmt: skip
        records.append(record(number, "COMPLETE", [8.0, 3.0, rmse], learning_rate=rate, **other))
    return records


def make_run(root: Path, info: TaskInfo) -> RunFolder:
    """A run that only its report is missing of."""
    run = RunFolder(root)
    root.mkdir()
    write_json(run.manifest, _manifest(root.name, info))
    write_text(run.space, _space(info))
    stopped = [record(12, "PRUNED", [9.0]), record(13, "PRUNED", [8.0, 5.0])]
    failed = [record(14, "FAIL", [7.0, 90.0, None]), record(15, "FAIL", [])]
    for ended in full_budget_records() + stopped + failed:
        jsonl.append(run.ledger, ended.to_dict())
    jsonl.append(run.ledger, InfeasibleTrial(16, SMALL.to_dict(), "no pixels are left").to_dict())
    with run.ledger.open("a") as file:
        file.write('{"number": 17, "sta')  # a crash while writing
    row: dict[str, Any] = {
        "config": SMALL.to_dict(), "seeds": [5, 6], "failure": None, "core_seconds": 50.0,
        "gpu_seconds": 0.0, "arithmetics": [ARITHMETIC],
    }  # fmt: skip
    best = {
        "number": 3, "search_validation_rmse": 1.23, "validation_rmse_by_seed": [1.2, 1.3],
        "validation_rmse": 1.25,
    }  # fmt: skip
    second = {
        "number": 5, "search_validation_rmse": 1.21, "validation_rmse_by_seed": [1.4, 1.6],
        "validation_rmse": 1.5,
    }  # fmt: skip
    write_json(run.finalists, {"finalists": [best | row, second | row], "repeats": 2})
    write_json(run.best, {"number": 3, "config": SMALL.to_dict(), "validation_rmse": 1.25})
    name, config = ("mnist_crnn_2016", MNIST_CRNN_2016) if info.sums else ("default", SMALL_DEFAULT)
    write_json(
        run.retrained,
        {
            "epochs": 2, "epoch_sequences": 700, "baseline_name": name,
            "winner": _save_networks(run, "winner", SMALL, info, 2),
            "baseline": _save_networks(run, name, config, info, 1),
        },
    )  # fmt: skip
    starts = {"search": 2.0, "finalists": 92.0, "retrain": 122.0, "report": 8122.0}
    for stage, elapsed_s in starts.items():
        event = {"event": "stage", "elapsed_s": elapsed_s, "stage": stage}
        jsonl.append(run.journal, event)
    record_stages(run)
    return run


def record_stages(run: RunFolder) -> None:
    """Record that the run's files are as its stages wrote them."""
    stages.record(run, stages.FINALISTS, (run.finalists, run.best))
    models = run.retrained_models.glob("*.safetensors")
    stages.record(run, stages.RETRAIN, (run.retrained, *models))


def _space(info: TaskInfo) -> str:
    """The search space that the trials are of."""
    task = "{mnist_sums: {max_digits: 5}}" if info.sums else "{data: data/plants.npz, unit: mm}"
    return f"""
task: {task}
search: {{trials: 16, max_epochs: 3, grace_epochs: 1, reduction_factor: 3, epoch_sequences: 500}}
retrain: {{epochs: 2, seeds: 2, finalists: 2, epoch_sequences: 700}}
space:
  conv_channels: [4]
  kernel_size: 5
  pooling: 4
  gru_sizes: {{list_of: {{int: [4, 16]}}, length: [1, 2]}}
  learning_rate: {{float: [1.0e-4, 0.1], log: true}}
  batch_size: {{choice: [32, 64, 128]}}
  batch_norm: {{choice: [true, false]}}
"""


def _manifest(name: str, info: TaskInfo) -> dict[str, Any]:
    own = {"data": "data/plants.npz", "unit": info.unit}
    return {
        "format": 3, "name": name, "command": "crnn-search launch quick.yaml", "git_commit": None,
        "created": "2026-01-02T03:04:05+00:00", "versions": {"torch": "2.0"}, "seed": 0,
        "hardware": {"nodes": [{"cpus": 2.0, "gpus": 0.0, "cpu_model": None, "memory_gb": 7.5}]},
        "arithmetic": {"precision": "float32", "cpu_kernels": True},
        "data_sha256": {"file": "0123"},
        "space": {
            "task": {"mnist_sums": {"max_digits": 5}} if info.sums else own,
            "search": {
                "trials": 16, "max_epochs": 3, "grace_epochs": 1, "reduction_factor": 3,
                "epoch_sequences": 500, "seed": 0,
            },
            "retrain": {"epochs": 2, "seeds": 2, "finalists": 2, "epoch_sequences": 700},
        },
    }  # fmt: skip


def _save_networks(
    run: RunFolder, name: str, config: TrialConfig, info: TaskInfo, seeds: int
) -> list[Any]:
    entries = []
    for seed in range(seeds):
        file = f"retrained/{name}-{seed}.safetensors"
        torch.manual_seed(seed)
        network = CRNN(config.model, info.shape)
        checkpoint.save_model(run.root / file, network, config, {"task": info.to_dict()})
        entries.append(
            {
                "seed": seed, "file": file, "seconds": 30.0, "core_seconds": 60.0,
                "gpu_seconds": 7.5, "node": "a", "device": "cpu", "arithmetics": [ARITHMETIC],
                "train_loss": [3.0, 2.0],
            }
        )  # fmt: skip
    return entries


def change(path: Path, **values: Any) -> None:
    """Change some values of a JSON file of a run, as if its stage had written them."""
    write_json(path, read_json(path) | values)
    record_stages(RunFolder(path.parent))


def to_markdown(report: Any, run: RunFolder) -> str:
    """A changed report of a run, in Markdown."""
    return render.to_markdown(render.finished_page(report, scored.read(run), run.location))


def to_html(report: Any, run: RunFolder) -> str:
    """The same as HTML, without Plotly's script."""
    with mock.patch("plotly.offline.get_plotlyjs", return_value=""):
        return render.to_html(render.finished_page(report, scored.read(run), run.location))


def predictions(run: RunFolder, name: str, task: Task) -> Tensor:
    """What a retrained network predicts for the test sequences, `(S,)`."""
    model = checkpoint.load_model(run.root / f"retrained/{name}.safetensors")[0]
    return predict(model, task.images, task.testing_table())


def own_task(**changes: Any) -> OwnSequences:
    """Random colour pictures of 8 × 10 pixels. changes: other values for its `TaskInfo`.

    40 sequences for training, 10 for validation and 36 for the test, in 12 groups, of 1 to 14.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (200, 3, 8, 10), generator=generator, dtype=torch.uint8)
    training, validation, test = (
        own_table(count, 14, places, seed)
        for seed, (count, places) in enumerate(
            ((40, (0, 100)), (10, (100, 130)), (36, (130, 200))), start=1
        )
    )
    values: dict[str, Any] = {
        "name": "plants", "data": "0123/drop", "target": "height", "unit": "mm", "longest": 14,
        "shape": ImageShape(3, 8, 10), "center": 20.0, "scale": 5.0,
    }  # fmt: skip
    facts = [("sequences", "86 in 29 groups"), ("size", "8 × 10; 3 had another size and were ...")]
    facts.append(("warning", "2 identical images are in more than one split"))
    info = TaskInfo(**values | changes)
    return OwnSequences(info, images, training, validation, test, "drop", facts)


def own_table(sequences: int, longest: int, images: tuple[int, int], seed: int) -> SequenceTable:
    """Sequences whose targets depend on their lengths, three of each group.

    images: the first one, and the one behind the last one.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (sequences,), generator=generator)
    indices = torch.randint(*images, (sequences, longest), generator=generator, dtype=torch.int32)
    indices[torch.arange(longest) >= lengths[:, None]] = 0
    noise = torch.randn(sequences, generator=generator, dtype=torch.float64)
    return SequenceTable(indices, lengths, 2.0 * lengths + noise, torch.arange(sequences) // 3)


class Writer:
    """Writes the files of a run as its search would."""

    def __init__(self, run: RunFolder) -> None:
        self.run, self.journal = run, Journal(run)
        self.journal.start_session()
        self.journal.write("stage", stage="search")

    def start(
        self, number: int, *rmse: float | None, stage: str = "search", name: str = ""
    ) -> None:
        """A trial that has trained as many epochs as it has RMSEs."""
        trial = record(number, "RUNNING", []).trial.to_dict()
        trial["name"] = name = name or trial["name"]
        self.journal.write("trial", stage=stage, trial=trial)
        for epoch, value in enumerate(rmse, start=1):
            self.journal.write(
                "epoch", name=name, epoch=epoch, validation_rmse=value, train_loss=value,
                failure=None, checkpoint=None, seconds=5.0, cpus=2, gpus=0.2, node="a",
                device="cpu", arithmetic=ARITHMETIC,
            )  # fmt: skip

    def end(self, number: int, state: str, *rmse: float | None) -> None:
        """A trial that has ended."""
        self.start(number, *rmse)
        self.journal.write_ended(record(number, state, list(rmse)))
