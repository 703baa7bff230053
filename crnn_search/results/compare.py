"""Runs side by side: what differs in their spaces, trials to an RMSE, winners on the same tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from crnn_search.errors import InputError
from crnn_search.results import scored as scoring
from crnn_search.results import scores
from crnn_search.results.assemble import assemble_search
from crnn_search.results.formatting import interval, number, plain, table, time
from crnn_search.results.page import search_charts
from crnn_search.results.page.document import Block, Chart, Page, Section, Text
from crnn_search.results.page.render import to_html
from crnn_search.results.report import is_scored
from crnn_search.results.schema import Incumbent, SearchReport
from crnn_search.results.scored import WINNER, Scored
from crnn_search.storage import stages
from crnn_search.storage.files import read_json, write_text
from crnn_search.storage.journal import read_history
from crnn_search.storage.ledger import ENDED
from crnn_search.storage.run_folder import RunFolder
from crnn_search.text import cut


@dataclass(frozen=True)
class Compared:
    """A run that is compared. label: its name, unique. best: what `best.json` says.

    scored: None unless the run has its report.
    """

    label: str
    report: SearchReport
    best: Mapping[str, Any] | None
    scored: Scored | None


@dataclass(frozen=True)
class Part:
    """A part of a comparison: a table of plain texts, which may have no rows, and a note."""

    title: str
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """Runs side by side. page: the parts with charts."""

    parts: list[Part]
    page: Page


def compare_runs(runs: Sequence[RunFolder], rmse: Sequence[float] = ()) -> Comparison:
    """Compare runs. rmse: levels of validation RMSE; by default the best of each run.

    Raises:
        InputError: a file of a run is missing or was altered.
    """
    found = [_read(run, label) for run, label in zip(runs, _labels(runs), strict=True)]
    parts = [_overview(found), _differences(found), _reached(found, rmse), _winners(found)]
    charts = {2: _charts(found)}
    sections = [
        Section(f"part-{place}", part.title, [*charts.get(place, []), Text(_markdown(part))])
        for place, part in enumerate(parts)
    ]
    title = cut("crnn-search compare: " + ", ".join(run.label for run in found))
    return Comparison(parts, Page(title, [], [], sections))


def _markdown(part: Part) -> str:
    rows = [[plain(cell) for cell in row] for row in part.rows]
    found = [table([plain(name) for name in part.header], rows)] if rows else []
    return "\n\n".join([*found, plain(part.note)])


def write_page(comparison: Comparison, path: Path) -> None:
    """Write the page of a comparison.

    Raises:
        InputError: the folder does not exist.
        StorageError: it cannot be written.
    """
    if not path.parent.is_dir():
        raise InputError(f"--html must be in a folder that exists, got {path}")
    write_text(path, to_html(comparison.page))


def _labels(runs: Sequence[RunFolder]) -> list[str]:
    """The name of each run; where two have the same, its location."""
    names = [run.name for run in runs]
    return [run.name if names.count(run.name) == 1 else run.location for run in runs]


def _read(run: RunFolder, label: str) -> Compared:
    report = assemble_search(run, read_history(run.journal, run.ledger))
    done = stages.is_recorded(run, stages.FINALISTS, run.best)
    scored = scoring.read(run) if is_scored(run) else None
    return Compared(label, report, read_json(run.best) if done else None, scored)


def _overview(runs: Sequence[Compared]) -> Part:
    header = [
        "run",
        "trials",
        "completed",
        "core time",
        "best RMSE",
        "winner",
        "test RMSE",
        "95 % interval",
        "ensemble",
    ]
    rows = []
    for run in runs:
        trials, cores = run.report["trials"], run.report["compute"]["core_seconds"]
        score = run.scored and scores.score(list(run.scored.predictions[WINNER]), run.scored.table)
        rows.append(
            [
                run.label, str(sum(trials[word] for word in ENDED)),
                str(trials["completed"]), time(sum(cores.values())),
                number(_best(run)) if run.report["incumbents"] else "–",
                f"trial {run.best['number']}" if run.best else "–",
                number(score.rmse) if score else "not finished",
                interval(score.rmse_interval) if score else "–",
                _ensemble(run.scored),
            ]
        )  # fmt: skip
    return Part("The runs", header, rows)


def _ensemble(scored: Scored | None) -> str:
    """The test RMSE of the mean of the seeds' predictions, if there are two seeds at least."""
    seeds = list(scored.predictions[WINNER]) if scored else []
    if scored is None or len(seeds) < 2:
        return "–"
    return number(scores.score([scores.mean_prediction(seeds)], scored.table).rmse)


def _best(run: Compared) -> float:
    return run.report["incumbents"][-1]["validation_rmse"]


def _differences(runs: Sequence[Compared]) -> Part:
    """The values of spaces and of winners that are not the same in all runs."""
    spaces = [dict(_flat(run.report["space"])) | _searched(run) for run in runs]
    winners = [
        {f"winner: {k}": _text(v) for k, v in run.best["config"].items()} if run.best else {}
        for run in runs
    ]
    values = [space | winner for space, winner in zip(spaces, winners, strict=True)]
    names = list(dict.fromkeys(name for found in values for name in found))
    rows = [
        [name, *(found.get(name, "–") for found in values)]
        for name in names
        if len({found.get(name) for found in values}) > 1
    ]
    note = "" if rows else "Nothing: their spaces and winners are the same."
    return Part("What differs", ["", *(run.label for run in runs)], rows, note)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested values by dotted name, as texts."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _text(value)


def _searched(run: Compared) -> dict[str, str]:
    return {f"space.{name}": _text(value) for name, value in run.report["searched"].items()}


def _text(value: Any) -> str:
    """A value as in a search space file, in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6)
    return text.removesuffix("...\n").strip()


def _reached(runs: Sequence[Compared], rmse: Sequence[float]) -> Part:
    """After how many trials and how much core time each run had an incumbent so good."""
    title = "Trials to an RMSE"
    if reason := _other_validation(runs):
        return Part(title, note=f"Left out: {reason}.")
    levels = rmse or sorted({_best(run) for run in runs if run.report["incumbents"]}, reverse=True)
    if not levels:
        return Part(title, note="No run has a trial that completed its full budget.")
    rows = [
        [number(level), *(_when(run.report["incumbents"], level) for run in runs)]
        for level in levels
    ]
    note = (
        "Ended trials, and the core time of all of them, until a trial with the full budget had "
        "such a validation RMSE or a lower one."
    )
    return Part(title, ["validation RMSE", *(run.label for run in runs)], rows, note)


def _when(incumbents: Sequence[Incumbent], level: float) -> str:
    for item in incumbents:
        if item["validation_rmse"] <= level:
            return f"{item['trials']} trials, {time(item['core_seconds'])}"
    return "never"


def _other_validation(runs: Sequence[Compared]) -> str | None:
    """Why validation RMSEs cannot be compared, if so."""
    tasks = {str([r["space"]["task"], r["run"]["data_sha256"]]) for r in (c.report for c in runs)}
    if len(tasks) > 1:
        return "the runs have different tasks, so that their RMSEs are of different sequences"
    budgets = {
        (
            run.report["space"]["search"]["max_epochs"],
            run.report["space"]["search"]["epoch_sequences"],
        )
        for run in runs
    }
    if len(budgets) > 1:
        return "the full budget of a trial is not the same"
    return None


def _winners(runs: Sequence[Compared]) -> Part:
    """The difference of each winner's test RMSE to the first one's."""
    title = "Winners on the same test sequences"
    scored = [(run.label, run.scored) for run in runs if run.scored]
    if len(scored) < 2:
        return Part(title, note="Left out: fewer than two runs are finished.")
    label, first = scored[0]
    rows = []
    for other, one in scored[1:]:
        if not _same_tests(first, one):
            rows.append([other, "other test sequences", "–", "–"])
            continue
        theirs, ours = (list(found.predictions[WINNER]) for found in (one, first))
        difference = scores.paired_difference(theirs, ours, first.table)
        ratio = "missing" if difference.ratio is None else f"{difference.ratio:.3f}"
        rows.append([other, number(difference.difference), interval(difference.interval), ratio])
    note = (
        f"Each run's test RMSE less that of {label}. An interval that holds 0 says that neither is "
        "clearly better."
    )
    header = ["", "difference of test RMSE", "95 % interval, paired", "ratio"]
    return Part(title, header, rows, note)


def _same_tests(a: Scored, b: Scored) -> bool:
    """Whether two runs were scored on the same sequences."""
    pairs = [
        (getattr(a.table, name), getattr(b.table, name))
        for name in ("indices", "lengths", "targets")
    ]
    same_task = a.facts["task"]["data"] == b.facts["task"]["data"]
    return same_task and all(torch.equal(one, other) for one, other in pairs)


def _charts(runs: Sequence[Compared]) -> list[Block]:
    """The incumbents of all runs over trials and core-hours."""
    if _other_validation(runs):
        return []
    shown = (
        ("trials", "ended trials", lambda run: sum(run.report["trials"][word] for word in ENDED)),
        ("core_seconds", "core-hours", _core_seconds),
    )
    return [
        Chart(
            f"incumbents-{key}",
            f"The best full-budget trial over {x}",
            search_charts.incumbents(
                {run.label: (run.report["incumbents"], end(run)) for run in runs},
                key,
                x,
                "validation RMSE",
            ),
            wide=False,
        )
        for key, x, end in shown
    ]


def _core_seconds(run: Compared) -> float:
    """Of all ended trials."""
    spent = run.report["compute"]["core_seconds"]
    return sum(spent[word] for word in ("completed", "stopped", "failed"))
