"""Warm starts: what earlier runs found, as far as it fits a new space, for the sampler to know.

The trials that fit stand in the new run's `warm_start.jsonl`, so that it needs no other folder.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from crnn_search.errors import InputError
from crnn_search.hyperparameters import PARAMETERS, TrialConfig
from crnn_search.spaces.domains import Fixed, canonical
from crnn_search.spaces.file import load_space
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage import jsonl
from crnn_search.storage.files import write_atomically
from crnn_search.storage.jsonl import Record
from crnn_search.storage.run_folder import open_run


@dataclass(frozen=True)
class Fitted:
    """Earlier trials that fit a space.

    trials: `run`, `number`, `config` (what fits of it), `state` and `values` by epoch of the new
    search. left_out: how often each hyperparameter did not fit. unusable: trials without a value
    or with no hyperparameter that fits.
    """

    trials: list[Record]
    left_out: Mapping[str, int]
    unusable: int

    def describe(self) -> str:
        """In one line."""
        text = f"warm start: {len(self.trials)} earlier trials"
        if self.unusable:
            text += f", {self.unusable} more were of no use"
        if self.left_out:
            counts = ", ".join(f"{name} {count} times" for name, count in self.left_out.items())
            text += f"; left out because it does not fit this space: {counts}"
        return text


def fit(space: SearchSpace, runs: Sequence[str]) -> Fitted:
    """What the ledgers of earlier runs hold for a new space.

    A value keeps its fidelity: the epoch of the new search that has seen as many sequences. Only a
    trial with exactly the new search's full budget counts as complete.

    Raises:
        InputError: a folder is no run, its ledger cannot be read, or its task is another.
    """
    trials: list[Record] = []
    left_out: Counter[str] = Counter()
    unusable = 0
    for folder in runs:
        run = open_run(folder)
        earlier = load_space(run.space)
        if earlier.task != space.task:
            raise InputError(
                f"a warm start needs the same task: {folder} has max_digits "
                f"{earlier.task.max_digits}, this space {space.task.max_digits}"
            )
        for line in jsonl.read(run.ledger) if run.ledger.exists() else []:
            config, missing = _fitting(space, line["config"])
            state, values = _values(line, earlier, space)
            if not values or not space.to_params(config):
                unusable += 1
                continue
            left_out.update(missing)
            trials.append(
                {"run": run.name, "number": line["number"], "config": config, "state": state}
                | {"values": values}
            )
    return Fitted(trials, dict(left_out), unusable)


def write(fitted: Fitted, path: Path) -> None:
    """Keep the trials beside the new run."""
    write_atomically(path, "".join(json.dumps(trial) + "\n" for trial in fitted.trials))


def read(space: SearchSpace, path: Path) -> list[FrozenTrial]:
    """The kept trials as Optuna's; none if the run had no warm start."""
    return [_frozen(space, trial) for trial in jsonl.read(path)] if path.exists() else []


def _fitting(space: SearchSpace, config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The part of a whole configuration that the space searches, and the names that do not fit."""
    kept, missing = {}, []
    defaults = TrialConfig.from_dict({}).to_dict()
    for name, value in config.items():
        rule = PARAMETERS.get(name)
        domain = space.space.get(name)
        if rule is None or not rule.accepts(value):
            missing.append(name)
        elif domain is None:
            missing += [name] if value != defaults[name] else []
        elif not domain.allows(canonical(rule, value)):
            missing.append(name)
        elif not isinstance(domain, Fixed):
            kept[name] = value
    return kept, missing


def _values(line: Record, earlier: SearchSpace, space: SearchSpace) -> tuple[str, dict[int, float]]:
    """State and values of an earlier trial at the epochs of the new search."""
    share = earlier.search.epoch_sequences / space.search.epoch_sequences
    values = {
        max(1, int(epoch * share)): value
        for epoch, value in enumerate(line["values"], start=1)
        if value is not None and line["state"] != "FAIL"
    }
    values = {epoch: value for epoch, value in values.items() if epoch <= space.search.max_epochs}
    same = earlier.search.max_epochs * share == space.search.max_epochs
    return ("COMPLETE" if same and line["state"] == "COMPLETE" else "PRUNED"), values


def _frozen(space: SearchSpace, trial: Record) -> FrozenTrial:
    values = {int(epoch): value for epoch, value in trial["values"].items()}
    return optuna.trial.create_trial(
        state=TrialState[trial["state"]],
        value=values[max(values)],
        params=space.to_params(trial["config"]),
        distributions=space.distributions(trial["config"]),
        intermediate_values=values,
    )
