"""More trials for a run: the request is recorded first, in one line that no crash can lose."""

from __future__ import annotations

import dataclasses
from typing import Any

from crnn_search.errors import InputError
from crnn_search.pipeline.manifest import Manifest, RunBudget
from crnn_search.results.outdated import mark_outdated
from crnn_search.spaces.space import SearchSpace, to_yaml
from crnn_search.storage import stages
from crnn_search.storage.checks import ALTERED, check_types
from crnn_search.storage.files import read_json, write_text
from crnn_search.storage.journal import SEARCH, History
from crnn_search.storage.jsonl import Record
from crnn_search.storage.run_folder import RunFolder
from crnn_search.tuning.budget import Budget


def request(
    run: RunFolder, space: SearchSpace, history: History, trials: int, limits: Budget
) -> dict[str, Any]:
    """The fields of the event that adds trials to a search, within new limits.

    Raises:
        InputError: the run has a report that was altered.
    """
    records = history.records(SEARCH).values()
    before = Budget(
        history.elapsed_s,
        sum(record.core_seconds for record in records),
        sum(record.gpu_seconds for record in records),
    )
    return {
        "trials": space.search.trials + trials,
        "budget": {"limits": limits.to_dict(), "before": before.to_dict()},
        "report": _report(run, space.search.trials),
    }


def apply(
    run: RunFolder, manifest: Manifest, space: SearchSpace, extension: Record | None
) -> tuple[Manifest, SearchSpace]:
    """Manifest and space of a run once its files say that it is extended; nothing is done twice.

    extension: the event of the last request. A report that exists is recorded in the manifest's
    `earlier_reports`: it opened the test images. Its pages stay, marked as outdated.

    Raises:
        StorageError: the run's folder or object store cannot be written.
    """
    if extension is None or extension["trials"] <= space.search.trials:
        return manifest, space
    reports = list(manifest.earlier_reports)
    if extension["report"] and extension["report"] not in reports:
        reports.append(extension["report"])
    limits, before = (Budget(**extension["budget"][part]) for part in ("limits", "before"))
    manifest = dataclasses.replace(
        manifest, budget=RunBudget(limits, before), earlier_reports=reports
    )
    space_before = space.search.trials
    search = space.search.model_copy(update={"trials": extension["trials"]})
    space = dataclasses.replace(space, search=search)
    stages.reopen(run, stages.FINALISTS)
    with run.changes():
        mark_outdated(
            run,
            f"this is the report on {space_before} trials; the search was extended to "
            f"{extension['trials']}, and a new report will take its place",
        )
        manifest.write(run)
        for path in (run.finalists, run.best, run.retrained, run.report_json):
            path.unlink(missing_ok=True)
        write_text(run.space, to_yaml(space))  # from here on it is extended
    return manifest, space


def _report(run: RunFolder, trials: int) -> dict[str, Any] | None:
    """What a report said before the extension, if there is one."""
    if not run.report_json.exists():
        return None
    values = read_json(run.report_json)
    try:
        found = {name: values["test"][name] for name in ("rmse", "rmse_interval")}
        check_types(found, {"rmse": "float", "rmse_interval": "list[float] | None"})
    except ALTERED as error:
        raise InputError(
            f"{run.location_of(run.report_json)} is not a report of this version of crnn-search; "
            "let crnn-search report write it again"
        ) from error
    return found | {"trials": trials}
