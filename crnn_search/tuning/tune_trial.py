"""What this package reads of Ray Tune's trials, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from crnn_search.storage.trial import Trial


class TuneTrial(Protocol):
    """The attributes of `ray.tune.experiment.Trial` that are read.

    last_result: the last dictionary that the trial reported. error_file: text of an error that
    ended it; pickled_error_file: the exception itself, where this process has it.
    """

    trial_id: str
    config: dict[str, Any]
    last_result: Mapping[str, Any] | None
    error_file: str | None
    pickled_error_file: str | None
    placement_group_factory: Any
    run_metadata: Any


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


def free_memory(trial: TuneTrial) -> None:
    """Drop the averages of all that an ended trial reported: most of what Tune keeps of it."""
    trial.run_metadata.metric_analysis = {}
    trial.run_metadata.metric_n_steps = {}
