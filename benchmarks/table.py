"""From measurements to medians, ratios of pairs, intervals, and a Markdown table."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.circumstances import in_words

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"

OURS = "ours"
TITLES = {OURS: "crnn-search", "ray": "Ray's recipe", "optuna": "Optuna alone", "keras": "Keras 3"}

Measured = dict[str, dict[str, list[Any]]]
"""Of each engine, by repeat: `epochs_per_hour`, `start_s`, `validation_rmse` (both trials)."""


def summarise(measured: Measured) -> dict[str, dict[str, Any]]:
    """Of each engine its median speed, and its ratios and differences to ours in pairs."""
    ours = measured[OURS]
    rows = {}
    for name, found in measured.items():
        pairs = zip(ours["epochs_per_hour"], found["epochs_per_hour"], strict=True)
        gaps = _rmse(found) - _rmse(ours)
        rows[name] = {
            "epochs_per_hour": spread(found["epochs_per_hour"]),
            "ours_times_as_fast": spread([a / b for a, b in pairs]),
            "start_s": spread(found["start_s"]),
            "validation_rmse": float(_rmse(found).mean()),
            "rmse_minus_ours": float(gaps.mean()),
            "rmse_minus_ours_interval": interval(gaps.tolist(), np.random.default_rng(0)),
        }
    return rows


def _rmse(measured: dict[str, list[Any]]) -> np.ndarray:
    """The validation RMSE of all trials."""
    return np.array(measured["validation_rmse"]).ravel()


def interval(values: list[float], rng: np.random.Generator) -> list[float]:
    """95 % interval of the mean, by bootstrap."""
    draws = rng.choice(np.array(values), (10_000, len(values))).mean(1)
    return [float(q) for q in np.quantile(draws, [0.025, 0.975])]


def spread(values: Sequence[float]) -> list[float]:
    """Median, lowest, highest."""
    return [statistics.median(values), min(values), max(values)]


def markdown(results: dict[str, Any]) -> str:
    """The table, and below it what it depends on."""
    lines = [
        "| network | | trial-epochs/h | ours is faster by a factor of | start, s "
        "| validation RMSE | RMSE minus ours, 95 % interval |",
        "| --- | --- | --: | --: | --: | --: | --: |",
    ]
    for network, rows in results["summary"].items():
        for name, row in rows.items():
            speed, ratio = row["epochs_per_hour"], row["ours_times_as_fast"]
            gap, (low, high) = row["rmse_minus_ours"], row["rmse_minus_ours_interval"]
            is_ours = name == OURS
            cells = [
                network,
                TITLES[name],
                f"{speed[0]:,.0f} ({speed[1]:,.0f}–{speed[2]:,.0f})",
                "" if is_ours else f"**{ratio[0]:.1f}** ({ratio[1]:.1f}–{ratio[2]:.1f})",
                f"{row['start_s'][0]:.1f}",
                f"{row['validation_rmse']:.2f}",
                "" if is_ours else f"{gap:+.3f} ({low:+.3f} to {high:+.3f})",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    sizes = "; ".join(
        f"{network}: {sequences:,} training and {sequences // 3:,} validation sequences an epoch, "
        f"{epochs} epochs"
        for network, (sequences, epochs) in results["sizes"].items()
    )
    chosen = "; ".join(
        f"{network}: num_workers {choice['num_workers']}, Keras on {choice['backend']}"
        for network, choice in results["choices"].items()
    )
    lines += [
        "",
        f"{sizes}. {results['repeats']} repeats in turn, two trials at once; medians "
        f"(lowest–highest). {chosen}. {in_words(results)}; "
        f"{results['minutes']:.0f} minutes.",
    ]
    return "\n".join(lines) + "\n"


def replace_section(path: Path, name: str, text: str) -> None:
    """Write `text` between a file's markers `<!-- NAME:begin -->` and `<!-- NAME:end -->`."""
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->\n"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    page, found = pattern.subn(lambda _: begin + text + end, path.read_text(encoding="utf-8"))
    if not found:
        raise ValueError(f"{path.name} has no section between {begin.strip()} and {end.strip()}")
    path.write_text(page, encoding="utf-8")
