"""Trials and records to test with: examples and Hypothesis strategies."""

from __future__ import annotations

import dataclasses
from typing import Any

from hypothesis import strategies as st

from crnn_search.hyperparameters import (
    PARAMETERS,
    Arithmetic,
    ModelSpec,
    TrainingSpec,
    TrialConfig,
)
from crnn_search.storage.trial import (
    DIED,
    METRIC,
    OUT_OF_MEMORY,
    PREEMPTED,
    InfeasibleTrial,
    Trial,
    TrialRecord,
    TrialState,
    trial_name,
)

USAGE = {
    "seconds": 2.0, "cpus": 2, "gpus": 0.25, "node": "host", "device": "cpu",
    "arithmetic": "float32",
}  # fmt: skip
"""What epochs and `spent` events have in common."""


def new_trial(number: int = 0, **fields: Any) -> Trial:
    """A trial of the search."""
    config = TrialConfig(ModelSpec(), TrainingSpec())
    values: dict[str, Any] = {
        "name": trial_name(number), "number": number, "config": config, "seed": 7, "epochs": 4,
        "grace_epochs": 1, "epoch_sequences": 256, "data": "mnist_sums/8",
    }  # fmt: skip
    return Trial(**(values | fields))


def epoch_event(name: str, epoch: int, **fields: Any) -> dict[str, Any]:
    """The event of an epoch of a trial."""
    return {
        "event": "epoch", "name": name, "epoch": epoch, METRIC: 3.0 - epoch, "train_loss": 1.0,
        "failure": None, "checkpoint": f"checkpoints/{name}/{epoch}", **USAGE, **fields,
    }  # fmt: skip


def new_record(
    number: int = 0, state: TrialState = TrialState.COMPLETE, epochs: int = 4, **fields: Any
) -> TrialRecord:
    """The record of a trial that trained some epochs."""
    values: dict[str, Any] = {
        "validation_rmse": [3.0 - epoch for epoch in range(epochs)],
        "train_loss": [1.0] * epochs,
        "seconds": 5.0 * epochs,
        "core_seconds": 10.0 * epochs,
        "gpu_seconds": 2.5 * epochs,
        "state": state,
    }
    return TrialRecord(new_trial(number), **(values | fields))


_text = st.text(max_size=8)
_maybe = st.none() | st.floats(allow_nan=False, allow_infinity=False)
_names = st.text("abc019_-", min_size=1, max_size=8)
_places = st.builds("checkpoints/{}/epoch-0001.safetensors".format, _names)
_seconds = st.floats(0, 1e6).map(lambda value: round(value, 3))

configs = st.builds(
    TrialConfig,
    st.builds(
        ModelSpec,
        conv_channels=st.lists(st.integers(1, 64), min_size=1, max_size=3),
        dropout=st.floats(0, 0.95),
        batch_norm=st.booleans(),
    ),
    st.builds(
        TrainingSpec,
        learning_rate=st.floats(1e-7, 1),
        optimizer=st.sampled_from(["adamw", "rmsprop"]),
    ),
)

trials = st.builds(
    Trial,
    name=_names,
    number=st.integers(0, 9999),
    config=configs,
    seed=st.integers(0, 2**31),
    epochs=st.integers(1, 99),
    grace_epochs=st.integers(1, 9),
    epoch_sequences=st.integers(1, 10**6),
    data=st.text(max_size=9),
    arithmetic=st.builds(
        Arithmetic,
        precision=st.sampled_from(["float32", "bfloat16"]),
        cpu_kernels=st.booleans(),
    ),
    all_images=st.booleans(),
    gpus=st.none() | st.floats(0.01, 8),
)


def _with_epochs(record: TrialRecord, values: list[float | None]) -> TrialRecord:
    """The record with these values by epoch, of a trial that is named as in a search."""
    name = trial_name(record.trial.number)
    trial = dataclasses.replace(record.trial, name=name, epochs=max(1, len(values)))
    whole = bool(values) and values[-1] is not None
    state = record.state if whole else TrialState.FAIL
    return dataclasses.replace(
        record, trial=trial, validation_rmse=values, train_loss=values, state=state
    )


_records = st.builds(
    TrialRecord,
    trials,
    seconds=_seconds,
    core_seconds=_seconds,
    gpu_seconds=_seconds,
    node=_text,
    device=_text,
    arithmetics=st.lists(_text, max_size=2),
    checkpoint=st.none() | _places,
    failure=st.none() | _text,
    state=st.sampled_from([TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]),
    reason=st.none() | _text,
    retries=st.lists(st.sampled_from([DIED, OUT_OF_MEMORY, PREEMPTED]), max_size=2),
)

records = st.builds(_with_epochs, _records, st.lists(_maybe, max_size=3))

infeasible_trials = st.builds(
    InfeasibleTrial,
    number=st.integers(0, 9999),
    config=st.dictionaries(
        st.sampled_from(sorted(PARAMETERS)), st.none() | st.integers() | _text, max_size=3
    ),
    reason=_text,
)

epoch_events = st.builds(
    lambda usage, own: {"event": "epoch", "name": trial_name(0)} | usage | own,
    st.fixed_dictionaries(
        {
            "seconds": _seconds,
            "cpus": st.integers(1, 8),
            "gpus": st.sampled_from([0.0, 0.25, 1.0]),
            "node": _text,
            "device": st.sampled_from(["cpu", "cuda"]),
            "arithmetic": st.sampled_from(["float32", "bfloat16, compiled kernels"]),
        }
    ),
    st.fixed_dictionaries(
        {
            "epoch": st.integers(1, 9),
            "train_loss": _maybe,
            "failure": st.none() | _text,
            "checkpoint": st.none() | _places,
            METRIC: _maybe,
        }
    ),
)
