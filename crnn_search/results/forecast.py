"""What a run is forecast to take: a result for people and programs, without any library."""

from __future__ import annotations

from dataclasses import dataclass

from crnn_search.hyperparameters import Arithmetic


@dataclass(frozen=True)
class Range:
    """A forecast figure. Of simulated runs: the median, and the bounds of the middle 90 %."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class StageForecast:
    """What a stage takes. trials: at most so many. share: of the whole run's compute, 0 to 1."""

    name: str
    trials: int
    epochs: Range
    core_hours: Range
    gpu_hours: Range
    share: float
    time_s: Range


@dataclass(frozen=True)
class Forecast:
    """What a run takes on this machine, without Ray's start and the report.

    stages: search, finalists, retraining. whole: their sum. concurrent: trials that run at once.
    cpus, gpus: what each gets. memory_mb: of a trial's process, of the GPU where it gets one: of
    the smallest, the middle and the largest measured configuration. configurations: how many were
    measured, on `device`. runs: how many were simulated. at_most: the settings that may end the
    search earlier.
    """

    stages: tuple[StageForecast, ...]
    whole: StageForecast
    concurrent: int
    cpus: float
    gpus: float
    memory_mb: Range
    configurations: int
    device: str
    arithmetic: Arithmetic
    runs: int
    at_most: tuple[str, ...]
