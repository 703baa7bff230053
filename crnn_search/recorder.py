"""Ray Tune's callback: what happens to a job goes to ledger, TensorBoard and progress display."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray.exceptions
from ray.tune import Callback, Checkpoint
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from crnn_search import ledger
from crnn_search.progress import Progress
from crnn_search.searcher import ending_state
from crnn_search.trainable import METRIC, Job

SCALARS = (
    METRIC, "exact_sum_rate", "train_loss", "learning_rate", "sequences_per_s", "peak_memory_mb",
)  # fmt: skip


@dataclass
class JobRecord:
    """What became of one job.

    values: validation RMSE by epoch, None where it was no number. losses: training loss by epoch.
    state: COMPLETE, PRUNED or FAIL, empty while it runs. seconds: of training, restarts included.
    """

    job: Job
    cpus: float
    gpus: float
    values: list[float | None] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    node: str = ""
    device: str = ""
    state: str = ""
    reason: str | None = None
    checkpoint: Checkpoint | None = None

    @property
    def core_seconds(self) -> float:
        return self.seconds * self.cpus

    @property
    def gpu_seconds(self) -> float:
        return self.seconds * self.gpus

    def ledger_line(self, root: Path) -> dict[str, Any]:
        """The record as the ledger keeps it; the checkpoint's path is relative to `root`."""
        path = self.checkpoint and Path(self.checkpoint.path)
        return {
            "number": self.job.number,
            "state": self.state,
            "reason": self.reason,
            "config": self.job.config,
            "values": self.values,
            "node": self.node,
            "device": self.device,
            "seconds": round(self.seconds, 3),
            "core_seconds": round(self.core_seconds, 3),
            "gpu_seconds": round(self.gpu_seconds, 3),
            "seed": self.job.seed,
            "checkpoint": _relative(path, root) if path else None,
        }


class Recorder(Callback):  # type: ignore[misc]
    """Keeps a `JobRecord` for each job of one stage.

    Ray's default logger callbacks are off in its favour: they keep every trial's results in the
    driver's memory (ray#64231) and write hyperparameters to TensorBoard only when a trial ends,
    without its lists.
    """

    def __init__(
        self, root: Path, tensorboard: Path, progress: Progress, ledger_path: Path | None = None
    ) -> None:
        self.records: dict[str, JobRecord] = {}
        self._root = root
        self._tensorboard = tensorboard
        self._progress = progress
        self._ledger_path = ledger_path
        self._writers: dict[str, SummaryWriter] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks beside each experiment; this one is of the driver alone.
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A job got its actor, for the first time or again."""
        record = self._record(trial)
        if not record.values and not record.losses:
            self._progress.started(record.job.name)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch ended; one that a restarted trial repeats is counted in seconds only."""
        record = self._record(trial)
        record.seconds += result["seconds"]
        record.node, record.device = result["hostname"], result["device"]
        epoch = result["epoch"]
        if epoch <= len(record.losses):
            return
        record.losses.append(result["train_loss"])
        if METRIC in result:
            value = result[METRIC]
            record.values.append(value if math.isfinite(value) else None)
        self._write_scalars(record.job, epoch, result)
        self._progress.epoch(record.job.name, epoch, result.get(METRIC), result["train_loss"])

    def on_checkpoint(
        self, iteration: int, trials: list[Any], trial: Any, checkpoint: Checkpoint, **info: Any
    ) -> None:
        """A job's state was saved."""
        self._record(trial).checkpoint = checkpoint

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A job ended by itself or was stopped."""
        record = self._record(trial)
        result = trial.last_result or {}
        if METRIC in result or "failure" in result:
            record.state = ending_state(result, record.job.epochs).name
        else:
            record.state = "COMPLETE" if len(record.losses) >= record.job.epochs else "FAIL"
        record.reason = result.get("failure")
        self._end(record)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A job failed for good."""
        record = self._record(trial)
        record.state, record.reason = "FAIL", _failure(trial)
        self._end(record)

    def infeasible(self, number: int, config: dict[str, Any], reason: str) -> None:
        """A sampled network is impossible; it never ran."""
        job = Job(f"trial-{number:04d}", number, config, 0, 0, 0, 0, 0)
        record = JobRecord(job, 0.0, 0.0, state="FAIL", reason=ledger.INFEASIBLE + reason)
        if self._ledger_path:
            ledger.append(self._ledger_path, record.ledger_line(self._root))

    def _record(self, trial: Any) -> JobRecord:
        job = Job(**trial.config["job"])
        if job.name not in self.records:
            needed = trial.placement_group_factory.required_resources
            self.records[job.name] = JobRecord(
                job, float(needed.get("CPU", 0)), float(needed.get("GPU", 0))
            )
        return self.records[job.name]

    def _end(self, record: JobRecord) -> None:
        if self._ledger_path:
            ledger.append(self._ledger_path, record.ledger_line(self._root))
        writer = self._writers.pop(record.job.name, None)
        if writer:
            writer.close()
        self._progress.ended(record.job.name, record.state, record.reason)

    def _write_scalars(self, job: Job, epoch: int, result: dict[str, Any]) -> None:
        if job.name not in self._writers:
            self._writers[job.name] = writer = SummaryWriter(str(self._tensorboard / job.name))
            for summary in hparams(_hyperparameters(job.config), {METRIC: 0.0}):
                writer._get_file_writer().add_summary(summary)
        for name in SCALARS:
            if name in result:
                self._writers[job.name].add_scalar(name, result[name], epoch)


def _hyperparameters(config: dict[str, Any]) -> dict[str, Any]:
    """TensorBoard takes numbers, strings and booleans: lists become text and their lengths."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, list):
            flat[name] = "-".join(map(str, value))
            flat[f"{name}.length"] = len(value)
        else:
            flat[name] = value
    return flat


def _failure(trial: Any) -> str:
    """One line for why a trial failed."""
    error = trial.get_pickled_error()
    if isinstance(error, ray.exceptions.RayTaskError):
        error = error.cause
    if isinstance(error, ray.exceptions.RayActorError):
        return f"process died: {_first_line(error)}"
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: BaseException | None) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else "no message"


def _relative(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
