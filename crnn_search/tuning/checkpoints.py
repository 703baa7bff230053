"""The few checkpoints of one trial, in a folder or an object store."""

from __future__ import annotations

import contextlib
import math
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from crnn_search.errors import ModelFileError, StorageError
from crnn_search.hyperparameters import TrialConfig
from crnn_search.storage.object_store import ObjectStore, is_uri
from crnn_search.storage.retry import patiently
from crnn_search.storage.trial import METRIC, Job
from crnn_search.training.checkpoint import T, load_state, save_state
from crnn_search.training.engine import TrainState


@dataclass(frozen=True)
class Resumed:
    """A training found in a folder, or None; `problems` name the files that could not be used."""

    state: TrainState | None
    history: list[dict[str, Any]]
    problems: list[str]


class CheckpointFolder:
    """The checkpoints of one job, `epoch-0001.safetensors` and so on: the newest two and the best.

    The newest but one stands in for the newest if that is damaged. place: a folder, or the URI of
    one in an object store. warn: hears that the store cannot be reached.
    """

    def __init__(self, place: str | Path, warn: Callable[[str], None] = lambda text: None) -> None:
        """warn: hears when the storage cannot be reached for a while; a folder above must exist."""
        self.path = Path(place)
        self._warn = warn
        self._store = ObjectStore(str(place), warn) if is_uri(str(place)) else None

    @staticmethod
    def name(epoch: int) -> str:
        """The name of the checkpoint after an epoch."""
        return f"epoch-{epoch:04d}.safetensors"

    def file(self, epoch: int) -> Path:
        """The checkpoint after an epoch, in a folder."""
        return self.path / self.name(epoch)

    def save(self, state: TrainState, history: Sequence[Mapping[str, Any]]) -> None:
        """Write a checkpoint, then remove those that are no longer needed.

        Raises:
            StorageError: the disk is full, or the folder cannot be written or reached.
        """
        path = self.file(state.epoch)
        try:
            self._patiently(lambda: self._write(path, state, history))
            best = best_epoch([epoch.get(METRIC) for epoch in history])
            self.keep({state.epoch, state.epoch - 1, best})
        except OSError as error:
            raise StorageError(path, error) from error
        except SafetensorError as error:
            raise StorageError(path, str(error)) from error

    def load(self, job: Job, device: torch.device) -> Resumed:
        """The newest checkpoint of `job` that is whole, else a problem for each that is not.

        Raises:
            StorageError: the storage cannot be reached.
        """
        problems = []
        try:
            epochs = self._patiently(self._epochs)
        except OSError as error:
            raise StorageError(self.path, error) from error
        for epoch in sorted(epochs, reverse=True):
            with self._reading(self.name(epoch)) as path:
                try:
                    state, history = load_state(path, device)
                except ModelFileError as error:
                    problems.append(f"checkpoint passed over: {error}")
                    continue
            if (state.config, state.seed, state.epochs) == (
                TrialConfig.from_dict(job.config),
                job.seed,
                job.epochs,
            ):
                return Resumed(state, history, problems)
            problems.append(f"checkpoint passed over: {path} is of another training")
        return Resumed(None, [], problems)

    def keep(self, epochs: Iterable[int | None]) -> None:
        """Remove all checkpoints but those of these epochs."""
        for epoch in self._epochs() - set(epochs):
            if self._store:
                self._store.remove(self.name(epoch))
            else:
                self.file(epoch).unlink(missing_ok=True)

    def _epochs(self) -> set[int]:
        if self._store:
            names = self._store.names()
        else:
            names = [path.name for path in self.path.glob("epoch-*.safetensors")]
        found = [re.fullmatch(r"epoch-(\d{4,})\.safetensors", name) for name in names]
        return {int(match[1]) for match in found if match}

    def _patiently(self, action: Callable[[], T]) -> T:
        """Wait for a folder that is away; an object store waits by itself."""
        return action() if self._store else patiently(action, self.path.parent, self._warn)

    def _write(self, path: Path, state: TrainState, history: Sequence[Mapping[str, Any]]) -> None:
        if self._store is None:
            save_state(path, state, history)
            return
        with tempfile.TemporaryDirectory(prefix="crnn-search-") as folder:
            save_state(Path(folder) / path.name, state, history)
            self._store.write(path.name, (Path(folder) / path.name).read_bytes())

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[Path]:
        if self._store is None:
            yield self.path / name
            return
        with tempfile.TemporaryDirectory(prefix="crnn-search-") as folder:
            self._store.fetch(name, Path(folder) / name)
            yield Path(folder) / name


def best_epoch(values: Sequence[float | None]) -> int | None:
    """The epoch, counted from 1, of the lowest value; None if there is no number."""
    sound = [(v, e) for e, v in enumerate(values, 1) if v is not None and math.isfinite(v)]
    return min(sound)[1] if sound else None
