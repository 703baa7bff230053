"""Where a run stands, read from its own files: without Ray, while it runs or after it died."""

from __future__ import annotations

from typing import Any

from crnn_search.spaces.file import load_space
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage import jsonl, ledger
from crnn_search.storage.journal import History, read_history
from crnn_search.storage.lease import is_held
from crnn_search.storage.run_folder import RunPaths
from crnn_search.storage.trial import JobRecord
from crnn_search.text import duration

STAGES = ("search", "finalists", "retrain")


def read_status(run: RunPaths) -> dict[str, Any]:
    """What is known of a run.

    Raises:
        InputError: one of its files cannot be read.
    """
    space = load_space(run.space)
    history = read_history(run.journal, run.ledger)
    trials = jsonl.read(run.ledger) if run.ledger.exists() else []
    outcomes = ledger.outcomes(trials)
    running = [r for stage in STAGES for r in history.records(stage).values() if not r.state]
    spent = {
        key: ledger.spent(trials, key)
        | {
            "running": sum(
                getattr(record, key) for record in running if _of_search(record, history)
            )
        }
        | {stage: _sum(history, stage, key) for stage in STAGES[1:]}
        for key in ("core_seconds", "gpu_seconds")
    }
    return {
        "name": run.name,
        "folder": str(run.root),
        "worked_on": is_held(run),
        "stage": stage_of(run, history, space),
        "trials": {"asked": space.search.trials, **outcomes},
        "running": [_running(record) for record in running],
        "best": _best(trials),
        "compute": {
            **spent,
            "asha_saved_share": ledger.saved_share(trials, space.search.max_epochs),
        },
        "elapsed_s": history.elapsed_s,
        "sessions": history.sessions,
    }


def stage_of(run: RunPaths, history: History, space: SearchSpace) -> str:
    """The stage that a run is in: search, finalists, retrain, report or finished."""
    if run.is_retrained():
        return "finished" if run.report_json.is_file() and run.model.is_dir() else "report"
    if run.best.is_file():
        return "retrain"
    trials = [r for r in history.records("search").values() if r.job.epochs]
    whole = len(trials) >= space.search.trials and all(record.state for record in trials)
    return "finalists" if whole or history.records("finalists") else "search"


def describe(status: dict[str, Any]) -> str:
    """The status in some lines of plain text."""
    trials, compute, best = status["trials"], status["compute"], status["best"]
    ended = trials["completed"] + trials["stopped"] + trials["failed"]
    working = "a process works on it" if status["worked_on"] else "nobody works on it"
    text = [
        f"{status['name']}: {_STAGE_WORDS[status['stage']]}"
        + ("" if status["stage"] == "finished" else f"; {working}"),
        f"  trials     {ended} of {trials['asked']} ended: {trials['completed']} completed, "
        f"{trials['stopped']} stopped early, {trials['failed']} failed",
    ]
    for failure in trials["failures"]:
        text.append(f"  failed     {failure['count']} × {failure['reason']}")
    word = "running" if status["worked_on"] else "begun"
    for job in status["running"]:
        rmse = "" if job["rmse"] is None else f", validation RMSE {job['rmse']:.3f}"
        text.append(f"  {word:<10} {job['name']}, epoch {job['epoch']} of {job['epochs']}{rmse}")
    if best:
        text.append(
            f"  best       trial {best['number']}, validation RMSE {best['rmse']:.3f}"
            + ("" if best["state"] == "COMPLETE" else f" after {best['epochs']} epochs only")
        )
    for key, word in (("core_seconds", "core time"), ("gpu_seconds", "GPU time")):
        spent = {name: seconds for name, seconds in compute[key].items() if seconds}
        if spent:
            told = ", ".join(f"{_SPENT_WORDS[name]} {duration(s)}" for name, s in spent.items())
            text.append(f"  {word:<10} {duration(sum(spent.values()))}: {told}")
    if compute["asha_saved_share"] is not None:
        text.append(
            f"  saved      {compute['asha_saved_share']:.0%} of the epochs by stopping early"
        )
    text.append(
        f"  worked     {duration(status['elapsed_s'])} in {status['sessions']} "
        + ("session" if status["sessions"] == 1 else "sessions")
    )
    return "\n".join(text)


def plan(status: dict[str, Any]) -> str:
    """What `resume` will do, in one line."""
    trials, running = status["trials"], status["running"]
    steps = []
    if running:
        names = ", ".join(f"{job['name']} from epoch {job['epoch']}" for job in running[:8])
        more = f" and {len(running) - 8} more" if len(running) > 8 else ""
        steps.append(f"go on with {names}{more}")
    if status["stage"] == "search":
        begun = sum(trials[word] for word in ledger.STATES)
        left = trials["asked"] - begun - len(running)
        steps += [f"begin {left} more trials"] if left else []
    later = {"search": 0, "finalists": 0, "retrain": 1, "report": 2, "finished": 3}
    steps += _NEXT[later[status["stage"]] :]
    return "resume will " + ", ".join(steps) if steps else "nothing is left to do"


_NEXT = ["repeat the finalists", "retrain the winner", "report"]
_STAGE_WORDS = {
    "search": "searching",
    "finalists": "repeating the finalists",
    "retrain": "retraining",
    "report": "reporting",
    "finished": "finished",
}
_SPENT_WORDS = {
    "completed": "completed trials",
    "stopped": "stopped ones",
    "failed": "failed ones",
    "running": "those that run",
    "finalists": "finalists",
    "retrain": "retraining",
}


def _of_search(record: JobRecord, history: History) -> bool:
    return record.job.name in history.records("search")


def _sum(history: History, stage: str, key: str) -> float:
    return float(sum(getattr(record, key) for record in history.records(stage).values()))


def _running(record: JobRecord) -> dict[str, Any]:
    return {
        "name": record.job.name,
        "epoch": record.epochs,
        "epochs": record.job.epochs,
        "rmse": record.values[-1] if record.values else None,
    }


def _best(trials: list[jsonl.Record]) -> dict[str, Any] | None:
    """The incumbent: full-budget trials first, then the longest-lived."""
    sound = [t for t in trials if t["state"] != "FAIL" and t["values"] and t["values"][-1]]
    if not sound:
        return None
    best = min(sound, key=lambda t: (t["state"] != "COMPLETE", -len(t["values"]), t["values"][-1]))
    return {
        "number": best["number"],
        "rmse": best["values"][-1],
        "epochs": len(best["values"]),
        "state": best["state"],
        "config": best["config"],
    }
