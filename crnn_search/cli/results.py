"""The commands on the results of runs: report, compare.

PyTorch and the libraries of results are imported inside the commands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crnn_search import api
from crnn_search.cli import options, terminal
from crnn_search.errors import InputError
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.runs import is_retrained


def report(
    run: options.Run,
    data_dir: options.DataDir = None,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Predict the test sequences again, too.")
    ] = False,
) -> None:
    """Write a run's report again, or what is known so far."""
    found = api.open_run(run)
    found.check(force=True)
    folder = found.folder
    if not folder.retrained.is_file():
        _report_unfinished(folder, rescore=rescore)
        return
    check_models(folder)
    from crnn_search.pipeline.source import open_again
    from crnn_search.results.report import is_scored, write_again, write_report
    from crnn_search.results.summary import summary

    with folder.changes():
        if is_scored(folder) and not rescore:
            result = write_again(folder)
        else:
            result = write_report(folder, open_again(folder, data_dir).load(test=True))
    terminal.show(summary(result))
    terminal.show(f"\nreport: {folder.location_of(folder.report_html)}")


def _report_unfinished(run: RunFolder, *, rescore: bool) -> None:
    """Write what is known of a run whose winner has not been retrained."""
    if rescore:
        raise InputError(f"--rescore needs a retrained winner: {run.location} has none yet")
    from crnn_search.results.report import write_unfinished

    with run.changes():
        write_unfinished(run)
    terminal.show(
        f"{run.location} is not finished: its report has what is known so far\n"
        f"report: {run.location_of(run.report_html)}"
    )


def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Two runs or more.")],
    rmse: Annotated[
        list[float] | None,
        typer.Option(
            "--rmse",
            help="Say how many trials each run took to this validation RMSE. Repeatable. By "
            "default the best of each run.",
        ),
    ] = None,
    html: Annotated[Path, typer.Option("--html", help="Where the page is written.")] = Path(
        "comparison.html"
    ),
) -> None:
    """Put runs side by side, here and as a page."""
    from crnn_search.results.compare import compare_runs, write_page

    if len(runs) < 2:
        raise InputError(f"compare needs two runs at least, got {len(runs)}")
    comparison = compare_runs([api.open_run(run).folder for run in runs], rmse or [])
    for part in comparison.parts:
        terminal.show(f"\n{part.title}")
        if part.rows:
            terminal.show_table(part.header, part.rows)
        if part.note:
            terminal.show(part.note)
    write_page(comparison, html)
    terminal.show(f"\npage: {html}")


def check_models(run: RunFolder) -> None:
    """Check that a run's retrained models all exist. Raises InputError."""
    if not is_retrained(run):
        raise InputError(
            f"a model is missing in {run.location_of(run.retrained_models)}; train it again with\n"
            f"  {run.resume_command}"
        )
