"""The driver under many trials: `python -m benchmarks.driver`.

Trials that do nothing but report, on two cores: this project's searcher, scheduler and books beside
the stock set-up (`OptunaSearch`, `ASHAScheduler`, Ray's default loggers and snapshots), each in a
process of its own. Trials per second and the driver's memory as trials end, and the time to resume.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from crnn_search.cluster import connection, resources

RESULTS = Path(__file__).parent / "results" / "driver.json"

SPACE = """
search: {{trials: {trials}, max_epochs: 9, grace_epochs: 1, reduction_factor: 3,
         max_concurrent_trials: 2}}
space:
  conv_channels: {{list_of: {{int: [8, 64], log: true}}, length: [1, 4]}}
  gru_sizes: {{list_of: {{int: [32, 256], log: true}}, length: [1, 3]}}
  dropout: {{float: [0.0, 0.5]}}
  learning_rate: {{float: [1.0e-4, 2.0e-2], log: true}}
  batch_size: {{choice: [64, 128, 256, 512]}}
"""


def objective(config: dict[str, Any], epoch: int) -> float:
    """A made-up validation RMSE."""
    return float(
        abs(config["learning_rate"] - 0.003) * 300 + config["dropout"]
        + abs(len(config["gru_sizes"]) - 2) + 3 / epoch
    )  # fmt: skip


def memory_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Marks:
    """Seconds and memory each time so many trials have ended."""

    def __init__(self, every: int) -> None:
        self.every, self.ended, self.rows = every, 0, [(0, 0.0, memory_mb())]
        self.began = time.monotonic()

    def one_more(self) -> None:
        if self.ended == 0:  # Ray's start is over
            self.began = time.monotonic()
        self.ended += 1
        if self.ended % self.every == 0:
            self.rows.append((self.ended, time.monotonic() - self.began, memory_mb()))


def run_ours(trials: int, every: int, folder: Path) -> dict[str, Any]:
    import torch
    from ray import tune
    from rich.console import Console

    from crnn_search.cli.display import PlainProgress
    from crnn_search.data.sequences import Digits
    from crnn_search.pipeline import search
    from crnn_search.spaces.file import parse_space
    from crnn_search.storage.journal import Journal, read_history
    from crnn_search.storage.run_folder import RunPaths
    from crnn_search.storage.trial import METRIC, Job, JobRecord
    from crnn_search.tuning import tuner
    from crnn_search.tuning.budget import Budget, Limit
    from crnn_search.tuning.callback import Recorder

    class Reporter(tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any], **_: Any) -> None:
            self.reset_config(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.job, self.epoch = Job(**new_config["job"]), 0
            return True

        def step(self) -> dict[str, Any]:
            self.epoch += 1
            return {
                "epoch": self.epoch, METRIC: objective(self.job.config, self.epoch),
                "train_loss": 1.0, "seconds": 0.0, "device": "cpu", "notes": [],
                "restored": False, "done": self.epoch >= self.job.epochs,
            }  # fmt: skip

    marks = Marks(every)

    class Counted(Recorder):
        def end(self, record: JobRecord, state: str, reason: str | None) -> None:
            super().end(record, state, reason)
            marks.one_more()

    patched: Any = tuner
    patched.DigitSumTrainable = Reporter
    vars(search)["Recorder"] = Counted
    digits = Digits(torch.zeros(1, 28, 28, dtype=torch.uint8), torch.zeros(1, dtype=torch.uint8))
    run = RunPaths(folder / "ours")
    run.root.mkdir()
    space = parse_space(SPACE.format(trials=trials))
    progress = PlainProgress(Console(quiet=True))

    def go() -> float:
        """Run what is left; seconds until the first new trial would begin."""
        began = time.monotonic()
        history = read_history(run.journal, run.ledger)
        journal = Journal(run, history.elapsed_s)
        slots = resources.Slots(1, 0.0, 2)
        limit = Limit(Budget(), space, 2, lambda: journal.elapsed_s)
        cluster_run = tuner.run_search
        ready: list[float] = []

        def noted(*arguments: Any) -> None:
            ready.append(time.monotonic() - began)
            cluster_run(*arguments)

        patched.run_search = noted
        search.run(space, run, history, journal, digits, slots, limit, progress)
        patched.run_search = cluster_run
        return ready[0]

    with connection.connect(None):
        go()
    rows = marks.rows
    began = time.monotonic()
    with connection.connect(None):
        to_ready = go()
    return {"rows": rows, "resume_s": to_ready, "resume_all_s": time.monotonic() - began}


def run_stock(trials: int, every: int, folder: Path) -> dict[str, Any]:
    import ray
    from optuna.samplers import TPESampler
    from ray import tune
    from ray.tune import Callback
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    from crnn_search.spaces.file import parse_space

    space = parse_space(SPACE.format(trials=trials))
    marks = Marks(every)

    class Reporter(tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any]) -> None:
            self.reset_config(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.values, self.epoch = new_config, 0
            return True

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            pass

        def load_checkpoint(self, checkpoint: Any) -> None:
            pass

        def step(self) -> dict[str, Any]:
            self.epoch += 1
            return {"rmse": objective(self.values, self.epoch), "done": self.epoch >= 9}

    class Counter(Callback):  # type: ignore[misc]
        def on_trial_complete(
            self, iteration: int, trials: list[Any], trial: Any, **_: Any
        ) -> None:
            marks.one_more()

        def __getstate__(self) -> dict[str, Any]:
            return {}

    ray.init("local", include_dashboard=False, log_to_driver=False)
    tuner = tune.Tuner(
        tune.with_resources(Reporter, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(
                space.suggest,
                metric="rmse",
                mode="min",
                sampler=TPESampler(multivariate=True, group=True, constant_liar=True),
            ),
            scheduler=ASHAScheduler(
                metric="rmse", mode="min", max_t=9, grace_period=1, reduction_factor=3
            ),
            num_samples=trials,
            max_concurrent_trials=2,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="stock", storage_path=str(folder), callbacks=[Counter()], verbose=0
        ),
    )
    tuner.fit()
    rows = marks.rows
    ray.shutdown()
    began = time.monotonic()
    ray.init("local", include_dashboard=False, log_to_driver=False)
    start = time.monotonic()
    again = tune.Tuner.restore(str(folder / "stock"), tune.with_resources(Reporter, {"cpu": 1}))
    again.fit()
    return {
        "rows": rows,
        "resume_s": time.monotonic() - start,
        "resume_all_s": time.monotonic() - began,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--every", type=int, default=500)
    parser.add_argument("--only", choices=["ours", "stock"])
    arguments = parser.parse_args()
    if arguments.only:
        work = {"ours": run_ours, "stock": run_stock}[arguments.only]
        with tempfile.TemporaryDirectory() as folder:
            found = work(arguments.trials, arguments.every, Path(folder))
        print(json.dumps(found))
        return
    results: dict[str, Any] = {
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("ray", "optuna")},
        "cores": os.cpu_count(),
        "trials": arguments.trials,
    }
    for name in ("ours", "stock"):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.driver", "--only", name, "--trials",
             str(arguments.trials), "--every", str(arguments.every)],
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        results[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, json.dumps(results[name]), flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    _show(results)


def _show(results: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="trials that only report, two cores")
    for column in ("", "trials", "trials/s since the mark before", "driver's memory"):
        table.add_column(column)
    for name in ("ours", "stock"):
        rows = results[name]["rows"]
        for (n0, t0, _), (n1, t1, memory) in itertools.pairwise(rows):
            table.add_row(name, str(n1), f"{(n1 - n0) / (t1 - t0):.1f}", f"{memory:.0f} MB")
    Console().print(table)
    for name in ("ours", "stock"):
        found = results[name]
        print(
            f"{name}: {found['resume_s']:.1f} s to resume, "
            f"{found['resume_all_s']:.1f} s with Ray's start and end"
        )


if __name__ == "__main__":
    main()
