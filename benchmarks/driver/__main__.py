"""The driver under many trials: `python -m benchmarks.driver`.

Trials that only report, on two cores: this project's searcher, scheduler and callback beside the
stock set-up (`OptunaSearch`, `ASHAScheduler`, Ray's default loggers and snapshots), each in a
process of its own. Trials per second and the driver's memory as trials end, and the time to resume.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parents[1] / "results" / "driver.json"
DRIVERS = ("ours", "stock")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--every", type=int, default=500)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--only", choices=DRIVERS)
    arguments = parser.parse_args()
    if arguments.only:
        driver = importlib.import_module(f"benchmarks.driver.{arguments.only}")
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(driver.run(arguments.trials, arguments.every, Path(folder))))
        return
    results: dict[str, Any] = {
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("ray", "optuna")},
        "cores": os.cpu_count(),
        "trials": arguments.trials,
    }
    for name in DRIVERS:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.driver", "--only", name, "--trials",
             str(arguments.trials), "--every", str(arguments.every)],
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        results[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, json.dumps(results[name]), flush=True)
    arguments.output.write_text(json.dumps(results, indent=2) + "\n")
    _show(results)


def _show(results: dict[str, Any]) -> None:
    table = Table(title="trials that only report, two cores")
    for column in ("", "trials", "trials/s since the row above", "driver's memory"):
        table.add_column(column)
    for name in DRIVERS:
        rows = results[name]["rows"]
        for (n0, t0, _), (n1, t1, memory) in itertools.pairwise(rows):
            table.add_row(name, str(n1), f"{(n1 - n0) / (t1 - t0):.1f}", f"{memory:.0f} MB")
    Console().print(table)
    for name in DRIVERS:
        found = results[name]
        print(
            f"{name}: {found['resume_s']:.1f} s to resume, "
            f"{found['resume_all_s']:.1f} s with Ray's start and end"
        )


if __name__ == "__main__":
    main()
