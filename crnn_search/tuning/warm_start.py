"""Warm starts: trials of earlier runs, as far as they fit a new space, for the sampler to use.

Those that fit are stored in the new run's `warm_start.jsonl`, so that it needs no other folder.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from crnn_search.errors import InputError
from crnn_search.hyperparameters import PARAMETERS, TrialConfig
from crnn_search.spaces.domains import Fixed, canonical
from crnn_search.spaces.file import load_space
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage import jsonl
from crnn_search.storage.checks import ALTERED, altered_line, check_types
from crnn_search.storage.files import write_text
from crnn_search.storage.journal import read_history
from crnn_search.storage.jsonl import Record
from crnn_search.storage.run_folder import JOURNAL, LEDGER
from crnn_search.storage.runs import open_run
from crnn_search.storage.trial import METRIC, TrialRecord, TrialState


@dataclass(frozen=True)
class Fitted:
    """Earlier trials that fit a space.

    trials: `run`, `number`, `config` (what fits of it), `state`, and `validation_rmse` by epoch of
    the new search. left_out: how often each hyperparameter did not fit. unusable: trials without a
    validation RMSE or with no hyperparameter that fits.
    """

    trials: list[Record]
    left_out: Mapping[str, int]
    unusable: int

    def describe(self) -> str:
        """What was taken and what was left out, in a sentence."""
        text = f"warm start: {len(self.trials)} earlier trials"
        if self.unusable:
            text += f", {self.unusable} more were unusable"
        if self.left_out:
            counts = ", ".join(f"{name} {count} times" for name, count in self.left_out.items())
            text += f"; left out because it does not fit this space: {counts}"
        return text


def fit(space: SearchSpace, runs: Sequence[str]) -> Fitted:
    """The trials of earlier runs, fitted to a new space.

    A value keeps its fidelity: the epoch of the new search that has seen as many sequences. Only a
    trial with exactly the new search's full budget counts as complete.

    runs: their folders or URIs.

    Raises:
        InputError: a folder is not a run, its ledger cannot be read, or its task is another.
    """
    trials: list[Record] = []
    left_out: Counter[str] = Counter()
    unusable = 0
    for folder in runs:
        run = open_run(folder, (LEDGER, JOURNAL))
        earlier = load_space(run.space)
        past = read_history(run.journal, run.ledger).ended()
        for record in past.trials:
            if record.trial.data != space.images.data:
                raise InputError(
                    f"a warm start needs the same task: the data of {folder} are "
                    f"{record.trial.data}, those of this space {space.images.data}"
                )
        unusable += len(past.infeasible)
        for record in past.trials:
            config, missing = _fitting(space, record.trial.config)
            state, values = _values(record, earlier, space)
            if not values or not space.to_params(config):
                unusable += 1
                continue
            left_out.update(missing)
            fitted = {"run": run.name, "number": record.trial.number, "config": config}
            trials.append({**fitted, "state": state, METRIC: values})
    return Fitted(trials, dict(left_out), unusable)


def write(fitted: Fitted, path: Path) -> None:
    """Store the trials in a file of the new run."""
    write_text(path, "".join(json.dumps(trial) + "\n" for trial in fitted.trials))


def read(space: SearchSpace, path: Path) -> list[FrozenTrial]:
    """The stored trials as Optuna's; none if the run had no warm start.

    Raises:
        InputError: a line was altered; names the file and the line.
    """
    trials = []
    for number, trial in enumerate(jsonl.read(path) if path.exists() else [], start=1):
        try:
            trials.append(_frozen(space, trial))
        except ALTERED as error:
            raise altered_line(path, number, "an earlier trial", error) from error
    return trials


def _fitting(space: SearchSpace, config: TrialConfig) -> tuple[dict[str, Any], list[str]]:
    """The part of a configuration that the space searches, and the names that do not fit."""
    fitting, missing = {}, []
    defaults = TrialConfig.from_dict({}).to_dict()
    for name, value in config.to_dict().items():
        domain = space.space.get(name)
        if domain is None:
            missing += [name] if value != defaults[name] else []
        elif not domain.contains(canonical(PARAMETERS[name], value)):
            missing.append(name)
        elif not isinstance(domain, Fixed):
            fitting[name] = value
    return fitting, missing


def _values(
    record: TrialRecord, earlier: SearchSpace, space: SearchSpace
) -> tuple[str, dict[int, float]]:
    """State and validation RMSE of an earlier trial at the epochs of the new search."""
    share = earlier.search.epoch_sequences / space.search.epoch_sequences
    values = {
        max(1, int(epoch * share)): value
        for epoch, value in enumerate(record.validation_rmse, start=1)
        if value is not None and record.state != TrialState.FAIL
    }
    values = {epoch: value for epoch, value in values.items() if epoch <= space.search.max_epochs}
    same = earlier.search.max_epochs * share == space.search.max_epochs
    complete = same and record.state == TrialState.COMPLETE
    return (TrialState.COMPLETE if complete else TrialState.PRUNED), values


def _frozen(space: SearchSpace, trial: Record) -> FrozenTrial:
    check_types(trial[METRIC], dict.fromkeys(trial[METRIC], "float"))
    values = {int(epoch): value for epoch, value in trial[METRIC].items()}
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState[trial["state"]],
        value=values[max(values)],
        params=space.to_params(trial["config"]),
        distributions=space.distributions(trial["config"]),
        intermediate_values=values,
    )
