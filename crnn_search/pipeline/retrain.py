"""After the search: retrain the winner and the network of 2016 on all training images."""

from __future__ import annotations

from typing import Any

import torch

from crnn_search.data.sequences import derive_seed
from crnn_search.errors import RunError
from crnn_search.hyperparameters import MNIST_CRNN_2016, MNIST_SHAPE, TrialConfig
from crnn_search.pipeline.stage import run_stage
from crnn_search.storage import stages
from crnn_search.storage.files import write_json
from crnn_search.storage.trial import Trial, TrialRecord, TrialState, trial_name
from crnn_search.training import checkpoint
from crnn_search.tuning.context import Context

BASELINE = "mnist_crnn_2016"


def retrain(winner: dict[str, Any], context: Context) -> None:
    """Train the winner and the 2016 network, each with every seed, on all 60,000 training images.

    Both get the same epochs and sequences. Writes their models and `retrained.json`.

    Raises:
        InterruptedRun: the user stopped it.
        RunError: one of them failed.
        StorageError: the run's folder or object store cannot be written.
    """
    spec = context.space.retrain
    config = TrialConfig.from_dict(winner["config"])
    config.model.check(MNIST_SHAPE)
    named = {trial_name(winner["number"]): config, BASELINE: MNIST_CRNN_2016}
    if config == MNIST_CRNN_2016:  # the same seeds would give the same networks again
        del named[BASELINE]
    trials = [
        _retraining(context, f"{name}-retrained-{k}", place * spec.seeds + k, config, k)
        for place, (name, config) in enumerate(named.items())
        for k in range(spec.seeds)
    ]
    title = "retraining on all 60,000 training images"
    records = run_stage(context, "retrain", title, trials, keeps_models=True)
    failed = [record for record in records if record.state != TrialState.COMPLETE]
    if failed:
        raise RunError(
            "\n".join(f"{record.trial.name} failed: {record.reason}" for record in failed)
        )
    with context.run.changes():
        entries = [_save_model(record, context) for record in records]
        result: dict[str, Any] = {"epochs": spec.epochs, "epoch_sequences": spec.epoch_sequences}
        result["winner"], result[BASELINE] = entries[: spec.seeds], entries[-spec.seeds :]
        write_json(context.run.retrained, result)
        models = {context.run.root / entry["file"] for entry in entries}
        stages.record(context.run, stages.RETRAIN, (context.run.retrained, *sorted(models)))


def _retraining(context: Context, name: str, number: int, config: TrialConfig, k: int) -> Trial:
    """The trial that trains a configuration with its k-th seed on all training images."""
    spec = context.space.retrain
    return Trial(
        name=name,
        number=number,
        config=config,
        seed=derive_seed("retrain", context.space.search.seed, k) % 2**31,
        epochs=spec.epochs,
        grace_epochs=spec.epochs,
        epoch_sequences=spec.epoch_sequences,
        max_digits=context.space.task.max_digits,
        arithmetic=context.arithmetic,
        all_images=True,
    )


def _save_model(record: TrialRecord, context: Context) -> dict[str, Any]:
    """Write a model file from a trial's last checkpoint; returns its entry in `retrained.json`."""
    run = context.run
    assert record.checkpoint is not None
    state = checkpoint.load_state(run.file(record.checkpoint), torch.device("cpu")).state
    path = run.retrained_models / f"{record.trial.name}.safetensors"
    info = {
        "max_digits": context.space.task.max_digits,
        "seed": record.trial.seed,
        "epochs": record.trial.epochs,
        "epoch_sequences": record.trial.epoch_sequences,
        "run": run.name,
    }
    checkpoint.save_model(path, state.model, state.config, info)
    return {
        "seed": record.trial.seed,
        "file": str(path.relative_to(run.root)),
        "seconds": round(record.seconds, 3),
        "core_seconds": round(record.core_seconds, 3),
        "gpu_seconds": round(record.gpu_seconds, 3),
        "node": record.node,
        "device": record.device,
        "arithmetics": record.arithmetics,
        "train_loss": record.train_loss,
    }
