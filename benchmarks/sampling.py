"""Which search finds more for its compute? `python -m benchmarks.sampling`.

Every search of `benchmarks.variants`, 30 times, on recorded learning curves (`benchmarks.replay`)
with four workers and the compute that the stock stack needs for 100 trials, and a quarter more. The
best trial is that with the lowest reading among those that trained longest; what counts is its
configuration's RMSE without noise. Writes `results/sampling.json` and its table in
`docs/results.md`. With `--only` the rows of other searches are kept, if they are of the same
recordings.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.landscape import CEILING, recorded
from benchmarks.replay import quiet, replay
from benchmarks.table import interval, replace_section
from benchmarks.variants import REFERENCE, VARIANTS, space_of

RESULTS = Path(__file__).parent / "results" / "sampling.json"
PAGE = Path(__file__).parents[1] / "docs" / "results.md"
WORKERS, TRIALS, MORE = 4, 100, 1.25
GRID = np.linspace(0, MORE, 126)
"""Shares of the compute of the stock stack."""


def search(name: str, seed: int, trials: int, core_s: float) -> tuple[list[float], list[float]]:
    """One search: core seconds spent after each epoch, and the RMSE of the best trial then.

    It ends after `trials` trials, or after `core_s` core seconds.
    """
    found = VARIANTS[name](space_of(seed), trials)
    spent, best, rank = 0.0, CEILING, (0.0, 0.0)
    times, values = [], []
    for step in replay(found, WORKERS):
        spent += step.seconds
        if (now := (-float(step.epoch), step.validation_rmse)) < rank:
            rank, best = now, step.truth
        times.append(spent)
        values.append(best)
        if spent >= core_s:
            break
    return times, values


def on_grid(times: list[float], values: list[float], core_s: float) -> np.ndarray:
    """The RMSE of the best trial at each share of `core_s`."""
    places = np.searchsorted(times, GRID * core_s, side="right") - 1
    return np.where(places < 0, CEILING, np.array(values)[places])


def needed(rmse: np.ndarray, reference: np.ndarray) -> float:
    """The share of the compute after which the mean RMSE is what the reference has at 1.

    rmse, reference: `(repeats, shares)`. Infinite if it is not reached.
    """
    level = reference[:, _at(1.0)].mean()
    reached = np.flatnonzero(rmse.mean(0) <= level)
    return float(GRID[reached[0]]) if len(reached) else float("inf")


def _at(share: float) -> int:
    return int(np.argmin(np.abs(GRID - share)))


def row(rmse: np.ndarray, reference: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """What is known of one kind of search; resampling takes the same repeats of both."""
    draws = rng.integers(0, len(rmse), (2000, len(rmse)))
    shares = [needed(rmse[draw], reference[draw]) for draw in draws]
    low, high = (float(q) for q in np.quantile(shares, [0.025, 0.975], method="inverted_cdf"))
    full = rmse[:, _at(1.0)]
    return {
        "half": float(rmse[:, _at(0.5)].mean()),
        "half_interval": interval(rmse[:, _at(0.5)].tolist(), rng),
        "full": float(full.mean()),
        "full_interval": interval(full.tolist(), rng),
        "minus_reference": float((full - reference[:, _at(1.0)]).mean()),
        "minus_reference_interval": interval((full - reference[:, _at(1.0)]).tolist(), rng),
        "needed": _finite(needed(rmse, reference)),
        "needed_interval": [_finite(low), _finite(high)],
    }


def _finite(share: float) -> float | None:
    return share if share <= MORE else None


def summarise(curves: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """A row for each kind of search."""
    rng = np.random.default_rng(0)
    return {name: row(rmse, curves[REFERENCE], rng) for name, rmse in curves.items()}


def markdown(results: dict[str, Any]) -> str:
    """The section of `docs/results.md`."""
    lines = [
        f"`python -m benchmarks.sampling` ([figures](../benchmarks/results/sampling.json)): "
        f"{results['repeats']} seeded searches of each kind on {results['recorded']} recorded "
        f"configurations, {WORKERS} workers. Each estimated from the others, "
        f"{results['explained']:.0%} of the variance of the last log RMSE is explained; "
        f"{results['explained_seconds']:.0%} of that of the seconds, by arithmetic.",
        "",
        f"Compute 1 is what the stock stack spends on {TRIALS} trials, the mean of its searches; "
        f"`>{MORE:g}`: not reached with {MORE:g} of it. Means, 95 % intervals.",
        "",
        "| search | RMSE at compute 1/2 | RMSE at compute 1 | minus stock "
        "| compute for stock's RMSE |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, found in sorted(results["searches"].items(), key=lambda item: item[1]["full"]):
        lines.append(
            f"| {name} | {_span(found, 'half')} | {_span(found, 'full')} "
            f"| {_span(found, 'minus_reference')} | {_shares(found)} |"
        )
    return "\n".join([*lines, ""])


def _span(found: dict[str, Any], name: str) -> str:
    low, high = found[f"{name}_interval"]
    return f"{found[name]:.3f} ({low:.3f} to {high:.3f})"


def _shares(found: dict[str, Any]) -> str:
    low, high = (_share(value) for value in found["needed_interval"])
    return f"{_share(found['needed'])} ({low} to {high})"


def _share(value: float | None) -> str:
    return f">{MORE:g}" if value is None else f"{value:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=[*VARIANTS], default=[*VARIANTS])
    arguments = parser.parse_args()
    seeds = range(arguments.repeats)
    start = time.monotonic()
    curves: dict[str, np.ndarray] = {}
    with ProcessPoolExecutor(arguments.processes, initializer=quiet) as pool:
        first = list(pool.map(search, *_arguments(REFERENCE, seeds, TRIALS, float("inf"))))
        core_s = statistics.fmean(times[-1] for times, _ in first)
        print(f"compute 1: {core_s:.0f} core seconds", flush=True)
        # Their trials are not limited, so that all spend as much.
        waiting: dict[str, list[Future[tuple[list[float], list[float]]]]] = {
            name: [pool.submit(search, name, seed, 10 * TRIALS, MORE * core_s) for seed in seeds]
            for name in dict.fromkeys([REFERENCE, *arguments.only])
        }
        for name, futures in waiting.items():
            found = [future.result() for future in futures]
            curves[name] = np.array([on_grid(*one, core_s) for one in found])
            print(f"{time.monotonic() - start:.0f} s: {name}", flush=True)
            write(curves, core_s)
    print(PAGE.read_text().split("<!-- sampling:begin -->")[1].split("<!-- sampling:end -->")[0])


def write(curves: dict[str, np.ndarray], core_s: float) -> None:
    """Write what is known so far, and keep what is known of other kinds."""
    results = {
        "recorded": len(recorded().x),
        "explained": recorded().explained(),
        "explained_seconds": recorded().explained_seconds(),
        "repeats": len(curves[REFERENCE]),
        "core_s": core_s,
        "searches": summarise(curves),
    }
    _keep_others(results)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    replace_section(PAGE, "sampling", markdown(results))


def _keep_others(results: dict[str, Any]) -> None:
    """Add what an earlier run on the same recordings found of other searches."""
    if not RESULTS.exists():
        return
    earlier = json.loads(RESULTS.read_text())
    if all(earlier.get(key) == results[key] for key in ("explained", "repeats", "core_s")):
        known = {name: row for name, row in earlier["searches"].items() if name in VARIANTS}
        results["searches"] = known | results["searches"]


def _arguments(name: str, seeds: range, trials: int, core_s: float) -> list[list[Any]]:
    count = len(seeds)
    return [[name] * count, list(seeds), [trials] * count, [core_s] * count]


if __name__ == "__main__":
    main()
