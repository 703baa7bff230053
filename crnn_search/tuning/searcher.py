"""Optuna's side of Ray Tune: what to try next, and how each trial ended."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import optuna
from ray.tune.search import Searcher

from crnn_search.data.sequences import derive_seed
from crnn_search.errors import ConfigError, RunError
from crnn_search.hyperparameters import Arithmetic, TrialConfig
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage.trial import (
    METRIC,
    InfeasibleTrial,
    Trial,
    TrialRecord,
    TrialState,
    finite,
    trial_name,
)
from crnn_search.training.prediction_time import ms_per_sequence
from crnn_search.tuning.epoch_result import EpochResult, ending_state, last_result
from crnn_search.tuning.feasibility import Measure, check_time
from crnn_search.tuning.sampler import bounded, make_sampler
from crnn_search.tuning.stage_callback import NoCallback, StageCallback
from crnn_search.tuning.tune_trial import tune_config

MAX_INFEASIBLE_IN_A_ROW = 1000
RANDOM_AFTER_INFEASIBLE = 10


class StudySearcher(Searcher):  # type: ignore[misc]
    """An Optuna study as Ray Tune's searcher: true trial states, repeatable, resumable.

    Not Ray's `OptunaSearch`, which has these faults in Ray 2.60 (docs/decisions/0020):

    - It tells a trial that the scheduler stopped as `COMPLETE` with its last value. TPE and
      `best_trial` then compare an epoch-1 value with full-budget ones. Here it is `PRUNED`, with
      every intermediate value at its epoch, the last one too.
    - NaN makes `study.tell` raise, which is only logged; the Optuna trial stays `RUNNING` for ever
      and the constant liar penalises its surroundings. Here it is `FAIL`.
    - Its sampler is a running random generator, so suggestions depend on how many were drawn in
      this process. Here each draw is seeded by (search seed, number of draws before): a
      suggestion depends on the study's history alone.
    - Created again, it enqueues `points_to_evaluate` again. Here `past`, read from the run's
      journal and ledger, is added first: ended trials as they ended, running ones as running, to
      be suggested again before anything new; and of the configurations to try first only the rest.
    - How many may run at once is fixed when Tune starts. Here `capacity` is asked each time, so
      that nodes that join later are used.
    - Its trials end for good when their process dies. Here the callback may retry them, as the
      same trial of the study.

    An infeasible suggestion never reaches Ray: it is told `FAIL`, and the sampler is asked again.
    Whether a network predicts fast enough is measured then, and not again for those of the past.
    TPE learns nothing from failures and may propose the same infeasible region for ever, so after
    ten in a row the draws are random until one is feasible.
    """

    def __init__(
        self,
        space: SearchSpace,
        arithmetic: Arithmetic = Arithmetic(),  # noqa: B008  (frozen)
        callback: StageCallback | None = None,
        past: Iterable[TrialRecord | InfeasibleTrial] = (),
        earlier: Sequence[optuna.trial.FrozenTrial] = (),
    ) -> None:
        """arithmetic: that of all trials. callback: by default `NoCallback`.

        past: what earlier sessions of this run tried. earlier: trials of other runs that the
        sampler learns from; they have no number in this run.
        """
        self._search_space = space
        self._arithmetic = arithmetic
        self._callback = callback or NoCallback()
        self._asked = self._feasible = self._infeasible_in_a_row = 0
        self._infeasible_because = ""
        self._running: dict[str, tuple[Trial, optuna.Trial]] = {}
        self._waiting: deque[tuple[Trial, optuna.Trial]] = deque()
        self._reported: dict[str, int] = {}
        self.finished = False
        self.capacity: Callable[[], int] = lambda: sys.maxsize
        self.prediction_ms: Measure = ms_per_sequence
        super().__init__(metric=METRIC, mode="min")
        self._study = optuna.create_study()
        self._study.add_trials(earlier)
        self._earlier = len(earlier)
        for trial in sorted(past, key=_number):
            self._add_past(trial)

    @property
    def study(self) -> optuna.Study:
        """The study, in memory."""
        return self._study

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial: one to run again, or a new one. None: wait; FINISHED: no more.

        Raises:
            RunError: a thousand suggestions in a row were infeasible.
        """
        if len(self._running) >= self.capacity():
            return None
        if self._waiting:
            self._running[trial_id] = self._waiting.popleft()
        elif self._feasible < self._search_space.search.trials and self._callback.may_start():
            self._running[trial_id] = self._new()
        elif self._running:
            return None  # one of the running trials may have to run again
        else:
            self.finished = True
            return str(Searcher.FINISHED)
        return tune_config(self._running[trial_id][0])

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report an epoch's value to Optuna."""
        if trial_id in self._running:
            self._report(*self._running[trial_id], EpochResult.from_dict(result))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell Optuna the state that the trial truly ended in, unless it is retried."""
        if trial_id not in self._running:
            return
        trial, optuna_trial = self._running.pop(trial_id)
        last = last_result(result)
        if error or (last and last.out_of_memory is not None):
            again = self._callback.retry(trial_id)
            if again is not None:
                self._waiting.append((again, optuna_trial))
                return
        state, value = TrialState.FAIL, None
        if last is not None:
            self._report(trial, optuna_trial, last)
            failed = error or last.failed
            state = ending_state(last.epoch, last.validation_rmse, trial.epochs, failed=failed)
            value = last.validation_rmse if state == TrialState.COMPLETE else None
        self._reported.pop(trial.name, None)
        self._study.tell(optuna_trial, value, state=_optuna_state(state))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the run's journal has all of it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""

    def _new(self) -> tuple[Trial, optuna.Trial]:
        """A new feasible trial; infeasible ones before it are recorded as such."""
        space = self._search_space
        while self._infeasible_in_a_row < MAX_INFEASIBLE_IN_A_ROW:
            optuna_trial = self._ask()
            number = optuna_trial.number - self._earlier
            sampled = space.suggest(optuna_trial)
            try:
                config = TrialConfig.from_dict(sampled)
                config.model.check(space.shape, space.search.max_parameters)
                check_time(space, config.model, self.prediction_ms)
            except ConfigError as error:
                self._infeasible_because = "; ".join(error.problems)
            else:
                self._feasible += 1
                self._infeasible_in_a_row = 0
                trial = self._trial(number, config)
                self._callback.on_trial_created(trial)
                return trial, optuna_trial
            self._study.tell(optuna_trial, state=_optuna_state(TrialState.FAIL))
            self._infeasible_in_a_row += 1
            infeasible = InfeasibleTrial(number, sampled, self._infeasible_because)
            self._callback.on_trial_infeasible(infeasible)
        raise RunError(
            f"{MAX_INFEASIBLE_IN_A_ROW} samples in a row were infeasible, the last "
            f"because {self._infeasible_because}; make the space's kernels, poolings or depth "
            "smaller, or search.max_parameters or search.max_ms_per_sequence larger"
        )

    def _ask(self) -> optuna.Trial:
        """The study's next trial; its parameters are fixed if a smaller study was asked."""
        first, drawn = self._search_space.first, self._asked
        self._asked += 1
        random = (
            self._search_space.search.sampler == "random"
            or self._infeasible_in_a_row >= RANDOM_AFTER_INFEASIBLE
        )
        seed = derive_seed("sampler", self._search_space.search.seed, drawn) % 2**32
        asked = self._study if random else bounded(self._study)
        asked.sampler = make_sampler(seed, random=random)
        if drawn < len(first):
            asked.enqueue_trial(self._search_space.to_params(first[drawn]))
        trial = asked.ask()
        if asked is self._study:
            return trial
        self._search_space.suggest(trial)
        self._study.sampler = make_sampler(seed, random=True)  # has nothing left to draw
        self._study.enqueue_trial(trial.params)
        return self._study.ask()

    def _report(self, trial: Trial, optuna_trial: optuna.Trial, step: EpochResult) -> None:
        """Report a finite value, once for each epoch: a restarted process repeats some."""
        value = finite(step.validation_rmse)
        if value is not None and step.epoch > self._reported.get(trial.name, 0):
            optuna_trial.report(value, step.epoch)
            self._reported[trial.name] = step.epoch

    def _add_past(self, past: TrialRecord | InfeasibleTrial) -> None:
        """Add a trial of an earlier session to the study."""
        self._asked += 1
        if isinstance(past, InfeasibleTrial):
            self._infeasible_in_a_row += 1
            self._infeasible_because = past.reason
            self._add_ended(past.config, TrialState.FAIL)
            return
        self._feasible += 1
        self._infeasible_in_a_row = 0
        trial, values = past.trial, past.validation_rmse
        config = trial.config.to_dict()
        if past.ended:
            self._add_ended(config, past.state, values)
            return
        self._study.enqueue_trial(self._search_space.to_params(self._searched(config)))
        optuna_trial = self._study.ask()
        self._search_space.suggest(optuna_trial)
        for epoch, value in enumerate(values, start=1):
            if value is not None:
                optuna_trial.report(value, epoch)
                self._reported[trial.name] = epoch
        self._waiting.append((trial, optuna_trial))

    def _add_ended(
        self, config: Mapping[str, Any], state: TrialState, values: Sequence[float | None] = ()
    ) -> None:
        """Add an ended trial, with the same result as if it had ended in this process."""
        searched = self._searched(config)
        trial = optuna.trial.create_trial(
            state=_optuna_state(state),
            value=None if state == TrialState.FAIL else values[-1],  # as `study.tell` does
            params=self._search_space.to_params(searched),
            distributions=self._search_space.distributions(searched),
            intermediate_values={e: v for e, v in enumerate(values, start=1) if v is not None},
        )
        self._study.add_trial(trial)

    def _searched(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The part of a whole configuration that the space names."""
        return {name: value for name, value in config.items() if name in self._search_space.space}

    def _trial(self, number: int, config: TrialConfig) -> Trial:
        space = self._search_space
        return Trial(
            name=trial_name(number),
            number=number,
            config=config,
            seed=derive_seed("trial", space.search.seed, number) % 2**31,
            epochs=space.search.max_epochs,
            grace_epochs=space.search.grace_epochs,
            epoch_sequences=space.search.epoch_sequences,
            data=space.images.data,
            arithmetic=self._arithmetic,
        )


def _number(past: TrialRecord | InfeasibleTrial) -> int:
    return past.number if isinstance(past, InfeasibleTrial) else past.trial.number


def _optuna_state(state: TrialState) -> optuna.trial.TrialState:
    return optuna.trial.TrialState[state.name]
