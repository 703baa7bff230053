"""How long the rest of a run takes: simulated, with the times that its trials were measured at."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Mapping
from typing import NamedTuple

from crnn_search.hyperparameters import TrialConfig
from crnn_search.storage.journal import SEARCH
from crnn_search.storage.ledger import ranked
from crnn_search.storage.trial import Trial, TrialRecord
from crnn_search.training.metrics import EpochMetrics
from crnn_search.tuning.budget import Limit, later_stages
from crnn_search.tuning.progress import Records, TimeRange
from crnn_search.tuning.replay import LEARNING_TRIALS, MAX_LEARNING, replay, replay_whole
from crnn_search.tuning.scheduler import Asha

RUNS, FEWEST_RUNS, SIMULATED_TRIALS = 40, 8, 2000
"""Simulated runs: fewer of a large search, so that all have about so many trials."""

FEWEST_CONFIGS = 3
"""Configurations that are measured before the rest of a search is simulated."""

KEPT_S, SHARE = 10.0, 0.01
"""How long a simulation counts, and the most of a core's time that simulations take."""

SPEED_SPREAD = 0.3
"""How unevenly a machine computes, which other programs may use, too: of the logarithm of times."""

TEST_TABLES = 3
"""The report scores retrained networks on so many test sequences for each one of validation."""


class Pace(NamedTuple):
    """What a configuration was measured at: for a training sequence, and for a validation."""

    sequence_s: float
    validation_s: float


class TimeLeft:
    """Measures epochs as they come, and simulates the rest of the run with the real scheduler.

    Drawn are the coming trials, which of them are good, and how fast the sampler learns. It may be
    asked in another thread than the one that changes the records.
    """

    def __init__(self, limit: Limit, records: Records) -> None:
        """limit: when the search ends early. records: of all stages, as they are now."""
        self._limit, self._records = limit, records
        self._space, self._concurrent = limit.space, limit.concurrent
        self._paces: dict[TrialConfig, Pace] = {}
        self._created, self._start_s = time.monotonic(), 0.0
        self._known: tuple[str, float, float, TimeRange | None] = "", 0.0, 0.0, None

    def measure(self, trial: Trial, metrics: EpochMetrics) -> None:
        """Take in what an epoch of a trial took; with the first, what a stage takes to start."""
        if not self._paces:
            self._start_s = max(0.0, time.monotonic() - self._created - metrics.seconds)
        rest_s = metrics.seconds - trial.epoch_sequences / metrics.sequences_per_s
        if trial.all_images:
            rest_s = self._paces[trial.config].validation_s if trial.config in self._paces else 0.0
        self._paces[trial.config] = Pace(1 / metrics.sequences_per_s, max(0.0, rest_s))

    def __call__(self, stage: str, epochs: Mapping[str, float]) -> TimeRange | None:
        """What is left of the run in a stage: of simulated runs the middle 90 %.

        None as long as too little is measured. epochs: see `Progress.within`.
        """
        of, then, until, known = self._known
        now = time.monotonic()
        if of != stage or now > until:
            then, known = now, self._simulated(stage, epochs)
            took_s = time.monotonic() - now
            self._known = stage, then, now + max(KEPT_S, took_s / SHARE), known
        if known is None:
            return None
        low_s, age_s = known.low_s, now - then
        return TimeRange(
            None if low_s is None else max(0.0, low_s - age_s), max(0.0, known.high_s - age_s)
        )

    def _simulated(self, stage: str, epochs: Mapping[str, float]) -> TimeRange | None:
        if len(self._paces) < (FEWEST_CONFIGS if stage == SEARCH else 1):
            return None
        search, budget = self._space.search, self._limit.budget
        draws, count = random.Random(0), SIMULATED_TRIALS // search.trials  # noqa: S311
        runs = range(min(RUNS, max(FEWEST_RUNS, count)))
        found = [
            self._run(stage, epochs, draws) * draws.lognormvariate(0, SPEED_SPREAD) for _ in runs
        ]
        low, *_, high = statistics.quantiles(found, n=20, method="inclusive")
        causes = (search.target, search.patience, budget.core_seconds, budget.gpu_seconds)
        at_any_time = stage == SEARCH and causes != (None,) * len(causes)
        return TimeRange(None if at_any_time else low, high)

    def _run(self, stage: str, epochs: Mapping[str, float], draws: random.Random) -> float:
        """Seconds of the rest of a run: of the stage, of those after it, and of the report."""
        retrain, records = self._space.retrain, list(self._records.get(stage, {}).values())
        searched = list(self._records.get(SEARCH, {}).values())
        best = ranked(searched)[: retrain.finalists]
        finalists = [self._pace(record.trial.config, draws) for record in best]
        winner = draws.choice(finalists or list(self._paces.values()))
        later_s = TEST_TABLES * 2 * retrain.seeds * winner.validation_s
        if stage == SEARCH:
            repeated, _ = later_stages(self._space, len(finalists))
            again = [pace for pace in finalists for _ in range(retrain.seeds)][: repeated.trials]
            later_s += self._at_once([repeated.epochs * self._epoch_s(pace) for pace in again])
            later_s += self._start_s * bool(again)
        if stage != "retrain":
            # The baseline is measured in its retraining only: it may be small or large.
            baseline = self._drawn(draws).sequence_s * 2 ** draws.uniform(-1, 1)
            both = [winner.sequence_s] * retrain.seeds + [baseline] * retrain.seeds
            sequences = retrain.epochs * retrain.epoch_sequences
            later_s += self._start_s + self._at_once(
                [sequences * sequence_s for sequence_s in both]
            )
        if stage == SEARCH:
            budget_s = self._limit.time_left_s() - later_s
            return later_s + min(self._search(records, epochs, draws), max(0.0, budget_s))
        left_s = [self._left_s(record, epochs, draws) for record in records if not record.ended]
        return later_s + self._at_once(left_s)

    def _search(
        self, records: list[TrialRecord], epochs: Mapping[str, float], draws: random.Random
    ) -> float:
        """Seconds of the rest of a search."""
        search = self._space.search
        asha = Asha(search.max_epochs, search.grace_epochs, search.reduction_factor)
        running = [record for record in records if not record.ended]
        names = {record.trial.name: str(place) for place, record in enumerate(running)}
        known = ranked(records)
        spread = statistics.NormalDist(0, 2**0.5)  # as that of drawn ones
        merits = {}
        for place, record in enumerate(known):
            name = names.get(record.trial.name, record.trial.name)
            merits[name] = spread.inv_cdf((place + 0.5) / len(known))
            for milestone, rung in asha.rungs.items():
                if record.epochs >= milestone:
                    rung[name] = merits[name]
        learning = draws.uniform(0.0, MAX_LEARNING if search.sampler == "tpe" else 0.0)
        first = max(LEARNING_TRIALS, len(records))
        values = [merits.get(str(place), draws.gauss(0, 2**0.5)) for place in range(len(running))]
        seconds = [self._epoch_s(self._pace(record.trial.config, draws)) for record in running]
        for number in range(len(records), search.trials):
            learned = learning * math.log(max(1.0, (number - self._concurrent) / first))
            values.append(draws.gauss(0, 2**0.5) - learned)
            seconds.append(self._epoch_s(self._drawn(draws)))
        done = [min(_trained(record, epochs), search.max_epochs - 0.01) for record in running]
        work, _ = replay(asha, search.max_epochs, seconds, values, self._concurrent, done)
        return work.elapsed_s

    def _left_s(
        self, record: TrialRecord, epochs: Mapping[str, float], draws: random.Random
    ) -> float:
        """What a trial still takes that is not stopped early."""
        trial, pace = record.trial, self._pace(record.trial.config, draws)
        whole_s = trial.epoch_sequences * pace.sequence_s
        epoch_s = whole_s if trial.all_images else self._epoch_s(pace)
        return max(0.0, trial.epochs - _trained(record, epochs)) * epoch_s

    def _at_once(self, seconds: list[float]) -> float:
        """What trials of known length take, as many at once as run at once."""
        return replay_whole(1, seconds, self._concurrent).elapsed_s

    def _epoch_s(self, pace: Pace) -> float:
        """Seconds of an epoch of the search."""
        return self._space.search.epoch_sequences * pace.sequence_s + pace.validation_s

    def _pace(self, config: TrialConfig, draws: random.Random) -> Pace:
        return self._paces.get(config) or self._drawn(draws)

    def _drawn(self, draws: random.Random) -> Pace:
        return draws.choice(list(self._paces.values()))


def _trained(record: TrialRecord, epochs: Mapping[str, float]) -> float:
    return max(record.epochs, epochs.get(record.trial.name, 0.0))
