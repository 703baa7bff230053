"""What every stage of a run works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from crnn_search.cluster.resources import Allocation
from crnn_search.data.task import Task
from crnn_search.hyperparameters import Arithmetic
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage.journal import History, Journal
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.trial import InfeasibleTrial, TrialRecord
from crnn_search.tuning.progress import Progress, Records
from crnn_search.tuning.time_left import TimeLeft

OnSearchChange = Callable[[TrialRecord | InfeasibleTrial], None]
"""Hears of each trial of the search that was created, has a new epoch or ended, after that was
recorded."""

OnTrialEnd = Callable[[str, TrialRecord | InfeasibleTrial], None]
"""Hears of each trial that ended, and of its stage, after its end was recorded."""


@dataclass(frozen=True)
class Context:
    """A run and what its trials run on.

    history: what earlier sessions recorded. task: without test images.
    allocation: what each trial gets. arithmetic: that of every trial of the run.
    records: of all stages, as they are now. time_left: forecasts the rest of the run from them.
    """

    run: RunFolder
    space: SearchSpace
    history: History
    journal: Journal
    task: Task
    allocation: Allocation
    arithmetic: Arithmetic
    progress: Progress
    records: Records = field(default_factory=dict)
    time_left: TimeLeft | None = None
    on_trial_end: OnTrialEnd = lambda _stage, _trial: None
    on_search_change: OnSearchChange = lambda _trial: None
