"""A real run of the whole command line, small enough for a test: synthetic digits, real Ray.

Commands that start Ray run in a process of their own, where Ray's warnings are not errors.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from crnn_search.data.digits import Digits
from crnn_search.storage import jsonl
from tests import watching
from tests.waiting import WaitError, wait

SPACE = """
search: {trials: 5, max_epochs: 2, grace_epochs: 1, reduction_factor: 2, epoch_sequences: 256,
         max_concurrent_trials: 1, seed: 3}
retrain: {epochs: 1, epoch_sequences: 256, seeds: 2, finalists: 2}
first:
  - {learning_rate: 0.005, conv_channels: [4]}
space:
  conv_channels: {list_of: {int: [2, 6]}, length: [1, 2]}
  kernel_size: 5
  pooling: 4
  gru_sizes: [8]
  learning_rate: {float: [5.0e-3, 3.0e-2], log: true}
  batch_size: 32
"""

LAUNCH = ("launch", "space.yaml", "--name", "demo", "--data-dir", "data")
HOOKS = (
    *("--on-end", "sh -c 'cat > summary.json'"),
    *("--on-trial-end", "sh -c 'cat >> trials.txt; echo >> trials.txt'"),
)
"""They write what they hear of to files. Those of `docs/python.md` come first."""

RESUME = ("resume", "runs/demo", "--data-dir", "data")

REPOSITORY = str(Path(__file__).parents[1])

PROGRAM = """
import hashlib, pathlib, sys
sys.modules["mlflow"] = None  # where it is installed, Ray imports it to count callbacks
from crnn_search.data import mnist
folder = pathlib.Path("data")
mnist.FILES = {
    name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in mnist.FILES
}
from crnn_search.cli.app import main
main()
"""
"""The command line with the synthetic digits of the folder `data` in place of MNIST."""


@dataclass(frozen=True)
class FinishedRun:
    """A run that has ended: its folder, the folder it was started in, and what it printed."""

    folder: Path
    root: Path
    done: subprocess.CompletedProcess[str]


def finished_run(root: Path, digits: Digits) -> FinishedRun:
    """Launch `SPACE` with `HOOKS` in `root`, unless another process of this test run does.

    It is watched: see `watching`.
    """
    with root.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        printed = root / "printed.json"
        if not printed.exists():
            prepare(root, digits)
            done = command(root, *LAUNCH, *HOOKS, env=watching.environment(root))
            printed.write_text(json.dumps([done.args, done.returncode, done.stdout, done.stderr]))
        done = subprocess.CompletedProcess(*json.loads(printed.read_text()))
    return FinishedRun(root / "runs" / "demo", root, done)


def prepare(root: Path, digits: Digits, space: str = SPACE) -> None:
    """Write a space and the data, so that `LAUNCH` can run in `root`."""
    root.mkdir(exist_ok=True)
    (root / "space.yaml").write_text(space)
    write_mnist(root / "data", digits)


def one_core() -> None:
    """Use one core: a local Ray then has one trial at a time, and fewer workers to start.

    Linux only: elsewhere a process keeps all its cores.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    os.sched_setaffinity(0, {cores[int(worker) % len(cores)]})


def command(
    root: Path, *arguments: str, env: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess[str]:
    """Run `crnn-search` in `root`, in a process of its own, on one core."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=300,
        env={**env, "COLUMNS": "200", "PYTHONPATH": REPOSITORY},
        preexec_fn=one_core,
    )


def run_here(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `crnn-search` in `root`, in this process: for commands that start no Ray."""
    from crnn_search.cli import app
    from crnn_search.data import mnist

    files = {name: _sha256(root / "data" / name) for name in mnist.FILES}
    code: object = None
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(root),
        mock.patch.object(mnist, "FILES", files),
        mock.patch.object(sys, "argv", ["crnn-search", *arguments]),
        mock.patch.dict(os.environ, {"COLUMNS": "200"}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            app.main()
        except SystemExit as ended:
            code = ended.code
    return subprocess.CompletedProcess(
        arguments, code if isinstance(code, int) else 0, out.getvalue(), err.getvalue()
    )


def start(
    root: Path, *arguments: str, before: str = "", all_cores: bool = False, **variables: str
) -> subprocess.Popen[bytes]:
    """Start `crnn-search` in `root`, in a session of its own; it prints to the file `log`.

    It ends with its test.

    before: Python that runs first. all_cores: not on one core. variables: of the environment, for
    the workers too.
    """
    with (root / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", before + PROGRAM, *arguments],
            cwd=root,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "COLUMNS": "200", "PYTHONPATH": REPOSITORY, **variables},
            preexec_fn=None if all_cores else one_core,
            start_new_session=True,
        )
    _STARTED.append(process)
    return process


_STARTED: list[subprocess.Popen[bytes]] = []


def end_started() -> None:
    """Kill what `start` has started and still runs: its test has failed."""
    while _STARTED:
        process = _STARTED.pop()
        process.kill()
        process.wait(30)


def wait_for_end(process: subprocess.Popen[bytes], root: Path, timeout_s: float = 300) -> int:
    """Wait until what `start` has started in `root` ends; returns its exit code."""
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        raise WaitError(f"it has not ended after {timeout_s:.0f} s:\n{_log(root)}") from None


def results(run: Path) -> dict[str, Any]:
    """Ledger, choices and report of a run, without its manifest and times."""
    report = json.loads((run / "report.json").read_text())
    del report["run"], report["compute"]
    chosen = {
        name: json.loads((run / name).read_text()) for name in ("best.json", "finalists.json")
    }
    ledger = jsonl.read(run / "trials.jsonl")
    return without(TIMINGS, {"ledger": ledger, "report": report, **chosen})  # type: ignore[no-any-return]


TIMINGS = {"seconds", "core_seconds", "gpu_seconds", "node", "ms_per_sequence"}


def without(keys: Collection[str], value: Any) -> Any:
    """A JSON value without some keys, at any depth."""
    if isinstance(value, dict):
        return {k: without(keys, v) for k, v in value.items() if k not in keys}
    return [without(keys, item) for item in value] if isinstance(value, list) else value


def wait_for(
    run: Path, after: int = 0, process: subprocess.Popen[bytes] | None = None, **fields: Any
) -> None:
    """Wait until the journal has an event with these fields, after its first `after` lines.

    process: the run's: the wait ends with it.
    """
    path = run / "journal.jsonl"

    def happened() -> bool:
        ended = process is not None and process.poll() is not None
        events = jsonl.read(path)[after:] if path.exists() else []
        if any(fields.items() <= event.items() for event in events):
            return True
        assert not ended, f"the run ended without an event with {fields}:\n{_log(run.parents[1])}"
        return False

    wait(happened, 240, lambda: f"no event with {fields}:\n{_log(run.parents[1])}")


def _log(root: Path) -> str:
    """What `start` has printed in `root`."""
    return (root / "log").read_text() if (root / "log").exists() else ""


def write_mnist(folder: Path, digits: Digits) -> None:
    """Write synthetic digits as MNIST's four files."""
    folder.mkdir()
    for part, rows in (("train", slice(0, 60_000)), ("t10k", slice(60_000, None))):
        images, labels = digits.images[rows].numpy(), digits.labels[rows].numpy()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(bytes(16) + images.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(bytes(8) + labels.tobytes())


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
