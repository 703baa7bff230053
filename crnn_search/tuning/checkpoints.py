"""The few checkpoints of one trial, in a folder or an object store."""

from __future__ import annotations

import contextlib
import math
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from crnn_search.errors import ConfigError, ModelFileError, StorageError
from crnn_search.storage.checks import check_types, field_types
from crnn_search.storage.location import is_uri, join
from crnn_search.storage.object_store import ObjectStore
from crnn_search.storage.retry import OnRetry, with_retries
from crnn_search.storage.trial import METRIC, Trial
from crnn_search.training.checkpoint import load_state, save_state
from crnn_search.training.engine import TrainState
from crnn_search.training.metrics import EpochMetrics

T = TypeVar("T")


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
            if _is_of(trial, found.trial):
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
        found = [re.fullmatch(r"epoch-(\d{4,})\.safetensors", name) for name in names]
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
        with tempfile.TemporaryDirectory(prefix="crnn-search-") as folder:
            save_state(Path(folder) / path.name, state, trial.to_dict(), history)
            self._store.write(path.name, (Path(folder) / path.name).read_bytes())

    @contextlib.contextmanager
    def _local(self, name: str) -> Iterator[Path]:
        """A checkpoint as a file of this machine."""
        if self._store is None:
            yield self.path / name
            return
        with tempfile.TemporaryDirectory(prefix="crnn-search-") as folder:
            self._store.fetch(name, Path(folder) / name)
            yield Path(folder) / name


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


def _is_of(trial: Trial, header: Mapping[str, Any]) -> bool:
    """Whether a checkpoint whose header has this trial is of the same training."""
    try:
        return Trial.from_dict(header).same_training(trial)
    except (ConfigError, KeyError, TypeError):
        return False
