"""What a run will take, forecast from a few measured steps and many simulated runs."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crnn_search.cluster import connection, data_size
from crnn_search.cluster.arithmetic import resolve_arithmetic
from crnn_search.cluster.gpu_share import allocate_trials
from crnn_search.cluster.pace import measure_costs
from crnn_search.cluster.resources import Allocation
from crnn_search.data.arrays import SequenceData
from crnn_search.data.images import Progress
from crnn_search.data.sequences import derive_seed
from crnn_search.errors import ConfigError, InputError
from crnn_search.hyperparameters import Arithmetic, TrialConfig
from crnn_search.pipeline.retrain import baseline_of
from crnn_search.pipeline.source import fit_to, open_source
from crnn_search.results.forecast import Forecast, Range, StageForecast
from crnn_search.spaces.space import SearchSpace, feasible, sample
from crnn_search.tuning.budget import later_stages
from crnn_search.tuning.feasibility import check_time
from crnn_search.tuning.replay import Costs, Work, replay_run

MEASURED, DRAWS = 8, 200
"""Random configurations that are measured, and of how many they are the first feasible ones."""

RUNS, FEWEST_RUNS, SIMULATED_TRIALS = 200, 20, 20_000
"""Simulated runs: fewer of a large search, so that all have about so many trials."""


@dataclass(frozen=True)
class Measurement:
    """What was measured of trials, and of what each gets."""

    costs: Costs
    allocation: Allocation
    arithmetic: Arithmetic
    device: str


def forecast_run(
    space: SearchSpace,
    data_dir: Path | None,
    data: SequenceData | None,
    on_note: Callable[[str], None],
    on_progress: Progress,
) -> Forecast:
    """Measure a few trials of a space on a local Ray, and forecast the run.

    data_dir, data: see `open_source`. on_note: called with messages for the user.

    Raises:
        DataError: the data are missing or not valid.
        InputError: no configuration can be trained, a trial needs more than this machine has, or
            fails.
        SpaceError: the data do not fit the space.
    """
    source = open_source(space.task, data_dir, data, on_progress)
    space = fit_to(source, space)
    first, sampled = configurations(space)
    task = source.load()
    with connection.connect(None, on_note):
        data_size.check_memory(task.images.nbytes)
        allocation, _ = allocate_trials(space, task, on_note)
        arithmetic = resolve_arithmetic(space.resources, allocation, on_note)
        configs = [*first, *sampled, baseline_of(space)[1]]
        found, device = measure_costs(configs, space, task, allocation, arithmetic, on_progress)
    costs = Costs(tuple(found[: len(first)]), tuple(found[len(first) : -1]), found[-1])
    return assemble(space, Measurement(costs, allocation, arithmetic, device))


def configurations(space: SearchSpace) -> tuple[list[TrialConfig], list[TrialConfig]]:
    """The first of `first`, if there is one, and some random configurations.

    Raises:
        InputError: none of many random ones is feasible.
    """
    drawn = sample(space, space.search.seed, DRAWS)
    fast = (config for config in feasible(space, drawn) if _fast_enough(space, config))
    sampled = list(itertools.islice(fast, MEASURED))
    if not sampled:
        raise InputError(
            f"none of {DRAWS} sampled configurations is feasible; make the space's kernels, "
            "poolings or depth smaller, or search.max_parameters or search.max_ms_per_sequence "
            "larger"
        )
    entries = (values | entry for entry in space.first[:1] for values in drawn)
    return feasible(space, entries)[:1], sampled


def _fast_enough(space: SearchSpace, config: TrialConfig) -> bool:
    try:
        check_time(space, config.model)
    except ConfigError:
        return False
    return True


def assemble(space: SearchSpace, measured: Measurement) -> Forecast:
    """The forecast of a run from what was measured."""
    search, costs, allocation = space.search, measured.costs, measured.allocation
    draws = random.Random(derive_seed("forecast", search.seed))  # noqa: S311
    count = min(RUNS, max(FEWEST_RUNS, SIMULATED_TRIALS // search.trials))
    runs = [replay_run(space, costs, allocation.concurrent, draws) for _ in range(count)]
    finalists = min(space.retrain.finalists, search.trials)
    repetitions, retrainings = (stage.trials for stage in later_stages(space, finalists))
    trials = {"search": search.trials, "finalists": repetitions, "retraining": retrainings}
    stages = [[run[place] for run in runs] for place in range(len(trials))]
    whole = [_sum(run) for run in runs]
    all_s = sum(work.trial_s for work in whole)

    def of(name: str, trials: int, works: Sequence[Work]) -> StageForecast:
        hours = [work.trial_s / 3600 for work in works]
        return StageForecast(
            name,
            trials,
            _range([work.epochs for work in works]),
            _range([allocation.cpus * value for value in hours]),
            _range([allocation.gpus * value for value in hours]),
            sum(work.trial_s for work in works) / all_s,
            _range([work.elapsed_s for work in works]),
        )

    memory_mb = sorted(cost.memory_mb for cost in (*costs.first, *costs.sampled))
    return Forecast(
        stages=tuple(of(*row, works) for row, works in zip(trials.items(), stages, strict=True)),
        whole=of("whole", sum(trials.values()), whole),
        concurrent=allocation.concurrent,
        cpus=allocation.cpus,
        gpus=allocation.gpus,
        memory_mb=Range(memory_mb[0], float(np.median(memory_mb)), memory_mb[-1]),
        configurations=len(memory_mb) + 1,
        device=measured.device,
        arithmetic=measured.arithmetic,
        runs=count,
        at_most=tuple(
            f"search.{name}" for name in ("target", "patience") if getattr(search, name) is not None
        ),
    )


def _range(values: Sequence[float]) -> Range:
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return Range(float(low), float(middle), float(high))


def _sum(works: Sequence[Work]) -> Work:
    return Work(
        sum(work.epochs for work in works),
        sum(work.trial_s for work in works),
        sum(work.elapsed_s for work in works),
    )
