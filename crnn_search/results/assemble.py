"""All figures of a report: from a run's files and what was scored to `report.json`'s content."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Literal

from crnn_search.data.task_info import TaskInfo
from crnn_search.hyperparameters import ImageShape, TrialConfig
from crnn_search.results import doubts, score_figures, search_figures
from crnn_search.results.schema import Compute, Importance, Report, SearchReport
from crnn_search.results.scored import WINNER, Scored
from crnn_search.spaces.file import load_space
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage import jsonl, ledger
from crnn_search.storage.files import read_json
from crnn_search.storage.journal import SEARCH, History
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.trial import METRIC, TrialRecord

TIMED = ("start", SEARCH, "finalists", "retrain")
"""The stages whose durations are shown."""

PUBLISHED = (
    {"name": "mnistCRNN README, 2016", "rmse": 1.17},
    {"name": "mnistCRNN README, 2018 (ImageNet MobileNet)", "rmse": 0.65},
)
"""What github.com/jamesmf/mnistCRNN states for sums of 1 to 8 digits, on sequences of its own."""


def assemble(run: RunFolder, history: History, scored: Scored) -> Report:
    """All that the report of a finished run states, ready for JSON.

    Raises:
        InputError: a result file is missing or was altered.
    """
    best, retrained = map(read_json, (run.best, run.retrained))
    finalists = read_json(run.finalists)["finalists"]
    facts, name = scored.facts, retrained["baseline_name"]
    info, config = TaskInfo.from_dict(facts["task"]), TrialConfig.from_dict(best["config"])
    space = load_space(run.space)
    trials = list(history.records(SEARCH).values())
    arithmetics = _arithmetics(trials, finalists, retrained)
    found = facts["importance"], facts["importance_note"]
    known = _search(run, history, space, info.to_dict(), facts["ms_per_sequence"], found)
    _add_later(known["compute"], finalists, retrained)
    return {
        **known,
        "warnings": [
            *doubts.beaten(facts["test"], facts["baselines"], name, facts["improvement"]),
            *doubts.short_retraining(space),
            *doubts.on_border(space, config.to_dict()),
            *doubts.different_arithmetics(arithmetics),
            *doubts.of_data(facts["data"]),
        ],
        **{key: facts[key] for key in _AS_SCORED},  # type: ignore[typeddict-item]
        "ensemble": _ensemble(scored, WINNER, facts["ms_per_sequence"].get(str(best["number"]))),
        "baseline_ensemble": _ensemble(scored, name, None),
        "arithmetics": arithmetics,
        "baselines": facts["baselines"] | ({"published": list(PUBLISHED)} if info.sums else {}),
        "baseline_name": name,
        "baseline_config": facts["baseline_config"],
        "best_trial": best["number"],
        "best_validation_rmse": best[METRIC],
        "best_config": config.to_dict(),
        "best_parameters": config.model.parameter_count(info.shape),
        "finalists": finalists,
        "retrained": {
            "epochs": retrained["epochs"],
            "epoch_sequences": retrained["epoch_sequences"],
            **{key: list(map(_entry, retrained[key])) for key in ("winner", "baseline")},
        },
    }


_AS_SCORED = ("data", "test", "longer", "steps", "improvement", "timed_on")
"""What a report has as it was scored."""


def _ensemble(scored: Scored, name: str, ms_per_sequence: float | None) -> dict[str, Any] | None:
    """The figures of an ensemble of networks. ms_per_sequence: of one of them, None: not known."""
    sums = scored.facts["task"]["sums"]
    found = score_figures.ensemble(scored.predictions[name], scored.table, sums=sums)
    if found is None:
        return None
    in_all = None if ms_per_sequence is None else found["networks"] * ms_per_sequence
    return found | {"ms_per_sequence": in_all}


def assemble_unfinished(run: RunFolder, history: History) -> SearchReport:
    """All that is known of a run whose winner has not been retrained.

    Raises:
        InputError: a result file is missing or was altered.
    """
    from crnn_search.results.importance import importances  # Optuna is slow to import

    found = importances(history.ended().trials, load_space(run.space))
    return assemble_search(run, history, found)


def assemble_search(
    run: RunFolder,
    history: History,
    importance: tuple[list[Importance] | None, str] = (None, "not computed"),
) -> SearchReport:
    """The figures of a run's search, without its data. Raises as above."""
    space = load_space(run.space)
    task = space.task
    info = {
        "name": task.name, "target": task.target or "sum", "unit": task.unit,
        "sums": task.data is None, "longest": task.max_digits if task.data is None else None,
        "shape": list(space.shape) if task.data is None else None,
    }  # fmt: skip
    return _search(run, history, space, info, {}, importance)


def networks(retrained: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The entries of the retrained networks, each once: the winner may be the baseline."""
    entries = (*retrained["winner"], *retrained["baseline"])
    return list({entry["file"]: entry for entry in entries}.values())


def _search(
    run: RunFolder,
    history: History,
    space: SearchSpace,
    task: dict[str, Any],
    ms_per_sequence: Mapping[str, float],
    importance: tuple[list[Importance] | None, str],
) -> SearchReport:
    """What there is to say of the search. task: as `TaskInfo.to_dict` gives it."""
    manifest = read_json(run.manifest)
    trials = list(history.records(SEARCH).values())
    shape = ImageShape(*task["shape"]) if task["shape"] else None
    shares, note = importance
    return {
        "run": {k: v for k, v in manifest.items() if k not in {"space", "arithmetic"}},
        "space": manifest["space"],
        "searched": {name: domain.to_yaml() for name, domain in space.space.items()},
        "task": task,
        "arithmetic": manifest["arithmetic"],
        "trials": ledger.outcomes(history.ended()),
        "rows": search_figures.rows(trials, space, shape, ms_per_sequence),
        "axes": search_figures.axes(space),
        "incumbents": search_figures.incumbents(trials, _order(run, history)),
        "rungs": search_figures.rungs(trials, space),
        "compute": _compute(history, space),
        "importance": shares,
        "importance_note": note,
        "seconds": {name: history.seconds[name] for name in TIMED if name in history.seconds},
        "warnings": doubts.short_retraining(space),
    }


def _order(run: RunFolder, history: History) -> list[int]:
    """The numbers of the search's ended trials, in the order in which they ended."""
    listed = jsonl.read(run.ledger) if run.ledger.exists() else []
    late = [e.trial.number for e in history.unlisted if isinstance(e, TrialRecord)]
    return [*(line["number"] for line in listed), *late]


def _compute(history: History, space: SearchSpace) -> Compute:
    """Core and GPU seconds by purpose, and what was not spent."""
    search = list(history.records(SEARCH).values())
    ended = history.ended().trials

    def spent(key: str) -> dict[str, float]:
        later = {
            stage: _sum(history.records(stage).values(), key) for stage in ("finalists", "retrain")
        }
        return ledger.spent(search, key) | later

    return Compute(
        core_seconds=spent("core_seconds"),
        gpu_seconds=spent("gpu_seconds"),
        asha_saved_share=ledger.saved_share(ended, space.search.max_epochs),
        stopped_early=search_figures.untrained(ended, cut=False),
        cut=search_figures.untrained(ended, cut=True),
    )


def _add_later(
    compute: Compute, finalists: Sequence[Mapping[str, Any]], retrained: Mapping[str, Any]
) -> None:
    """Put what finalists and retraining took into the account, as their files say."""
    key: Literal["core_seconds", "gpu_seconds"]
    for key in ("core_seconds", "gpu_seconds"):
        compute[key]["finalists"] = sum(row[key] for row in finalists)
        compute[key]["retrain"] = sum(entry[key] for entry in networks(retrained))


def _sum(records: Iterable[TrialRecord], key: str) -> float:
    return float(sum(getattr(record, key) for record in records))


def _entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What the report says of a retrained network."""
    names = ("seed", "file", "seconds", "core_seconds", "gpu_seconds", "node", "device")
    return {name: entry[name] for name in names}


def _arithmetics(
    trials: Sequence[TrialRecord],
    finalists: Sequence[Mapping[str, Any]],
    retrained: Mapping[str, Any],
) -> dict[str, list[str]]:
    """The names of the trials that trained in each arithmetic; one that moved may be in two."""
    ordered = sorted(trials, key=lambda record: record.trial.number)
    used = [(record.trial.name, record.arithmetics) for record in ordered]
    used += [(f"finalist {row['number']}", row["arithmetics"]) for row in finalists]
    used += [(PurePath(e["file"]).stem, e["arithmetics"]) for e in networks(retrained)]
    by_arithmetic: dict[str, list[str]] = {}
    for name, arithmetics in used:
        for arithmetic in arithmetics:
            by_arithmetic.setdefault(arithmetic, []).append(name)
    return by_arithmetic
