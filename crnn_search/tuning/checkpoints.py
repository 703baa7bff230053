"""The few checkpoints of one trial, in a folder or an object store."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import torch

from crnn_search.errors import ConfigError, ModelFileError, StorageError
from crnn_search.storage import temporary
from crnn_search.storage.checks import check_types, field_types
from crnn_search.storage.location import is_uri, join
from crnn_search.storage.object_store import ObjectStore
from crnn_search.storage.retry import OnRetry, with_retries
from crnn_search.storage.run_folder import CHECKPOINTS, RunFolder
from crnn_search.storage.trial import METRIC, Trial, TrialRecord
from crnn_search.training.checkpoint import load_state, save_state
from crnn_search.training.engine import TrainState
from crnn_search.training.metrics import EpochMetrics

T = TypeVar("T")

_NAME = re.compile(r"epoch-(\d{4,})\.safetensors")


@dataclass(frozen=True)
class Resumed:
    """A training found in a folder, or None.

    history: the metrics of its epochs. problems: why other files there could not be used.
    """

    state: TrainState | None
    history: list[dict[str, Any]]
    problems: list[str]


class CheckpointFolder:
    """The checkpoints of a trial, `epoch-0001.safetensors` and so on: the newest two and the best.

    The newest but one is used if the newest is damaged.
    """

    def __init__(self, place: str | Path, on_retry: OnRetry = lambda text: None) -> None:
        """place: a folder, whose parent must exist, or a URI in an object store.

        on_retry: called with a message while the storage cannot be reached.
        """
        self.path = Path(place)  # of a folder
        self._place = str(place)
        self._on_retry = on_retry
        self._store = ObjectStore(str(place), on_retry) if is_uri(str(place)) else None

    @staticmethod
    def name(epoch: int) -> str:
        """The name of the checkpoint after an epoch."""
        return f"epoch-{epoch:04d}.safetensors"

    def file(self, epoch: int) -> Path:
        """The checkpoint after an epoch, in a folder."""
        return self.path / self.name(epoch)

    def save(self, trial: Trial, state: TrainState, history: Sequence[Mapping[str, Any]]) -> None:
        """Write a checkpoint, then remove those that are no longer needed.

        history: the metrics of the trial's epochs.

        Raises:
            StorageError: the disk is full, or the storage cannot be written or reached.
        """
        path = self.file(state.epoch)
        try:
            self._with_retries(lambda: self._write(path, trial, state, history))
            best = best_epoch([epoch.get(METRIC) for epoch in history])
            self.keep({state.epoch, state.epoch - 1, best})
        except OSError as error:
            raise StorageError(join(self._place, path.name), error) from error

    def load(self, trial: Trial, device: torch.device) -> Resumed:
        """The newest valid checkpoint of the same training as `trial`'s.

        Raises:
            StorageError: the storage cannot be reached.
        """
        problems = []
        try:
            epochs = self._with_retries(self._epochs)
        except OSError as error:
            raise StorageError(self._place, error, "read") from error
        for epoch in sorted(epochs, reverse=True):
            location = join(self._place, self.name(epoch))
            with self._local(self.name(epoch)) as path:
                try:
                    found = load_state(path, device, trial.arithmetic)
                    _check_history(path, found.history)
                except ModelFileError as error:
                    reason = str(error).replace(str(path), location)
                    problems.append(f"checkpoint not used: {reason}")
                    continue
            if is_of(trial, found.trial):
                return Resumed(found.state, found.history, problems)
            problems.append(f"checkpoint not used: {location} is of another training")
        return Resumed(None, [], problems)

    def keep(self, epochs: Iterable[int | None]) -> None:
        """Remove all checkpoints but those of these epochs.

        Raises:
            StorageError: the folder or the object store cannot be written.
        """
        for epoch in self._epochs() - set(epochs):
            if self._store:
                self._store.remove(self.name(epoch))
                continue
            try:
                self.file(epoch).unlink(missing_ok=True)
            except OSError as error:
                raise StorageError(self.file(epoch), error) from error

    def _epochs(self) -> set[int]:
        if self._store:
            names = self._store.names()
        else:
            names = [path.name for path in self.path.glob("epoch-*.safetensors")]
        found = [_NAME.fullmatch(name) for name in names]
        return {int(match[1]) for match in found if match}

    def _with_retries(self, action: Callable[[], T]) -> T:
        """Wait for a folder that cannot be reached; an object store retries by itself."""
        return action() if self._store else with_retries(action, self.path.parent, self._on_retry)

    def _write(
        self, path: Path, trial: Trial, state: TrainState, history: Sequence[Mapping[str, Any]]
    ) -> None:
        if self._store is None:
            save_state(path, state, trial.to_dict(), history)
            return
        with temporary.folder() as folder:
            save_state(folder / path.name, state, trial.to_dict(), history)
            self._store.write(path.name, (folder / path.name).read_bytes())

    @contextlib.contextmanager
    def _local(self, name: str) -> Iterator[Path]:
        """A checkpoint as a file of this machine."""
        if self._store is None:
            yield self.path / name
            return
        with temporary.folder() as folder:
            self._store.fetch(name, folder / name)
            yield folder / name


def best_epoch(validation_rmse: Sequence[float | None]) -> int | None:
    """The epoch, counted from 1, of the lowest value; None if no value is finite."""
    finite = [
        (v, e) for e, v in enumerate(validation_rmse, 1) if v is not None and math.isfinite(v)
    ]
    return min(finite)[1] if finite else None


def _check_history(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    types = field_types(EpochMetrics)
    try:
        for metrics in history:
            check_types(metrics, types)
    except TypeError as error:
        raise ModelFileError(f"{path} has an invalid history: {error}") from error


def tidy(run: RunFolder, records: Mapping[str, TrialRecord]) -> None:
    """Remove those checkpoints of a run that its history does not lead to.

    A crash may leave an ended trial more than its last and its best one. Of a trial that has not
    ended, or that nothing is known of, the history may have been cut: only the next epoch's can
    have been saved without being recorded.

    records: what is known of each trial by name.

    Raises:
        StorageError: the folder or the object store cannot be written.
    """
    for name, epochs in _saved_epochs(run).items():
        record = records.get(name)
        if record and record.ended:
            wanted = {record.saved_epochs, best_epoch(record.validation_rmse)}
        else:
            wanted = set(range(1, (record.epochs if record else 0) + 2))
        if not epochs <= wanted:
            CheckpointFolder(join(run.checkpoint_location, name)).keep(wanted)


def _saved_epochs(run: RunFolder) -> dict[str, set[int]]:
    """The epochs that each trial of a run has a checkpoint of."""
    if run.mirror:
        names = run.mirror.store.names(CHECKPOINTS)
        files = [PurePosixPath(name).relative_to(CHECKPOINTS) for name in names]
    else:
        found = run.checkpoints.glob("*/*.safetensors")
        files = [PurePosixPath(path.relative_to(run.checkpoints)) for path in found]
    saved: dict[str, set[int]] = {}
    for file in files:
        if match := _NAME.fullmatch(file.name):
            saved.setdefault(str(file.parent), set()).add(int(match[1]))
    return saved


def is_of(trial: Trial, header: Mapping[str, Any]) -> bool:
    """Whether a checkpoint whose header has this trial is of the same training."""
    try:
        return Trial.from_dict(header).same_training(trial)
    except (ConfigError, KeyError, TypeError, ValueError):
        return False
