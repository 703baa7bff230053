"""A whole pipeline in this process: real files and networks, but no Ray and no training.

`Recorder` copies the run's folder before each change of a file: what a crash there would leave.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import plotly.offline
import torch
from ray import tune

from crnn_search.cluster.pace import CostProbe
from crnn_search.cluster.resources import Allocation
from crnn_search.data import digits as digit_tables
from crnn_search.data import mnist
from crnn_search.data.digits import Digits
from crnn_search.hyperparameters import Arithmetic, TrialConfig
from crnn_search.pipeline import run as pipeline
from crnn_search.results import scored
from crnn_search.spaces.file import parse_space
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage import jsonl, stages
from crnn_search.storage.files import read_json
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.trial import Trial
from crnn_search.training import checkpoint, engine, probe
from crnn_search.training.metrics import EpochMetrics
from crnn_search.training.probe import Cost
from crnn_search.tuning import stage_log, tuner
from crnn_search.tuning.callback import RunCallback
from crnn_search.tuning.checkpoints import CheckpointFolder
from crnn_search.tuning.context import Context
from crnn_search.tuning.epoch_result import EpochResult
from crnn_search.tuning.progress import Progress
from crnn_search.tuning.study_mirror import StudyMirror
from crnn_search.tuning.tensorboard import TensorBoard
from crnn_search.tuning.worker import Worker
from tests.small_run import without
from tests.tuning.fake_tune import FakeTune

SPACE = parse_space("""
task: {max_digits: 2}
search: {trials: 4, max_epochs: 2, grace_epochs: 1, reduction_factor: 2, seed: 3,
         max_concurrent_trials: 1, epoch_sequences: 10}
retrain: {finalists: 2, seeds: 1, epochs: 1, epoch_sequences: 10}
space:
  conv_channels: {list_of: {int: [2, 4]}, length: [1, 6]}
  kernel_size: 3
  padding: valid
  gru_sizes: [4]
  dropout: {float: [0.0, 0.5]}
  learning_rate: {float: [1.0e-4, 2.0e-2], log: true}
""")
"""Some of its networks are infeasible."""

TIMES = {"seconds", "core_seconds", "gpu_seconds", "created", "command", "budget", "elapsed_s"}
"""What differs between a run and one that was interrupted."""

CHANGES = ("write", "fsync", "replace", "rename", "unlink", "remove", "rmdir", "mkdir", "ftruncate")
"""Functions of `os` that change files; `Path` calls them, too."""


class SavingTune(FakeTune):
    """Trials whose checkpoints are real files of networks that were never trained."""

    def __init__(self, run: RunFolder) -> None:
        super().__init__(run.root, lambda *_: None, _Saved(run))
        self._of = run

    def fit(self, context: Context, config: tune.TuneConfig, callback: RunCallback) -> None:
        self._of.checkpoints.mkdir(exist_ok=True)
        super().fit(context, config, callback)

    def _step(self, trial: Trial, epoch: int, accident: str | None, restored: bool) -> EpochResult:
        step = super()._step(trial, epoch, accident, restored)
        if trial.all_images:
            assert step.metrics
            metrics = {**step.metrics.to_dict(), "validation_rmse": None, "exact_sum_rate": None}
            step = _replace_metrics(step, metrics)
        if not restored:
            state = engine.start(
                trial.config, seed=trial.seed, epochs=trial.epochs, device=torch.device("cpu")
            )
            state.epoch = epoch
            assert step.metrics
            folder = CheckpointFolder(self._of.checkpoints / trial.name)
            folder.save(trial, state, [step.metrics.to_dict()] * epoch)
        return step


def _replace_metrics(step: EpochResult, metrics: dict[str, Any]) -> EpochResult:
    return replace(step, metrics=EpochMetrics(**metrics))


class _Saved(dict[str, int]):
    """The newest saved epoch of each trial: those of the files."""

    def __init__(self, run: RunFolder) -> None:
        super().__init__()
        self._of = run

    def __contains__(self, name: object) -> bool:
        return bool(self._epochs(str(name)))

    def __getitem__(self, name: str) -> int:
        return max(self._epochs(name))

    def get(self, name: str, default: Any = None) -> Any:
        return max(self._epochs(name), default=default)

    def __setitem__(self, name: str, epoch: int) -> None:
        pass

    def _epochs(self, name: str) -> list[int]:
        found = (self._of.checkpoints / name).glob("epoch-*.safetensors")
        return [int(path.stem.removeprefix("epoch-")) for path in found]


class TrainingTune(FakeTune):
    """Trials that train as always, but in this process."""

    def __init__(self) -> None:
        super().__init__(Path(), lambda *_: None)

    def fit(self, context: Context, config: tune.TuneConfig, callback: RunCallback) -> None:
        context.run.checkpoints.mkdir(exist_ok=True)
        cpu = torch.device("cpu")
        self._worker = Worker(context.task, context.run.checkpoint_location, cpu)
        self._trial: Trial | None = None
        super().fit(context, config, callback)

    def _step(self, trial: Trial, epoch: int, accident: str | None, restored: bool) -> EpochResult:
        if trial != self._trial:
            self._trial = trial
            self._worker.take(trial)
        return self._worker.step()


def _measure_here(configs: Sequence[TrialConfig], *of: Any) -> tuple[list[Cost], str]:
    """`measure_costs`, one after another in this process."""
    *arguments, on_progress = of
    actor, costs = CostProbe(*arguments), []
    for config in configs:
        costs.append(actor.cost(config)[1])
        on_progress("measuring", len(costs), len(configs))
    return costs, actor.device()


@contextlib.contextmanager
def no_ray() -> Iterator[None]:
    """A pipeline on one core that needs no Ray: starting it takes a while."""
    patches = {
        "crnn_search.pipeline.run.connection.connect": lambda *_, **__: contextlib.nullcontext(),
        "crnn_search.pipeline.run.data_size.check_memory": lambda _: None,
        "crnn_search.pipeline.run.gpu_share.probe_gpu": lambda *_: None,
        "crnn_search.pipeline.run.nodes.hardware": lambda: [
            {"cpus": 1.0, "gpus": 0.0, "memory_gb": 1.0, "cpu_model": None}
        ],
        "crnn_search.pipeline.run.storage_check.check_storage": lambda _: None,
        "crnn_search.cluster.gpu_share.allocate": lambda *_, **__: Allocation(1.0, 0.0, 1),
        "crnn_search.pipeline.run.resolve_arithmetic": lambda *_: Arithmetic(),
        "crnn_search.pipeline.forecast.resolve_arithmetic": lambda *_: Arithmetic(),
        "crnn_search.pipeline.forecast.measure_costs": _measure_here,
        "crnn_search.tuning.tuner._fit": TrainingTune().fit,
    }
    with contextlib.ExitStack() as stack:
        for name, value in patches.items():
            stack.enter_context(mock.patch(name, value))
        yield


@contextlib.contextmanager
def forecasts_here(digits: Digits) -> Iterator[None]:
    """Forecasts that need neither Ray nor MNIST, and few sequences."""
    with (
        no_ray(),
        mock.patch.object(mnist, "load", return_value=digits),
        mock.patch.object(digit_tables, "VALIDATION_SEQUENCES", 100),
        mock.patch.object(probe, "PACE_SEQUENCES", 64),
    ):
        yield


@contextlib.contextmanager
def no_cluster(digits: Digits, *, boards: bool = False) -> Iterator[None]:
    """A pipeline that needs neither Ray nor MNIST, and takes no time for what is not files.

    boards: with TensorBoard's files and the copy of the study.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(no_ray())
        for thing, name, other in (
            (mnist, "load", lambda *_, **__: digits),
            (digit_tables, "TEST_SEQUENCES", 20),
            (stage_log, "TensorBoard", TensorBoard if boards else mock.MagicMock()),
            (pipeline, "StudyMirror", StudyMirror if boards else mock.MagicMock()),
            (digit_tables, "LONGER_SEQUENCES", 2),
            (scored, "ms_per_sequence", lambda *_: 1.0),
            (plotly.offline, "get_plotlyjs", lambda: "// Plotly"),
        ):
            stack.enter_context(mock.patch.object(thing, name, other))
        yield


def work(
    command: Callable[..., Any],
    run: RunFolder,
    *arguments: Any,
    space: SearchSpace = SPACE,
    display: Progress | None = None,
    **options: Any,
) -> list[str]:
    """Run `launch`, `resume` or `extend`; returns the notes that the user sees.

    arguments: after the run. space: for `launch`. display: hears of everything, in place of a mock;
    then no notes are returned. options: its keywords.
    """
    fake = SavingTune(run)
    progress: Any = display or mock.create_autospec(Progress, instance=True)
    words = [space, run] if command is pipeline.launch else [run, *arguments]
    with mock.patch.object(tuner, "_fit", fake.fit):
        command(*words, progress=progress, options=pipeline.Options(), **options)
    return [] if display else [call.args[0] for call in progress.note.call_args_list]


def results(run: RunFolder) -> dict[str, Any]:
    """All that a run's files say, without times; and the names of all files."""
    assert stages.first_open(run) is None
    named = {
        path.relative_to(run.root).as_posix(): path
        for path in sorted(run.root.rglob("*"))
        if path.is_file()
    }
    json_files = (run.finalists, run.best, run.retrained, run.report_json, run.manifest)
    found: dict[str, Any] = {path.name: without(TIMES, read_json(path)) for path in json_files}
    found["ledger"] = without(TIMES, jsonl.read(run.ledger))
    same = [n for n in named if n.startswith(("model/", "plots/", "retrained/", "space.yaml"))]
    found |= {name: _content(named[name]) for name in same}
    return found | {"files": list(named)}


def _content(path: Path) -> str:
    """What a file says, as a hash. The order of safetensors' metadata is another each time."""
    content = hashlib.sha256()
    if path.suffix == ".safetensors":
        model, config, info = checkpoint.load_model(path)
        content.update(repr((config, info)).encode())
        for value in model.state_dict().values():
            content.update(value.numpy().tobytes())
    else:
        content.update(path.read_bytes())
    return content.hexdigest()


@dataclass
class Recorder:
    """Copies a folder before each change of a file in it, unless nothing changed since.

    copies: in order, what a crash at that point leaves. Of a line that is being appended, half.
    """

    root: Path
    into: Path
    copies: list[Path] = field(default_factory=list)
    points: int = 0
    _seen: set[str] = field(default_factory=set)

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """A block whose changes are recorded."""
        with contextlib.ExitStack() as stack:
            for name in CHANGES:
                changed = self._wrapped(name, getattr(os, name))
                stack.enter_context(mock.patch.object(os, name, changed))
            yield
        self._copy()

    def _wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any, **named: Any) -> Any:
            if name == "write":
                half = arguments[1][: len(arguments[1]) // 2]
                function(arguments[0], half)
                self._copy()
                return len(half) + int(function(arguments[0], arguments[1][len(half) :]))
            self._copy()
            return None if name == "fsync" else function(*arguments, **named)

        return changed

    def _copy(self) -> None:
        self.points += 1
        state = _state(self.root)
        if state not in self._seen:
            self._seen.add(state)
            self.copies.append(self.into / f"{len(self.copies):04d}" / self.root.name)
            with _unpatched():
                shutil.copytree(self.root, self.copies[-1])


_REAL = {name: getattr(os, name) for name in CHANGES}


@contextlib.contextmanager
def _unpatched() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name, function in _REAL.items():
            stack.enter_context(mock.patch.object(os, name, function))
        yield


def _state(root: Path) -> str:
    """What a folder holds, temporary names left out of account."""
    found = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        found.update((".temporary" if hidden else name).encode())
        if path.is_file() and not hidden:
            found.update(path.read_bytes())
    return found.hexdigest()
