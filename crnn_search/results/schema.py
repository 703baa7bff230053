"""The content of `report.json`, by types. RMSE and MAE are in the target's unit.

A figure that is not known is null. Scores are `scores.Score.to_dict`, times are in seconds.
"""

from __future__ import annotations

from typing import Any, TypedDict

Score = dict[str, Any]
"""What `scores.Score.to_dict` gives."""


class TrialRow(TypedDict):
    """A trial of the search that has ended or is running.

    config: the hyperparameters that the space names. values: those that are searched, as numbers
    or texts; of a list its depth and the mean of its widths. ms_per_sequence: to predict, of the
    best full-budget trials only. state: completed, stopped, cut, failed or running.
    """

    number: int
    state: str
    reason: str | None
    epochs: int
    validation_rmse: float | None
    validation_rmse_by_epoch: list[float | None]
    parameters: int | None
    ms_per_sequence: float | None
    seconds: float
    core_seconds: float
    gpu_seconds: float
    config: dict[str, Any]
    values: dict[str, Any]


class Axis(TypedDict):
    """A searched hyperparameter as `TrialRow.values` has it. log: searched on a log scale."""

    name: str
    log: bool


class Incumbent(TypedDict):
    """The best full-budget trial once so many trials had ended.

    core_seconds, gpu_seconds: that all of those had used.
    """

    trials: int
    core_seconds: float
    gpu_seconds: float
    number: int
    validation_rmse: float


class Rung(TypedDict):
    """What happened at an epoch at which trials may be stopped.

    continued: trained longer. best, median: RMSE of those that reached it, after so many epochs.
    """

    epochs: int
    reached: int
    continued: int
    best: float | None
    median: float | None


class Untrained(TypedDict):
    """Epochs that trials would have trained at their full budget, and what they would have cost."""

    trials: int
    epochs: int
    core_seconds: float
    gpu_seconds: float


class Compute(TypedDict):
    """Core and GPU seconds by purpose, and what was not spent: stopped early, or cut by a limit.

    asha_saved_share: of the epochs of completed and stopped trials, those that were not trained.
    """

    core_seconds: dict[str, float]
    gpu_seconds: dict[str, float]
    asha_saved_share: float | None
    stopped_early: Untrained
    cut: Untrained


class Importance(TypedDict):
    """The share of a hyperparameter, 0 to 1, as Optuna names it, and its 90 % interval."""

    name: str
    share: float
    interval: list[float]


class StepError(TypedDict):
    """Errors of the steps at one position, or of one digit: see `score_figures.steps`."""

    steps: int
    mean: float
    rmse: float


class Steps(TypedDict):
    """Errors of steps by the position of the image in its sequence, and by its digit."""

    by_position: dict[str, StepError]
    by_digit: dict[str, StepError]


class Doubt(TypedDict):
    """What a reader has to know before the figures. kind: what it is about, for programs."""

    kind: str
    text: str


class SearchReport(TypedDict):
    """What is known of a run from its search on; all of an unfinished run's report.

    run: the manifest without its space and arithmetic. space: its sections. first_space: what is
    searched, as in a search space file. task: name, target, unit, sums and longest, at least.
    arithmetics: names of the trials that trained in each. seconds: wall time by stage. rows: by
    number.
    """

    run: dict[str, Any]
    space: dict[str, Any]
    searched: dict[str, Any]
    task: dict[str, Any]
    arithmetic: dict[str, Any] | None
    trials: dict[str, Any]
    rows: list[TrialRow]
    axes: list[Axis]
    incumbents: list[Incumbent]
    rungs: list[Rung]
    compute: Compute
    importance: list[Importance] | None
    importance_note: str
    seconds: dict[str, float]
    warnings: list[Doubt]


class Report(SearchReport):
    """The report of a finished run.

    data: what is in a data set of the user's own. test: the score of the retrained winner, with
    `exported_rmse`, `images` and `groups`. ensemble, baseline_ensemble: the score of the mean of
    the predictions of all seeds of the winner, and of the network that it is compared with, None
    with one seed; with the number of `networks`, `improvement`, the mean RMSE of the single
    networks less its own, and `ms_per_sequence`, of all its networks. longer: the scores by network
    of sequences that are longer than any of training, None without. steps: None unless targets are
    sums. baselines: scores by name. improvement: `scores.Difference.to_dict`. timed_on: the
    processor that `ms_per_sequence` was measured on.
    """

    data: dict[str, Any] | None
    arithmetics: dict[str, list[str]]
    test: dict[str, Any]
    ensemble: dict[str, Any] | None
    baseline_ensemble: dict[str, Any] | None
    longer: dict[str, Score] | None
    steps: Steps | None
    baselines: dict[str, Any]
    baseline_name: str
    baseline_config: dict[str, Any]
    improvement: dict[str, Any]
    best_trial: int
    best_validation_rmse: float
    best_config: dict[str, Any]
    best_parameters: int
    finalists: list[dict[str, Any]]
    retrained: dict[str, Any]
    timed_on: str | None
