"""What this package reads of Ray Tune's trials, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ray import cloudpickle

from crnn_search.storage.trial import Trial


class TuneTrial(Protocol):
    """The attributes of `ray.tune.experiment.Trial` that are read.

    last_result: the last dictionary that the trial reported. `error_of` and `free_memory` use
    others, which Tune does not document.
    """

    trial_id: str
    config: dict[str, Any]
    last_result: Mapping[str, Any] | None
    placement_group_factory: Any


@dataclass(frozen=True)
class Granted:
    """Cores and GPUs that a trial holds."""

    cpus: float
    gpus: float


def tune_config(trial: Trial) -> dict[str, Any]:
    """A trial as Tune's configuration carries it; `name_of` and `Trial.from_dict` read it."""
    return {"trial": trial.to_dict()}


def name_of(config: Mapping[str, Any]) -> str:
    """The name of the trial that a configuration of Tune's carries."""
    return str(config["trial"]["name"])


def granted_to(trial: TuneTrial) -> Granted:
    """What a trial holds while it runs."""
    resources = trial.placement_group_factory.required_resources
    return Granted(float(resources.get("CPU", 0)), float(resources.get("GPU", 0)))


def error_of(trial: TuneTrial) -> Exception | str:
    """The error that ended a trial: the exception, or its text where Tune keeps only that.

    Tune 2.60 gives the exception to no callback, and `Trial.get_pickled_error` reads the storage,
    which gets the file later. So the driver's own files are read, by two attributes without an
    underscore that are not documented. Tune pickles errors of the trial's code (`RayTaskError`) and
    of its actor (`RayActorError`); of all others it has the text. A test has each from Tune itself.
    """
    pickled = getattr(trial, "pickled_error_file", None)
    if pickled is not None:
        error: Exception = cloudpickle.loads(Path(pickled).read_bytes())
        return error
    text = getattr(trial, "error_file", None)
    if text is None:
        return "unknown error"
    return Path(text).read_text("utf-8", "replace").partition("\n")[2]


def free_memory(trial: TuneTrial) -> None:
    """Drop the averages of all that an ended trial reported: most of what Tune keeps of it.

    There is no public way. A Ray without these attributes keeps its memory, and a test fails.
    """
    metadata = getattr(trial, "run_metadata", None)
    for name in ("metric_analysis", "metric_n_steps"):
        getattr(metadata, name, {}).clear()
