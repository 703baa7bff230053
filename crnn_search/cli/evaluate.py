"""The command evaluate: a model's errors on labelled sequences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from crnn_search import api
from crnn_search.cli import options, terminal
from crnn_search.cli.data import progress_bar
from crnn_search.errors import InputError
from crnn_search.text import counted


def evaluate(
    model: options.Model,
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A folder with metadata.csv, or an .npz file: its path or URI. For a model of "
            "digits mnist or a folder with MNIST's files, too.",
            show_default=False,
        ),
    ],
    target: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="The target. By default the one of the model."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="SPLIT",
            help="all, or a split of the data. By default test of the data that the model was "
            "trained on, all of others.",
        ),
    ] = None,
    as_json: options.AsJson = False,
    table: options.Table = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a picture, a PNG file, of the worst sequences."),
    ] = None,
    data_dir: options.DataDir = None,
) -> None:
    """Score a model on labelled sequences."""
    for name, path in (("--csv", table), ("--plot", plot)):
        if path is not None and not path.parent.is_dir():
            raise InputError(f"{name} must be in a folder that exists, got {path}")
    loaded = api.load_model(model)
    from crnn_search.pipeline import evaluation
    from crnn_search.pipeline.evaluation_data import Options

    wanted = Options(target, split, data_dir, picture=plot is not None)
    with progress_bar() as progress:
        found = evaluation.evaluate(loaded, data, wanted, progress)
    if table is not None:
        terminal.save(table, found.table.encode())
    if plot is not None and found.picture is not None:
        terminal.save(plot, found.picture)
    if as_json:
        terminal.show(json.dumps(found.figures, indent=2))
        return
    _show(found.figures)
    for path in (table, plot):
        if path is not None:
            terminal.show(f"written: {path}")


def _show(figures: Mapping[str, Any]) -> None:
    from crnn_search.results.formatting import interval, percent, r2

    score, sums = figures["score"], figures["task"]["sums"]
    terminal.show(_which(figures))
    known = f"  (95 % interval {interval(score['rmse_interval'])}, of other {_units(figures)})"
    rows = [("RMSE", _amount(figures, score["rmse"]) + known)]
    rows.append(("MAE", _amount(figures, score["mae"])))
    rows.append(
        ("exact sums", percent(score["exact_sum_rate"])) if sums else ("R²", r2(score["r2"]))
    )
    rows += [
        (_GUESSES[name], f"{_amount(figures, guess['rmse'])}  (RMSE, without an image)")
        for name, guess in figures["baselines"].items()
    ]
    for name, text in rows:
        terminal.show(f"  {name:<15} {text}")
    if len(score["rmse_by_length"]) > 1:
        terminal.show("")
        header, lines = _by_length(figures)
        terminal.show_table(header, lines, right=len(header) - 1)
    if figures["resized"]:
        size = " × ".join(map(str, figures["task"]["shape"][1:]))
        terminal.show(
            f"note: {counted(figures['resized'], 'image')} had another size and were resized to "
            f"{size} pixels with the Lanczos filter, proportions not kept"
        )
    for warning in figures["warnings"]:
        terminal.show(f"warning: {warning}")
    for kind, found in figures["input_warnings"].items():
        example = found["example"]
        where = f"{example['file']}: " if example.get("file") else ""
        times = "once" if found["count"] == 1 else f"{found['count']:,} times"
        terminal.show(f"warning: {kind} ({times}): {where}{example['message']}")


_GUESSES = {"mean_guess": "guess the mean", "count_only": "count only"}
"""Baselines as the terminal calls them."""


def _which(figures: Mapping[str, Any]) -> str:
    """Which sequences were evaluated, and why."""
    found, split, of = figures["sequences"], figures["split"], counted(figures["images"], "image")
    every = counted(found["found"], "sequence")
    those = f"{'all ' * (found['found'] > 1)}{every}"
    if figures["groups"] is None:
        return f"{figures['data']}: the {every} of the report's test, {of}"
    if split is not None:
        those = f"the split {split}, {found['evaluated']:,} of {every}"
    if split is None and found["by_split"]:
        parts = (
            f"{count:,} {name or 'without a split'}" for name, count in found["by_split"].items()
        )
        those += f" ({', '.join(parts)})"
    if figures["own_data"]:
        those += "; the model was trained on this data set"
    target = "" if figures["target"] == "target" else f"; target {figures['target']}"
    return f"{figures['data']}: {those}, {of}{target}"


def _units(figures: Mapping[str, Any]) -> str:
    """What intervals resample."""
    groups = figures["groups"]
    if groups is None:
        return "images"
    return "sequences" if groups == figures["score"]["sequences"] else "groups"


def _by_length(figures: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table by length."""
    from crnn_search.results.formatting import interval, number, percent

    score, sums = figures["score"], figures["task"]["sums"]
    guess = figures["baselines"].get("count_only")
    header = ["images", "sequences", "RMSE", "95 % interval", "MAE"]
    header += ["exact sums", "count only"] if sums else []
    rows = []
    for length, rmse in score["rmse_by_length"].items():
        row = [
            length, f"{score['sequences_by_length'][length]:,}", number(rmse),
            interval(score["rmse_interval_by_length"][length]),
            number(score["mae_by_length"][length]),
        ]  # fmt: skip
        if sums:
            row.append(percent(score["exact_sum_rate_by_length"][length]))
            row.append(number(guess["rmse_by_length"][length]))
        rows.append(row)
    return header, rows


def _amount(figures: Mapping[str, Any], value: float) -> str:
    """A figure in the target's unit."""
    from crnn_search.results.formatting import number

    unit = figures["task"]["unit"]
    return number(value) + (f" {unit}" if unit else "")
