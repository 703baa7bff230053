"""How does a search scale? `python -m benchmarks.simulate`.

Searches over `search_spaces/default.yaml` are replayed on recorded learning curves
(`benchmarks.record_curves`) through the real searcher and scheduler, with a simulated clock and 1
to 1,000 workers. A configuration that was not recorded gets the curve and the speed of its nearest
recorded neighbours (`benchmarks.landscape`). Writes `results/simulate.json`, and its section and
plot in `docs/cluster.md`.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.landscape import recorded
from benchmarks.record_curves import EPOCHS, SEQUENCES, SPACE
from benchmarks.replay import quiet, replay
from benchmarks.table import replace_section
from benchmarks.variants import space_of, today

RESULTS = Path(__file__).parent / "results" / "simulate.json"
PAGE = Path(__file__).parents[1] / "docs" / "cluster.md"
PLOT = PAGE.with_name("simulation.png")
WORKERS = (1, 4, 16, 64, 256, 1000)
LEVELS = (2.0, 1.5, 1.3)
"""Levels of validation RMSE; the time to reach each is measured."""

ABOUT = """\
Written by `python -m benchmarks.simulate` ([figures](../benchmarks/results/simulate.json)). The
real searcher and scheduler, a simulated clock, no training: each epoch's RMSE and seconds come from
{recorded} configurations recorded for `{space}` ({epochs} epochs of {sequences:,} sequences, a core
each): a Gaussian process over the hyperparameters gives a configuration's curve, with the noise of
one training as recorded with two seeds; its time comes from its arithmetic. Estimating each
recorded configuration from the others explains {explained:.0%} of the variance of the last RMSE's
logarithm.

Times are in recorded seconds, of epochs of a few seconds: read their ratios. They leave out the
time to start a worker, to save, and the driver's own time. The last column has the driver's time
for searcher and scheduler, in real seconds of one core."""

ENOUGH = 0.8
"""Below this share of busy workers a search is too small for them."""

WORDS = {"factor": "`reduction_factor`", "grace": "`grace_epochs`", "trials": "`trials`"}
MANY, COMMON = 1000, {"trials": 128, "workers": 16, "factor": 3, "grace": 9}
VARIED: dict[str, tuple[int, ...]] = {
    "factor": (2, 3, 4),
    "grace": (1, 3, 9, 13),
    "trials": (32, 64, 128, 256),
}


def search(trials: int, workers: int, factor: int, grace: int, seed: int) -> dict[str, Any]:
    """One search. Times are of the recorded core: seconds."""
    start = time.monotonic()
    found = today(space_of(seed), trials, grace=grace, factor=factor)
    steps = list(replay(found, workers))
    whole, busy = steps[-1].now, sum(step.seconds for step in steps)
    full = [step.validation_rmse for step in steps if step.epoch == EPOCHS]
    return {
        "seconds": whole,
        "core_seconds": busy,
        "utilisation": busy / (workers * whole),
        "full_budget_trials": len(full),
        "best": min(full),
        "reached_s": {
            str(level): next((step.now for step in steps if step.validation_rmse <= level), None)
            for level in LEVELS
        },
        "driver_s": time.monotonic() - start,
    }


def mean(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over repeats; of times to reach a level, over those that reached it, and how many."""
    result: dict[str, Any] = {"repeats": len(rows), "spread": {}}
    for name in (
        "seconds",
        "core_seconds",
        "utilisation",
        "full_budget_trials",
        "best",
        "driver_s",
    ):
        values = [row[name] for row in rows]
        result[name] = statistics.fmean(values)
        result["spread"][name] = [min(values), max(values)]
    result["reached_s"] = {}
    for level in map(str, LEVELS):
        times = [row["reached_s"][level] for row in rows if row["reached_s"][level] is not None]
        result["reached_s"][level] = {
            "mean": statistics.fmean(times) if times else None,
            "reached": len(times),
        }
    return result


def settings(many_repeats: int, repeats: int) -> list[tuple[str, dict[str, int], int]]:
    """Kind, arguments and number of repeats of each row."""
    rows = [
        ("workers", COMMON | {"trials": MANY, "workers": workers}, many_repeats)
        for workers in WORKERS
    ]
    for name, values in VARIED.items():
        rows += [(name, COMMON | {name: value}, repeats) for value in values]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--many-repeats", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    start = time.monotonic()
    found: dict[str, list[Any]] = {}
    with ProcessPoolExecutor(arguments.processes, initializer=quiet) as pool:
        rows = [
            (kind, row, [pool.submit(search, **row, seed=seed) for seed in range(repeats)])
            for kind, row, repeats in settings(arguments.many_repeats, arguments.repeats)
        ]
        for kind, row, futures in rows:
            entry = row | mean([future.result() for future in futures])
            found.setdefault(kind, []).append(entry)
            print(kind, row, f"{time.monotonic() - start:.0f} s", flush=True)
    results = {
        "recorded": len(recorded().x),
        "explained": recorded().explained(),
        "took_s": time.monotonic() - start,
        **found,
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    plot(results, PLOT)
    replace_section(PAGE, "simulation", document(results))


def plot(results: dict[str, Any], path: Path) -> None:
    """Time to reach each level, and utilisation, by number of workers."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = results["workers"]
    workers = [row["workers"] for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for level in map(str, LEVELS):
        times = [row["reached_s"][level]["mean"] for row in rows]
        points = [(w, t) for w, t in zip(workers, times, strict=True) if t is not None]
        left.plot(*zip(*points, strict=True), marker="o", label=f"RMSE {level}")
    whole = [row["seconds"] for row in rows]
    left.plot(workers, whole, marker="s", color="grey", label=f"all {MANY:,} trials")
    left.plot(workers, [whole[0] / n for n in workers], ":", color="grey", label="ideal")
    left.set(xscale="log", yscale="log", xlabel="workers", ylabel="simulated seconds")
    left.legend()
    right.plot(workers, [100 * row["utilisation"] for row in rows], marker="o")
    right.set(xscale="log", xlabel="workers", ylabel="workers that train, %", ylim=(0, 105))
    for axes in (left, right):
        axes.set_xticks(workers, [str(n) for n in workers])
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def document(results: dict[str, Any]) -> str:
    """The section of `docs/cluster.md`."""
    first = results["workers"][0]
    head = "| " + " | ".join(f"RMSE {level}" for level in LEVELS)
    text = [
        *ABOUT.format(
            recorded=results["recorded"],
            explained=results["explained"],
            space=SPACE,
            epochs=EPOCHS,
            sequences=SEQUENCES,
        ).splitlines(),
        "",
        "### Workers",
        "",
        f"{MANY:,} trials, `reduction_factor` {COMMON['factor']}, "
        f"`grace_epochs` {COMMON['grace']}, {first['repeats']} "
        f"{'search' if first['repeats'] == 1 else 'searches'} each. Seconds",
        "until the first validation RMSE at or below a level, in any epoch of any trial:",
        "",
        "![time and utilisation by number of workers](simulation.png)",
        "",
        f"| workers {head} | all trials | utilisation | best | driver, real s |",
        "| --: " + "| --: " * (len(LEVELS) + 4) + "|",
    ]
    for row in results["workers"]:
        text.append(
            f"| {row['workers']:,} | {_reached(row)} | {row['seconds']:,.0f} "
            f"| {row['utilisation']:.0%} | {row['best']:.2f} | {row['driver_s']:.0f} |"
        )
    common = ", ".join(f"{name} {value}" for name, value in COMMON.items())
    text += [
        "",
        "### Settings",
        "",
        f"One setting varied at a time from: {common}. Means of "
        f"{results['trials'][0]['repeats']} searches, with the lowest and highest",
        "best RMSE of a full-budget trial.",
        "",
        f"| varied {head} | all trials | core time | full-budget trials | best |",
        "| --- " + "| --: " * (len(LEVELS) + 4) + "|",
    ]
    for name in VARIED:
        for row in results[name]:
            low, high = row["spread"]["best"]
            text.append(
                f"| {WORDS[name]} {row[name]} | {_reached(row)} | {row['seconds']:,.0f} "
                f"| {row['core_seconds']:,.0f} | {row['full_budget_trials']:.1f} "
                f"| {row['best']:.2f} ({low:.2f}–{high:.2f}) |"
            )
    return "\n".join([*text, "", *recommendation(results), ""])


def recommendation(results: dict[str, Any]) -> list[str]:
    """The table of recommendations for each number of workers and each setting."""
    base, level = results["workers"][0], str(LEVELS[1])
    rows = ["### Recommended", "", "| | gain over one worker | use |", "| --- | --- | --- |"]
    for row in results["workers"]:
        reached, first = row["reached_s"][level]["mean"], base["reached_s"][level]["mean"]
        gain = f"{first / reached:,.1f}× to RMSE {level}" if reached and first else "not reached"
        well = "as it is" if row["utilisation"] >= ENOUGH else "more trials, or fewer workers"
        rows.append(
            f"| {row['workers']:,} worker{'s' * (row['workers'] > 1)}, "
            f"{MANY / row['workers']:,.0f} trial{'s' * (row['workers'] < MANY)} each "
            f"| {base['seconds'] / row['seconds']:,.1f}× for all trials, {gain} "
            f"| {well} ({row['utilisation']:.0%} used) |"
        )
    rows += [
        "",
        f"| setting | soonest at RMSE {level} | lowest RMSE in the end | least core time |",
    ]
    rows.append("| --- | --- | --- | --- |")
    for name in VARIED:
        best = [
            min(results[name], key=measure)[name]
            for measure in (
                lambda row: row["reached_s"][level]["mean"] or math.inf,
                lambda row: row["best"],
                lambda row: row["core_seconds"],
            )
        ]
        rows.append(f"| {WORDS[name]} | " + " | ".join(map(str, best)) + " |")
    return rows


def _reached(row: dict[str, Any]) -> str:
    cells = []
    for level in map(str, LEVELS):
        entry = row["reached_s"][level]
        some = (
            ""
            if entry["reached"] == row["repeats"]
            else f" ({entry['reached']} of {row['repeats']})"
        )
        cells.append("never" if entry["mean"] is None else f"{entry['mean']:,.0f}{some}")
    return " | ".join(cells)


if __name__ == "__main__":
    main()
