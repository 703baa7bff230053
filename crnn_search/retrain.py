"""After the search: repeat the finalists with new seeds, retrain the winner on all images."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from crnn_search import checkpoint, cluster
from crnn_search.cluster import Slots
from crnn_search.config import MNIST_CRNN_2016
from crnn_search.data import Digits, derive_seed
from crnn_search.paths import RunPaths, write_json
from crnn_search.progress import Progress
from crnn_search.recorder import JobRecord, Recorder
from crnn_search.space import SearchSpace
from crnn_search.trainable import STATE_FILE, Job

BASELINE = "mnist_crnn_2016"


def choose(
    finalists: Sequence[JobRecord],
    space: SearchSpace,
    run: RunPaths,
    digits: Digits,
    slots: Slots,
    progress: Progress,
) -> dict[str, Any]:
    """Repeat each finalist with new seeds; the lowest mean validation RMSE wins.

    A finalist's value from the search does not count: being the best of many, it is too good to be
    true. A single finalist is not repeated. Returns the winner's flat configuration.

    Raises:
        InterruptedRun: the user stopped it.
        RunError: a repetition failed.
    """
    repeats = space.retrain.seeds if len(finalists) > 1 else 0
    jobs = [
        _search_job(space, finalist, place * repeats + k, k)
        for place, finalist in enumerate(finalists)
        for k in range(repeats)
    ]
    repeated: list[list[JobRecord]] = [[] for _ in finalists]
    if jobs:
        progress.stage("finalists", len(jobs), space.search.max_epochs)
        recorder = Recorder(run.root, run.tensorboard / "finalists", progress)
        records = cluster.run_jobs(digits, run.tune / "finalists", jobs, slots, recorder)
        for record in records:
            repeated[record.job.number // repeats].append(record)
    rows = [_row(*pair) for pair in zip(finalists, repeated, strict=True)]
    rows.sort(key=lambda row: row["rmse"])
    write_json(run.finalists, {"finalists": rows, "repeats": repeats})
    winner = {name: rows[0][name] for name in ("number", "config", "rmse")}
    write_json(run.best, winner)
    return dict(winner["config"])


def retrain(
    config: dict[str, Any],
    space: SearchSpace,
    run: RunPaths,
    digits: Digits,
    slots: Slots,
    progress: Progress,
) -> None:
    """Train the winner and the 2016 network, each with every seed, on all 60,000 training images.

    Both get the same epochs and sequences. Writes their models and `retrained.json`.

    Raises:
        InterruptedRun: the user stopped it.
        RunError: one of them failed.
    """
    spec = space.retrain
    named = {"winner": config, BASELINE: MNIST_CRNN_2016.to_dict()}
    if config == named[BASELINE]:  # the same seeds would give the same networks again
        del named[BASELINE]
    jobs = [
        _retrain_job(space, f"{name}-{k}", place * spec.seeds + k, values, k)
        for place, (name, values) in enumerate(named.items())
        for k in range(spec.seeds)
    ]
    progress.stage("retraining on all 60,000 training images", len(jobs), spec.epochs)
    recorder = Recorder(run.root, run.tensorboard / "retrain", progress)
    records = cluster.run_jobs(digits, run.tune / "retrain", jobs, slots, recorder)
    entries = [_save(record, space, run) for record in records]
    result: dict[str, Any] = {"epochs": spec.epochs, "epoch_sequences": spec.epoch_sequences}
    result["winner"], result[BASELINE] = entries[: spec.seeds], entries[-spec.seeds :]
    write_json(run.retrained, result)


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
    """A finalist's entry in `finalists.json`."""
    values = [_last(record) for record in repeated]
    return {
        "number": finalist.job.number,
        "config": finalist.job.config,
        "search_rmse": _last(finalist),
        "seeds": [record.job.seed for record in repeated],
        "rmse_by_seed": values,
        "rmse": statistics.fmean(values or [_last(finalist)]),
        "core_seconds": round(sum(record.core_seconds for record in repeated), 3),
        "gpu_seconds": round(sum(record.gpu_seconds for record in repeated), 3),
    }


def _last(record: JobRecord) -> float:
    value = record.values[-1]
    assert value is not None, "a trial with no number is told FAIL and never gets here"
    return value


def _save(record: JobRecord, space: SearchSpace, run: RunPaths) -> dict[str, Any]:
    """Turn a job's last checkpoint into a model file; returns its entry in `retrained.json`."""
    assert record.checkpoint is not None
    with record.checkpoint.as_directory() as folder:
        state = checkpoint.load_state(Path(folder) / STATE_FILE, torch.device("cpu"))
    path = run.retrained_models / f"{record.job.name}.safetensors"
    info = {
        "max_digits": space.task.max_digits,
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
