"""After the search: repeat the finalists with new seeds, retrain the winner on all images."""

from __future__ import annotations

from typing import Any

import torch

from crnn_search.data.sequences import derive_seed
from crnn_search.errors import RunError
from crnn_search.hyperparameters import MNIST_CRNN_2016
from crnn_search.pipeline.stage import Stage
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage.files import write_json
from crnn_search.storage.trial import Job, JobRecord
from crnn_search.training import checkpoint

BASELINE = "mnist_crnn_2016"


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
