"""Optuna's side of Ray Tune: what to try next, and what became of it."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from crnn_search.data.sequences import derive_seed
from crnn_search.errors import ConfigError, RunError
from crnn_search.hyperparameters import TrialConfig
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage.ledger import INFEASIBLE
from crnn_search.storage.trial import METRIC, Job, JobRecord, trial_name
from crnn_search.tuning.sampler import _sampler

MAX_INFEASIBLE_IN_A_ROW = 1000
RANDOM_AFTER_INFEASIBLE = 10


class Bookkeeper:
    """What a searcher tells and asks of the one who keeps the books; here: nobody does."""

    def made(self, job: Job) -> None:
        """A job was made and is about to run."""

    def infeasible(self, number: int, config: dict[str, Any], reason: str) -> None:
        """A sampled network cannot be built; it takes a number, but never runs."""

    def again(self, trial_id: str) -> Job | None:
        """The job to run again, after an error or lack of memory; None if it has failed."""

    def may_begin(self) -> bool:
        """Whether the budget lets another trial begin."""
        return True


class StudySearch(OptunaSearch):  # type: ignore[misc]
    """`OptunaSearch` with true trial states, repeatable suggestions and a memory.

    What is wrong in Ray 2.60's `OptunaSearch`, and put right here:

    - `on_trial_complete` tells a trial that the scheduler stopped as `COMPLETE` with its last
      value. TPE and `best_trial` then compare an epoch-1 value with full-budget ones. Here it is
      `PRUNED`, with every intermediate value at its epoch, the last one too.
    - A value that is not a number makes `study.tell` raise, which is only logged; the Optuna trial
      stays `RUNNING` for ever and the constant liar penalises its surroundings. Here it is `FAIL`.
    - Its sampler is a running random generator, so suggestions depend on how many were drawn in
      this process. Here each draw is seeded by (search seed, how many went before): a
      suggestion depends on the study's history alone.
    - Made again, it enqueues `points_to_evaluate` again. Here `records`, what the run's journal
      tells, are taken in first: ended trials as they ended, running ones as running, to be
      suggested again before anything new; and of the configurations to try first only the rest.
    - How many may run at once is fixed when Tune starts. Here `room` is asked each time, so that
      nodes that join later are used.
    - Its trials end for good when their process dies. Here the bookkeeper may have them run again,
      as the same trial of the study.

    A suggestion whose network is impossible never reaches Ray: it is told `FAIL`, and the sampler
    is asked again. TPE learns nothing from failures and may want the same impossible corner for
    ever, so after ten in a row the draws are random until one is possible.
    """

    def __init__(
        self,
        space: SearchSpace,
        records: Iterable[JobRecord] = (),
        book: Bookkeeper | None = None,
        earlier: Sequence[optuna.trial.FrozenTrial] = (),
    ) -> None:
        """`earlier` are trials of other runs that the sampler learns from; they have no number."""
        self._search_space = space
        self._book = book or Bookkeeper()
        self._asked = self._feasible = self._infeasible_in_a_row = 0
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[tuple[Job, optuna.Trial]] = deque()
        self._known: dict[str, int] = {}
        self.finished = False
        self.room: Callable[[], int] = lambda: sys.maxsize
        super().__init__(
            space=space.suggest,
            metric=METRIC,
            mode="min",
            sampler=_sampler(space.search.seed),
        )
        self._ot_study.add_trials(earlier)
        self._earlier = len(earlier)
        for record in sorted(records, key=lambda record: record.job.number):
            self._take_in(record)
        for config in space.first[self._asked :]:
            self._ot_study.enqueue_trial(space.to_params(config))

    @property
    def study(self) -> optuna.Study:
        """The study, in memory."""
        study: optuna.Study = self._ot_study
        return study

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next job: one to run again, or a new one. None: wait; FINISHED: no more.

        Raises:
            RunError: a thousand suggestions in a row were impossible networks.
        """
        if len(self._jobs) >= self.room():
            return None
        if self._waiting:
            self._jobs[trial_id], self._ot_trials[trial_id] = self._waiting.popleft()
        elif self._feasible < self._search_space.search.trials and self._book.may_begin():
            self._jobs[trial_id], self._ot_trials[trial_id] = self._new()
        elif self._jobs:
            return None  # one of those that run may have to run again
        else:
            self.finished = True
            return str(Searcher.FINISHED)
        return {"job": self._jobs[trial_id].to_dict()}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record an epoch's value."""
        if trial_id in self._jobs:
            self._report(self._jobs[trial_id], self._ot_trials[trial_id], result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell Optuna the state that the trial truly ended in, unless it is to run again."""
        if trial_id not in self._jobs:
            return
        job, trial = self._jobs.pop(trial_id), self._ot_trials.pop(trial_id)
        if error or (result and "out_of_memory" in result):
            again = self._book.again(trial_id)
            if again is not None:
                self._waiting.append((again, trial))
                return
        if result:
            self._report(job, trial, result)
        state = ending_state(result, job.epochs, error=error)
        value = result[METRIC] if result and state == TrialState.COMPLETE else None
        self._ot_study.tell(trial, value, state=state)
        self._known.pop(job.name, None)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the run's journal knows all of it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""

    def _new(self) -> tuple[Job, optuna.Trial]:
        while self._infeasible_in_a_row < MAX_INFEASIBLE_IN_A_ROW:
            self._seed_sampler()
            self._asked += 1
            trial = self._ot_study.ask()
            number = trial.number - self._earlier
            config = self._search_space.suggest(trial)
            reason = _infeasibility(config)
            if reason is None:
                self._feasible += 1
                self._infeasible_in_a_row = 0
                job = self._job(number, config)
                self._book.made(job)
                return job, trial
            self._ot_study.tell(trial, state=TrialState.FAIL)
            self._infeasible_in_a_row += 1
            self._book.infeasible(number, config, reason)
        raise RunError(
            f"{MAX_INFEASIBLE_IN_A_ROW} sampled networks in a row were impossible, the last "
            f"because {reason}; make the space's kernels, poolings or depth smaller"
        )

    def _seed_sampler(self) -> None:
        seed = derive_seed("sampler", self._search_space.search.seed, self._asked) % 2**32
        self._ot_study.sampler = _sampler(
            seed, random=self._infeasible_in_a_row >= RANDOM_AFTER_INFEASIBLE
        )

    def _report(self, job: Job, trial: optuna.Trial, result: dict[str, Any]) -> None:
        """Report a value, once for each epoch: a restarted process repeats some."""
        value, epoch = result.get(METRIC, math.nan), result.get("epoch", 0)
        if math.isfinite(value) and epoch > self._known.get(job.name, 0):
            trial.report(value, epoch)
            self._known[job.name] = epoch

    def _take_in(self, record: JobRecord) -> None:
        """Have the study know a trial of an earlier session."""
        infeasible = (record.reason or "").startswith(INFEASIBLE)
        params = self._search_space.to_params(_searched(self._search_space, record.job.config))
        self._asked += 1
        self._feasible += not infeasible
        self._infeasible_in_a_row = self._infeasible_in_a_row + 1 if infeasible else 0
        if record.state:
            self._ot_study.add_trial(_ended_trial(self._search_space, record))
            return
        self._ot_study.enqueue_trial(params)
        trial = self._ot_study.ask()
        self._search_space.suggest(trial)
        for epoch, value in enumerate(record.values, start=1):
            self._report(record.job, trial, {METRIC: _number(value), "epoch": epoch})
        self._waiting.append((record.job, trial))

    def _job(self, number: int, config: dict[str, Any]) -> Job:
        space = self._search_space
        return Job(
            name=trial_name(number),
            number=number,
            config=TrialConfig.from_dict(config).to_dict(),
            seed=derive_seed("trial", space.search.seed, number) % 2**31,
            epochs=space.search.max_epochs,
            grace_epochs=space.search.grace_epochs,
            epoch_sequences=space.search.epoch_sequences,
            max_digits=space.task.max_digits,
        )


class JobQueue(Searcher):  # type: ignore[misc]
    """Fixed jobs in order, each again if the bookkeeper says so."""

    def __init__(self, jobs: Iterable[Job], book: Bookkeeper) -> None:
        super().__init__()
        self._waiting = deque(jobs)
        self._running: set[str] = set()
        self._book = book
        self.finished = False

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next job. None: wait; FINISHED: no more."""
        if self._waiting:
            self._running.add(trial_id)
            return {"job": self._waiting.popleft().to_dict()}
        self.finished = not self._running
        return str(Searcher.FINISHED) if self.finished else None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """A job ended, or comes back."""
        if trial_id not in self._running:
            return
        self._running.remove(trial_id)
        if error or (result and "out_of_memory" in result):
            again = self._book.again(trial_id)
            if again is not None:
                self._waiting.append(again)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the run's journal knows all of it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""


def ending_state(
    result: dict[str, Any] | None, max_epochs: int, *, error: bool = False
) -> TrialState:
    """How a trial ended, from its last result: the one rule for study, ledger and report."""
    if error or not result or not math.isfinite(result.get(METRIC, math.nan)):
        return TrialState.FAIL
    if "failure" in result:
        return TrialState.FAIL
    return TrialState.COMPLETE if result["epoch"] >= max_epochs else TrialState.PRUNED


def _infeasibility(config: dict[str, Any]) -> str | None:
    try:
        TrialConfig.from_dict(config)
    except ConfigError as error:
        return "; ".join(error.problems)
    return None


def _ended_trial(space: SearchSpace, record: JobRecord) -> optuna.trial.FrozenTrial:
    """An ended trial as Optuna would have it had it been told in this process."""
    config = _searched(space, record.job.config)
    state = TrialState[record.state]
    return optuna.trial.create_trial(
        state=state,
        value=None if state == TrialState.FAIL else record.last,  # as `study.tell` does
        params=space.to_params(config),
        distributions=space.distributions(config),
        intermediate_values={
            epoch: value for epoch, value in enumerate(record.values, start=1) if value is not None
        },
    )


def _searched(space: SearchSpace, config: dict[str, Any]) -> dict[str, Any]:
    """The part of a whole configuration that the space names."""
    return {name: value for name, value in config.items() if name in space.space}


def _number(value: float | None) -> float:
    return math.nan if value is None else value
