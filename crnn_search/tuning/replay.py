"""Runs replayed with a simulated clock: how much trials of known speed train in all.

The scheduler is the real one; nothing is trained. Which networks are good is not known before a
search, so it is drawn at random.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from ray.tune.schedulers import TrialScheduler

from crnn_search.spaces.space import SearchSpace
from crnn_search.training.probe import Cost
from crnn_search.tuning.budget import later_stages
from crnn_search.tuning.scheduler import Asha

MAX_TRIALS = 1000
"""Trials of a replayed search; a larger one takes in proportion."""

LEARNING_TRIALS = 10
"""Trials after which the sampler begins to learn: TPE draws the first ones at random."""

MAX_LEARNING = 3.0
"""How much better, at most, the mean trial gets while their number grows by a factor of e; the
standard deviation of trials that are drawn at random is 1.4."""


@dataclass(frozen=True)
class Work:
    """What a stage took.

    epochs: of all its trials. trial_s: seconds of all its trials. elapsed_s: from its first start
    to its last end.
    """

    epochs: float
    trial_s: float
    elapsed_s: float

    def times(self, factor: float) -> Work:
        """The work of so many such stages, one after another."""
        return Work(self.epochs * factor, self.trial_s * factor, self.elapsed_s * factor)


@dataclass(frozen=True)
class Costs:
    """What measured trials take. first: those of the space's own `first`; sampled: of random ones.

    baseline: of the network that the winner is compared with.
    """

    first: tuple[Cost, ...]
    sampled: tuple[Cost, ...]
    baseline: Cost


def replay_run(
    space: SearchSpace, costs: Costs, concurrent: int, draws: random.Random
) -> tuple[Work, Work, Work]:
    """What search, finalists' repetitions and retrainings take in one simulated run.

    concurrent: trials that run at once.
    """
    search, seeds = space.search, space.retrain.seeds
    learns = search.sampler != "random"
    trials, rmse = _drawn(min(search.trials, MAX_TRIALS), costs, concurrent, draws, learns=learns)
    asha = Asha(search.max_epochs, search.grace_epochs, search.reduction_factor)
    seconds = [cost.search_epoch_s for cost in trials]
    searched, epochs = replay(asha, search.max_epochs, seconds, rmse, concurrent)
    full = [number for number, count in enumerate(epochs) if count == search.max_epochs]
    best = sorted(full, key=rmse.__getitem__)[: space.retrain.finalists]
    finalists = [trials[number] for number in best]
    repetitions, retrainings = later_stages(space, len(finalists))
    again = [finalists[place // seeds].search_epoch_s for place in range(repetitions.trials)]
    compared = (finalists[0], costs.baseline)
    retrained = [compared[place // seeds].retrain_epoch_s for place in range(retrainings.trials)]
    return (
        searched.times(search.trials / len(trials)),
        replay_whole(repetitions.epochs, again, concurrent),
        replay_whole(retrainings.epochs, retrained, concurrent),
    )


def _drawn(
    count: int, costs: Costs, concurrent: int, draws: random.Random, *, learns: bool
) -> tuple[list[Cost], list[float]]:
    """The trials of a search: what each takes, and a random constant RMSE.

    That is in part its configuration's: so in some runs large networks are better, and live longer,
    in others small ones. And a sampler that `learns` does so at a random pace: later trials are
    better, and more of them survive.
    """
    known = draws.choices(costs.sampled, k=len(costs.sampled))  # as other samples could have been
    merits = [draws.gauss() for _ in known]
    learning = draws.uniform(0.0, MAX_LEARNING if learns else 0.0)
    trials: list[Cost] = []
    rmse: list[float] = []
    for number in range(count):
        place = draws.randrange(len(known))
        trials.append(costs.first[number] if number < len(costs.first) else known[place])
        learned = learning * math.log(max(1.0, (number - concurrent) / LEARNING_TRIALS))
        rmse.append(merits[place] + draws.gauss() - learned)
    return trials, rmse


def replay_whole(epochs: int, epoch_s: Sequence[float], concurrent: int) -> Work:
    """What trials without early stopping take. epoch_s: seconds of an epoch of each."""
    never = Asha(epochs, grace_epochs=epochs, reduction_factor=2)
    return replay(never, epochs, epoch_s, [0.0] * len(epoch_s), concurrent)[0]


def replay(
    scheduler: Asha,
    max_epochs: int,
    epoch_s: Sequence[float],
    rmse: Sequence[float],
    concurrent: int,
    done: Sequence[float] = (),
) -> tuple[Work, list[float]]:
    """What the trials of a stage take, and the epochs of each.

    A free place is taken by the next trial at once. Only epochs at which trials may be stopped are
    replayed.

    epoch_s, rmse: of each trial, the seconds of an epoch and the RMSE after each of its epochs.
    done: epochs that the first ones have trained before, fewer than `max_epochs`.
    """
    stops = [*sorted(math.ceil(rung) for rung in scheduler.rungs if rung < max_epochs), max_epochs]
    running: list[tuple[float, int]] = []
    epochs, now, started = [*done, *[0.0] * (len(epoch_s) - len(done))], 0.0, 0

    def following(number: int) -> int:
        return next(stop for stop in stops if stop > epochs[number])

    def train(number: int) -> None:
        more = following(number) - epochs[number]
        heapq.heappush(running, (now + more * epoch_s[number], number))

    while running or started < len(epoch_s):
        while started < len(epoch_s) and len(running) < concurrent:
            train(started)
            started += 1
        now, number = heapq.heappop(running)
        epoch = following(number)
        epochs[number] = float(epoch)
        decision = scheduler.decide(str(number), epoch, rmse[number])
        if decision == TrialScheduler.CONTINUE:
            train(number)
    trial_s = sum(count * seconds for count, seconds in zip(epochs, epoch_s, strict=True))
    return Work(sum(epochs), trial_s, now), epochs
