"""After the search: retrain the winner and a baseline on training and validation data."""

from __future__ import annotations

from typing import Any

from crnn_search.data.sequences import derive_seed
from crnn_search.errors import ConfigError, RunError
from crnn_search.hyperparameters import MNIST_CRNN_2016, TrialConfig
from crnn_search.pipeline.stage import run_stage
from crnn_search.spaces.fitting import defaults
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage import stages
from crnn_search.storage.files import write_json
from crnn_search.storage.trial import Trial, TrialRecord, TrialState, trial_name
from crnn_search.training import checkpoint
from crnn_search.tuning.context import Context

MNIST_CRNN_2016_NAME, DEFAULT_NAME = "mnist_crnn_2016", "default"
"""Names of baselines."""


def retrain(winner: dict[str, Any], context: Context) -> None:
    """Train the winner and a baseline, each with every seed, on training and validation data.

    Both get the same epochs and sequences. Writes their models and `retrained.json`.

    Raises:
        InterruptedRun: the user stopped it.
        RunError: one of them failed.
        StorageError: the run's folder or object store cannot be written.
    """
    spec = context.space.retrain
    config = TrialConfig.from_dict(winner["config"])
    config.model.check(context.space.shape)
    baseline, baseline_config = baseline_of(context.space)
    named = {trial_name(winner["number"]): config, baseline: baseline_config}
    if config == baseline_config:  # the same seeds would give the same networks again
        del named[baseline]
    trials = [
        _retraining(context, f"{name}-retrained-{k}", place * spec.seeds + k, config, k)
        for place, (name, config) in enumerate(named.items())
        for k in range(spec.seeds)
    ]
    data = "60,000 training images" if context.task.info.sums else "training and validation data"
    title = f"retraining on all {data}"
    records = run_stage(context, "retrain", title, trials, keeps_models=True)
    failed = [record for record in records if record.state != TrialState.COMPLETE]
    if failed:
        raise RunError(
            "\n".join(f"{record.trial.name} failed: {record.reason}" for record in failed)
        )
    with context.run.changes():
        entries = [_save_model(record, context) for record in records]
        result: dict[str, Any] = {"epochs": spec.epochs, "epoch_sequences": spec.epoch_sequences}
        result |= {"winner": entries[: spec.seeds], "baseline": entries[-spec.seeds :]}
        result["baseline_name"] = baseline
        write_json(context.run.retrained, result)
        models = {context.run.root / entry["file"] for entry in entries}
        stages.record(context.run, stages.RETRAIN, (context.run.retrained, *sorted(models)))


def baseline_of(space: SearchSpace) -> tuple[str, TrialConfig]:
    """Name and configuration of the network that the winner is compared with.

    That of 2016 or, where it leaves no pixels of the images, the default one.
    """
    own = {} if space.task.data is None else defaults(space.shape, space.images.longest)
    try:
        MNIST_CRNN_2016.model.check(space.shape)
    except ConfigError:
        return DEFAULT_NAME, TrialConfig.from_dict(own)
    own.pop("pooling", None)
    return MNIST_CRNN_2016_NAME, TrialConfig.from_dict(MNIST_CRNN_2016.to_dict() | own)


def _retraining(context: Context, name: str, number: int, config: TrialConfig, k: int) -> Trial:
    """The trial that trains a configuration with its k-th seed on all data but test data."""
    spec = context.space.retrain
    return Trial(
        name=name,
        number=number,
        config=config,
        seed=derive_seed("retrain", context.space.search.seed, k) % 2**31,
        epochs=spec.epochs,
        grace_epochs=spec.epochs,
        epoch_sequences=spec.epoch_sequences,
        data=context.space.images.data,
        arithmetic=context.arithmetic,
        all_images=True,
    )


def _save_model(record: TrialRecord, context: Context) -> dict[str, Any]:
    """Write a model file from a trial's last checkpoint; returns its entry in `retrained.json`."""
    run = context.run
    assert record.checkpoint is not None
    model, config = checkpoint.load_network(run.file(record.checkpoint))
    path = run.retrained_models / f"{record.trial.name}.safetensors"
    task = context.task.info
    model.scale_output(task.center, task.scale)
    info = {
        "task": task.to_dict(),
        "seed": record.trial.seed,
        "epochs": record.trial.epochs,
        "epoch_sequences": record.trial.epoch_sequences,
        "run": run.name,
    }
    checkpoint.save_model(path, model, config, info)
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
