"""Writes trials of a search into a database, as Optuna stores a study."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from crnn_search.hyperparameters import TrialConfig
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage.trial import METRIC, InfeasibleTrial, TrialRecord
from crnn_search.tuning.study_storage import StudyStorage


@dataclass(frozen=True)
class StudyOf:
    """Which run a study is of. created: when it was launched, to tell runs of one name apart."""

    name: str
    location: str
    created: str

    @property
    def attributes(self) -> dict[str, str]:
        """Its user attributes."""
        return {"run": self.location, "created": self.created}


@dataclass(frozen=True)
class TrialCopy:
    """What is known of a trial of the search, and its times of this machine's clock."""

    trial: TrialRecord | InfeasibleTrial
    started: datetime.datetime
    ended: datetime.datetime | None = None


def number_of(trial: TrialRecord | InfeasibleTrial) -> int:
    """The number of a trial in its search."""
    return trial.number if isinstance(trial, InfeasibleTrial) else trial.trial.number


class StudyWriter:
    """Brings a study in a database up to date. Not for threads: one of them uses it.

    What the database says beyond what a run says is not kept: a study that differs from the run is
    written anew.
    """

    def __init__(self, storage: StudyStorage, of: StudyOf, space: SearchSpace) -> None:
        """Connect, and create what does not exist yet. Raises what SQLAlchemy and Optuna raise."""
        self._space = space
        self._of = of
        self._storage = RDBStorage(storage.url, engine_kwargs=storage.engine_kwargs)
        try:
            self._name = find_name(self._storage, of)
            self._create()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close all connections."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def write(self, copies: Iterable[TrialCopy]) -> None:
        """Write trials in the order of their numbers: new ones must follow the last of the study.

        Raises what SQLAlchemy and Optuna raise.
        """
        for copy in copies:
            wanted = self._frozen(copy)
            if number_of(copy.trial) >= len(self._known):
                found = self._storage.create_new_trial(self._study, wanted)
                self._ids.append(found)
                self._known.append(wanted)
            else:
                self._update(number_of(copy.trial), wanted)

    def agrees_with(self, copies: Iterable[TrialCopy]) -> bool:
        """Whether the study has nothing that these trials, all of a run, do not say."""
        if not self._known:
            return True
        wanted = {number_of(copy.trial): self._frozen(copy) for copy in copies}
        return all(
            number in wanted and _may_become(known, wanted[number])
            for number, known in enumerate(self._known)
        )

    def write_anew(self) -> None:
        """Remove the study's trials."""
        self._storage.delete_study(self._study)
        self._create()

    def _create(self) -> None:
        study = optuna.create_study(
            study_name=self._name, storage=self._storage, load_if_exists=True
        )
        if "created" not in study.user_attrs:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                study.set_metric_names([METRIC])
            for name, value in self._of.attributes.items():
                study.set_user_attr(name, value)
        self._study = self._storage.get_study_id_from_name(self._name)
        self._known = study.get_trials()
        self._ids = [
            self._storage.get_trial_id_from_study_id_trial_number(self._study, trial.number)
            for trial in self._known
        ]

    def _update(self, number: int, wanted: FrozenTrial) -> None:
        """Write what is new of a trial that has not ended in the study."""
        known, trial_id = self._known[number], self._ids[number]
        if known.state.is_finished():
            return
        for epoch, value in wanted.intermediate_values.items():
            if epoch not in known.intermediate_values:
                self._storage.set_trial_intermediate_value(trial_id, epoch, value)
        for name, value in wanted.user_attrs.items():
            if known.user_attrs.get(name) != value:
                self._storage.set_trial_user_attr(trial_id, name, value)
        if wanted.state.is_finished():
            values = None if wanted.value is None else [wanted.value]
            self._storage.set_trial_state_values(trial_id, wanted.state, values)
        self._known[number] = wanted

    def _frozen(self, copy: TrialCopy) -> FrozenTrial:
        """A trial as Optuna has it: states and values as the searcher tells them."""
        trial, values = copy.trial, list[float | None]()
        if isinstance(trial, InfeasibleTrial):
            config, state, attributes = trial.config, OptunaState.FAIL, {"reason": trial.reason}
        else:
            config, values = trial.trial.config.to_dict(), trial.validation_rmse
            state, attributes = OptunaState[trial.state.name], self._attributes(trial)
        searched = {name: value for name, value in config.items() if name in self._space.space}
        has_value = state in {OptunaState.COMPLETE, OptunaState.PRUNED}
        frozen = optuna.create_trial(
            state=state,
            value=values[-1] if has_value else None,
            params=self._space.to_params(searched),
            distributions=self._space.distributions(searched),
            user_attrs={**attributes, "run": self._of.location},
            intermediate_values={e: v for e, v in enumerate(values, start=1) if v is not None},
        )
        frozen.datetime_start = copy.started
        if state.is_finished():
            frozen.datetime_complete = copy.ended or copy.started
        return frozen

    def _attributes(self, record: TrialRecord) -> dict[str, Any]:
        config: TrialConfig = record.trial.config
        found = {
            "parameters": config.model.parameter_count(self._space.shape),
            "seconds": round(record.seconds, 1),
            "node": record.node,
            "device": record.device,
            "reason": record.reason,
        }
        return {name: value for name, value in found.items() if value not in {"", None}}


def find_name(storage: RDBStorage, of: StudyOf) -> str:
    """The name of a run's study: the run's or, where another study has that, with its time.

    A study without trials that does not say of what run it is was just created by a session that
    lost its connection.
    """
    for study in storage.get_all_studies():
        if study.study_name == of.name:
            number = storage.get_study_id_from_name(of.name)
            unused = "created" not in study.user_attrs and not storage.get_all_trials(number)
            ours = unused or study.user_attrs.get("created") == of.created
            return of.name if ours else f"{of.name} {of.created}"
    return of.name


def _may_become(known: FrozenTrial, wanted: FrozenTrial) -> bool:
    """Whether what a study has of a trial is the beginning of what it should have."""
    if known.params != wanted.params:
        return False
    if known.state.is_finished():
        same = known.state == wanted.state and known.value == wanted.value
        return same and known.intermediate_values == wanted.intermediate_values
    return _is_part(known.intermediate_values, wanted.intermediate_values)


def _is_part(part: Mapping[int, float], whole: Mapping[int, float]) -> bool:
    return part.items() <= whole.items()
