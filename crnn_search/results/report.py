"""Write a run's report: `report.json`, and from that `report.md` and `report.html`."""

from __future__ import annotations

from crnn_search.data.task import Task
from crnn_search.results import scored as scoring
from crnn_search.results.assemble import assemble, assemble_unfinished
from crnn_search.results.page import render
from crnn_search.results.schema import Report, SearchReport
from crnn_search.results.scored import Scored
from crnn_search.results.status import stage_of
from crnn_search.spaces.file import load_space
from crnn_search.storage import stages
from crnn_search.storage.files import write_json
from crnn_search.storage.journal import History, read_history
from crnn_search.storage.run_folder import RunFolder


def write_report(run: RunFolder, task: Task) -> Report:
    """Score the retrained networks on the test sequences and write every file of the report.

    Can be repeated alone, and then gives the same `report.json` but for measured times. Returns its
    content. task: with its test images.

    Raises:
        InputError: a result file is missing or was altered, or the run has not been retrained.
        ModelFileError: a retrained network's file is missing or altered.
        RunError: the retrained networks are not those of `best.json`, or one of them diverged.
        StorageError: the run's folder cannot be written.
    """
    stages.check(run, stages.FINALISTS, stages.RETRAIN)
    history = read_history(run.journal, run.ledger)
    scored = scoring.score(run, task, history.ended().trials)
    scoring.write(scored, run)
    return _write(run, history, scored)


def is_scored(run: RunFolder) -> bool:
    """Whether a run has what its networks predicted for the test sequences, as it was written.

    Raises:
        InputError: `stages.json` or the file cannot be read.
    """
    return stages.is_recorded(run, stages.REPORT, run.test_predictions)


def write_again(run: RunFolder) -> Report:
    """Write the report of a run that is scored, without data or networks. Raises as above."""
    stages.check(run, stages.FINALISTS, stages.RETRAIN)
    return _write(run, read_history(run.journal, run.ledger), scoring.read(run))


def write_unfinished(run: RunFolder) -> SearchReport:
    """Write `report.md` and `report.html` of a run that has not been retrained; say so in them.

    Raises:
        InputError: a file of the run is missing or was altered.
        StorageError: the run's folder cannot be written.
    """
    history = read_history(run.journal, run.ledger)
    report = assemble_unfinished(run, history)
    render.write_unfinished(run, report, stage_of(run, history, load_space(run.space)))
    return report


def _write(run: RunFolder, history: History, scored: Scored) -> Report:
    report = assemble(run, history, scored)
    write_json(run.report_json, report)
    files = render.write(run, report, scored)
    stages.record(run, stages.REPORT, (run.test_predictions, run.report_json, *files))
    return report
