"""After the search: repeat the finalists with new seeds, retrain the winner on all images."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from crnn_search.cli.display import Progress
from crnn_search.data.sequences import Digits, derive_seed
from crnn_search.errors import RunError
from crnn_search.hyperparameters import MNIST_CRNN_2016
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage.journal import History, JobRecord, Journal
from crnn_search.storage.run_folder import RunPaths, write_json
from crnn_search.storage.trial import Job
from crnn_search.training import checkpoint
from crnn_search.tuning import tuner
from crnn_search.tuning.callback import Recorder
from crnn_search.tuning.tuner import Slots

BASELINE = "mnist_crnn_2016"


@dataclass(frozen=True)
class Stage:
    """What the stages after the search have in common."""

    space: SearchSpace
    run: RunPaths
    history: History
    journal: Journal
    digits: Digits
    slots: Slots
    progress: Progress

    def finish(
        self, stage: str, title: str, jobs: Sequence[Job], *, keeps_models: bool = False
    ) -> list[JobRecord]:
        """Run those of the jobs that have not ended yet; returns what became of all, in order.

        keeps_models: a job whose last checkpoint is gone has to run again.

        Raises:
            InterruptedRun: the user stopped it.
            StorageError: the run's folder cannot be written.
        """
        self.journal.write("stage", stage=stage)
        earlier = self.history.records(stage)
        known = {job.name: earlier[job.name] for job in jobs if job.name in earlier}
        usable = [
            record
            for job in jobs
            if (record := known.get(job.name))
            and record.job.trains_as(job)
            and not (record.state and keeps_models and not self._has_model(record))
        ]
        recorder = Recorder(stage, self.run, self.journal, self.progress, usable)
        self.progress.stage(title, len(jobs), max(job.epochs for job in jobs), usable)
        for record in usable:
            if not record.state and (record.failure or record.epochs >= record.job.epochs):
                recorder.settle(record)
        for job in jobs:
            if job.name not in recorder.records:
                recorder.made(job)
        recorder.raise_error()
        waiting = [r.job for job in jobs if not (r := recorder.records[job.name]).state]
        if waiting:
            tuner.run_jobs(self.digits, self.run, waiting, self.slots, recorder)
        return [recorder.records[job.name] for job in jobs]

    def _has_model(self, record: JobRecord) -> bool:
        return record.checkpoint is not None and self.run.file(record.checkpoint).is_file()


def choose(finalists: Sequence[JobRecord], stage: Stage) -> dict[str, Any]:
    """Repeat each finalist with new seeds; the lowest mean validation RMSE wins.

    A finalist's value from the search does not count: being the best of many, it is too good to be
    true. A single finalist is not repeated. One of whose repetitions fails has lost, since what is
    retrained must train reliably. Returns the winner: `number`, flat `config`, `rmse`.

    Raises:
        InterruptedRun: the user stopped it.
        RunError: a repetition of every finalist failed.
    """
    space = stage.space
    repeats = space.retrain.seeds if len(finalists) > 1 else 0
    jobs = [
        _search_job(space, finalist, place * repeats + k, k)
        for place, finalist in enumerate(finalists)
        for k in range(repeats)
    ]
    records = stage.finish("finalists", "finalists", jobs) if jobs else []
    rows = [
        _row(finalist, records[place * repeats : (place + 1) * repeats])
        for place, finalist in enumerate(finalists)
    ]
    rows.sort(key=lambda row: math.inf if row["rmse"] is None else row["rmse"])
    if rows[0]["rmse"] is None:
        raise RunError(f"no finalist trains reliably: {rows[0]['failure']}")
    write_json(stage.run.finalists, {"finalists": rows, "repeats": repeats})
    winner = {name: rows[0][name] for name in ("number", "config", "rmse")}
    write_json(stage.run.best, winner)
    stage.run.push()
    return winner


def retrain(winner: dict[str, Any], stage: Stage) -> None:
    """Train the winner and the 2016 network, each with every seed, on all 60,000 training images.

    Both get the same epochs and sequences. Writes their models and `retrained.json`.

    Raises:
        InterruptedRun: the user stopped it.
        RunError: one of them failed.
    """
    spec = stage.space.retrain
    named = {f"trial-{winner['number']:04d}": winner["config"], BASELINE: MNIST_CRNN_2016.to_dict()}
    if winner["config"] == named[BASELINE]:  # the same seeds would give the same networks again
        del named[BASELINE]
    jobs = [
        _retrain_job(stage.space, f"{name}-retrained-{k}", place * spec.seeds + k, values, k)
        for place, (name, values) in enumerate(named.items())
        for k in range(spec.seeds)
    ]
    title = "retraining on all 60,000 training images"
    records = stage.finish("retrain", title, jobs, keeps_models=True)
    failed = [record for record in records if record.state != "COMPLETE"]
    if failed:
        raise RunError("\n".join(f"{record.job.name} failed: {record.reason}" for record in failed))
    entries = [_save(record, stage) for record in records]
    result: dict[str, Any] = {"epochs": spec.epochs, "epoch_sequences": spec.epoch_sequences}
    result["winner"], result[BASELINE] = entries[: spec.seeds], entries[-spec.seeds :]
    write_json(stage.run.retrained, result)
    stage.run.push()


def _search_job(space: SearchSpace, finalist: JobRecord, number: int, k: int) -> Job:
    search = space.search
    return Job(
        name=f"trial-{finalist.job.number:04d}-seed-{k}",
        number=number,
        config=finalist.job.config,
        seed=derive_seed("finalist", search.seed, k) % 2**31,
        epochs=search.max_epochs,
        grace_epochs=search.grace_epochs,
        epoch_sequences=search.epoch_sequences,
        max_digits=space.task.max_digits,
    )


def _retrain_job(space: SearchSpace, name: str, number: int, config: dict[str, Any], k: int) -> Job:
    spec = space.retrain
    return Job(
        name=name,
        number=number,
        config=config,
        seed=derive_seed("retrain", space.search.seed, k) % 2**31,
        epochs=spec.epochs,
        grace_epochs=spec.epochs,
        epoch_sequences=spec.epoch_sequences,
        max_digits=space.task.max_digits,
        all_images=True,
    )


def _row(finalist: JobRecord, repeated: Sequence[JobRecord]) -> dict[str, Any]:
    """A finalist's entry in `finalists.json`; no `rmse` if one of its repetitions failed."""
    failed = [record for record in repeated if record.state != "COMPLETE"]
    values = [None if record in failed else record.last for record in repeated]
    sound = [value for value in values if value is not None]
    return {
        "number": finalist.job.number,
        "config": finalist.job.config,
        "search_rmse": finalist.last,
        "seeds": [record.job.seed for record in repeated],
        "rmse_by_seed": values,
        "rmse": None if failed else statistics.fmean(sound or [finalist.last]),
        "failure": failed[0].reason if failed else None,
        "core_seconds": round(sum(record.core_seconds for record in repeated), 3),
        "gpu_seconds": round(sum(record.gpu_seconds for record in repeated), 3),
    }


def _save(record: JobRecord, stage: Stage) -> dict[str, Any]:
    """Turn a job's last checkpoint into a model file; returns its entry in `retrained.json`."""
    run = stage.run
    assert record.checkpoint is not None
    state, _ = checkpoint.load_state(run.file(record.checkpoint), torch.device("cpu"))
    path = run.retrained_models / f"{record.job.name}.safetensors"
    info = {
        "max_digits": stage.space.task.max_digits,
        "seed": record.job.seed,
        "epochs": record.job.epochs,
        "epoch_sequences": record.job.epoch_sequences,
        "run": run.name,
    }
    checkpoint.save_model(path, state.model, state.config, info)
    return {
        "seed": record.job.seed,
        "file": str(path.relative_to(run.root)),
        "seconds": round(record.seconds, 3),
        "core_seconds": round(record.core_seconds, 3),
        "gpu_seconds": round(record.gpu_seconds, 3),
        "node": record.node,
        "device": record.device,
        "train_loss": record.losses,
    }
