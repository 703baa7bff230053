"""The status of a run, from its own files: without Ray, while it runs or after it ended."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from crnn_search.errors import InputError, StorageError
from crnn_search.spaces.file import load_space
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage import ledger, stages
from crnn_search.storage.files import read_json
from crnn_search.storage.journal import SEARCH, History, read_history
from crnn_search.storage.lease import are_held, is_held
from crnn_search.storage.ledger import ranked
from crnn_search.storage.run_folder import (
    JOURNAL,
    LEDGER,
    MANIFEST,
    REPORT,
    STAGES,
    RunFolder,
)
from crnn_search.storage.runs import THREADS, list_runs
from crnn_search.storage.trial import METRIC, TrialRecord, TrialState
from crnn_search.text import duration, figure, first_line

TRAINING = (SEARCH, "finalists", "retrain")
"""The stages that train."""

FILES = (JOURNAL, LEDGER, STAGES, MANIFEST, REPORT)
"""What `read_status` reads of a run in an object store, beside its space."""

MAX_NAMES = 8
"""How many trials `plan` names; the others are counted."""


def read_status(
    run: RunFolder, held: bool | None = None, *, contents: bool = True
) -> dict[str, Any]:
    """All that is known of a run, ready for JSON.

    held: whether a process is working on the run; None to look. contents: look at the content of
    its files, not at their size only, to see which stages are done.

    `running_trials` of the answer: those that have not ended. `damaged`: files of stages that were
    done which are missing or altered. `notes`: what journal or ledger lacks.

    Raises:
        InputError: one of its files cannot be read.
    """
    try:
        return _read_status(run, held, contents=contents)
    except InputError as error:
        if not run.mirror:
            raise
        raise InputError(run.with_locations(str(error))) from error


def list_status(storage: str) -> list[tuple[RunFolder, dict[str, Any] | InputError]]:
    """The status of each run in a folder or at a URI by name, or why it cannot be read.

    Of runs in an object store little is read, and all heartbeats are waited for at once. Without
    journals of retrained runs, `elapsed_s`, `sessions` and time of finalists may be missing.

    Raises:
        InputError: there is no such folder, or it cannot be read.
    """
    runs = list_runs(storage, (LEDGER, STAGES, MANIFEST, REPORT))
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(_listed, runs))
    leased = [n for n, run in enumerate(runs) if run.mirror and run.mirror.was_leased]
    for number, held in zip(leased, are_held([runs[n] for n in leased]), strict=True):
        content = found[number]
        if isinstance(content, dict):
            content["held"] = held
    return list(zip(runs, found, strict=True))


def _listed(run: RunFolder) -> dict[str, Any] | InputError:
    try:
        if not run.has(run.best) or stages.has_grown(run):
            run.fetch(JOURNAL)  # says whether all trials have ended
        return read_status(run, held=False if run.mirror else None, contents=False)
    except InputError as error:
        return error
    except StorageError as error:
        return InputError(f"cannot read {run.location}: {error.reason}")
    except OSError as error:
        return InputError(f"cannot read {run.location}: {error.strerror}")


def _read_status(run: RunFolder, held: bool | None, *, contents: bool) -> dict[str, Any]:
    space = load_space(run.space)
    history = read_history(run.journal, run.ledger)
    ended = history.ended().trials
    held = is_held(run) if held is None else held
    stage = stage_of(run, history, space, contents=contents)
    report = _known(run.report_json) if stage == "finished" else {}
    return {
        "name": run.name,
        "location": run.location,
        "held": held,
        "stage": stage,
        "started": _known(run.manifest).get("created"),
        "extended": history.extension is not None,
        "trials": {"requested": _requested(history, space), **ledger.outcomes(history.ended())},
        "cut_because": sorted({str(r.reason) for r in ended if ledger.is_cut(r)}),
        "running_trials": [_running(record) for record in _open(history, stage)],
        "best": _best(ended),
        "compute": {
            "core_seconds": _spent(history, "core_seconds"),
            "gpu_seconds": _spent(history, "gpu_seconds"),
            "asha_saved_share": ledger.saved_share(ended, space.search.max_epochs),
        },
        "test_rmse": report.get("test", {}).get("rmse"),
        "elapsed_s": history.elapsed_s or float(sum(report.get("seconds", {}).values())),
        "sessions": history.sessions,
        "damaged": stages.damaged(run, contents=contents),
        "notes": [] if held else history.notes,  # a process may be writing what they miss
    }


def _known(path: Path) -> dict[str, Any]:
    """The content of a file that says more, if it is there and can be read."""
    try:
        found = read_json(path)
    except InputError:
        return {}
    return found if isinstance(found, dict) else {}


def _open(history: History, stage: str) -> list[TrialRecord]:
    """The trials that have not ended, of the stage that the run is in and of those before it.

    Those of later stages are of a search that has been extended since.
    """
    reached = TRAINING[: TRAINING.index(stage) + 1] if stage in TRAINING else ()
    return [r for name in reached for r in history.records(name).values() if not r.ended]


def stage_of(run: RunFolder, history: History, space: SearchSpace, *, contents: bool = True) -> str:
    """The stage that a run is in: search, finalists, retrain, report or finished.

    Raises:
        InputError: `stages.json` cannot be read, or a file that no stage can write again is not as
            the finished run had left it.
    """
    requested, first_open = _requested(history, space), stages.first_open(run, contents=contents)
    if requested > space.search.trials:
        return SEARCH
    if first_open is None:
        return "finished"
    if first_open == stages.FINALISTS:
        trials = history.records(SEARCH).values()
        complete = len(trials) >= requested and all(record.ended for record in trials)
        return "finalists" if complete or history.stage != SEARCH else SEARCH
    return "retrain" if first_open == stages.RETRAIN else "report"


def _requested(history: History, space: SearchSpace) -> int:
    """How many trials the search is to have; the space lacks those of an extension at first."""
    extension = history.extension
    return max(space.search.trials, extension["trials"] if extension else 0)


def describe(status: dict[str, Any]) -> str:
    """The status in some lines of plain text."""
    trials = status["trials"]
    ended = sum(trials[word] for word in ledger.ENDED)
    cut = f", {trials['cut']} cut when the search ended" if trials["cut"] else ""
    early = status["stage"] != SEARCH and ended < trials["requested"]
    lines = [
        ("trials", f"{ended} of {trials['requested']} ended: {trials['completed']} completed, "
                   f"{trials['stopped']} stopped early{cut}, {trials['failed']} failed"),
        *([("extended", f"to {trials['requested']} trials")] if status["extended"] else []),
        *([("cut", "the search ended before all trials were started")] if early else []),
        *(("cut", first_line(reason)) for reason in status["cut_because"]),
        *(("failed", f"{x['count']} × {first_line(x['reason'])}") for x in trials["failures"]),
        *_trial_lines(status),
        *_compute_lines(status["compute"]),
        ("elapsed", f"{duration(status['elapsed_s'])}, sessions: {status['sessions']}"),
        *(("damaged", f"{name}: removed, cut or altered") for name in status["damaged"]),
        *(("note", text) for text in status["notes"]),
    ]  # fmt: skip
    heading = f"{status['name']}: {_STAGE_WORDS[status['stage']]}"
    if status["stage"] != "finished":
        heading += ", running" if status["held"] else ", not running"
    return "\n".join([heading, *(f"  {word:<10} {text}" for word, text in lines)])


def plan(status: dict[str, Any]) -> str:
    """What `resume` will do, in one line."""
    trials, running = status["trials"], status["running_trials"]
    steps = []
    if running:
        named = [f"{trial['name']} from epoch {trial['epoch']}" for trial in running[:MAX_NAMES]]
        more = f" and {len(running) - MAX_NAMES} more" if len(running) > MAX_NAMES else ""
        steps.append(f"continue {', '.join(named)}{more}")
    if status["stage"] == SEARCH:
        started = sum(trials[word] for word in ledger.ENDED) + len(running)
        left = trials["requested"] - started
        steps += [f"start {left} more trial{'s' * (left > 1)}"] if left else []
    later = {SEARCH: 0, "finalists": 0, "retrain": 1, "report": 2, "finished": 3}
    steps += _NEXT[later[status["stage"]] :]
    return "resume will " + ", ".join(steps) if steps else "nothing is left to do"


_NEXT = ["repeat the finalists", "retrain the winner", "report"]
_STAGE_WORDS = {
    SEARCH: "searching",
    "finalists": "repeating the finalists",
    "retrain": "retraining",
    "report": "reporting",
    "finished": "finished",
}
_SPENT_WORDS = {
    "completed": "completed trials",
    "stopped": "stopped trials",
    "failed": "failed trials",
    "running": "running trials",
    "finalists": "finalists",
    "retrain": "retraining",
}


def _spent(history: History, key: str) -> dict[str, float]:
    """Core or GPU seconds by state of the search's trials, and by later stage."""
    search = list(history.records(SEARCH).values())
    spent = ledger.spent(search, key)
    spent["running"] = _sum((record for record in search if not record.ended), key)
    return spent | {stage: _sum(history.records(stage).values(), key) for stage in TRAINING[1:]}


def _sum(records: Iterable[TrialRecord], key: str) -> float:
    return float(sum(getattr(record, key) for record in records))


def _running(record: TrialRecord) -> dict[str, Any]:
    return {
        "name": record.trial.name,
        "epoch": record.epochs,
        "epochs": record.trial.epochs,
        METRIC: record.last_rmse,
    }


def _best(ended: list[TrialRecord]) -> dict[str, Any] | None:
    """The incumbent, if a trial has a validation RMSE."""
    best = next(iter(ranked(ended)), None)
    if best is None:
        return None
    return {
        "number": best.trial.number,
        METRIC: best.final_rmse,
        "epochs": best.epochs,
        "state": best.state,
        "config": best.trial.config.to_dict(),
    }


def _trial_lines(status: dict[str, Any]) -> list[tuple[str, str]]:
    """The running trials and the best one."""
    lines = []
    for trial in status["running_trials"]:
        rmse = "" if trial[METRIC] is None else f", validation RMSE {figure(trial[METRIC])}"
        text = f"{trial['name']}, epoch {trial['epoch']} of {trial['epochs']}{rmse}"
        lines.append(("running" if status["held"] else "started", text))
    if best := status["best"]:
        complete = best["state"] == TrialState.COMPLETE
        after = "" if complete else f" after {best['epochs']} epochs only"
        text = f"trial {best['number']}, validation RMSE {figure(best[METRIC])}{after}"
        lines.append(("best", text))
    return lines


def _compute_lines(compute: dict[str, Any]) -> list[tuple[str, str]]:
    """Core and GPU time by purpose, and what early stopping saved."""
    lines = []
    for key, word in (("core_seconds", "core time"), ("gpu_seconds", "GPU time")):
        spent = {name: seconds for name, seconds in compute[key].items() if seconds}
        if spent:
            parts = ", ".join(f"{_SPENT_WORDS[name]} {duration(s)}" for name, s in spent.items())
            lines.append((word, f"{duration(sum(spent.values()))}: {parts}"))
    if compute["asha_saved_share"] is not None:
        saved = f"{compute['asha_saved_share']:.0%} of the epochs by early stopping"
        lines.append(("saved", saved))
    return lines
