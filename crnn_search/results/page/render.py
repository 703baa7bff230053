"""Pages as files: Markdown, and HTML that needs no other file."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape
from markdown_it import MarkdownIt
from markupsafe import Markup

from crnn_search.results.formatting import escaped, plain
from crnn_search.results.outdated import PLACE
from crnn_search.results.page import run_sections, score_sections, search_sections
from crnn_search.results.page.document import Page, Text
from crnn_search.results.page.pictures import write_sheet
from crnn_search.results.schema import Report, SearchReport
from crnn_search.results.scored import Scored
from crnn_search.results.words import one_line
from crnn_search.storage.files import write_text
from crnn_search.storage.run_folder import RunFolder

_STAGES = {
    "search": "it is searching", "finalists": "its finalists are being repeated",
    "retrain": "its winner is being retrained", "report": "it is about to be scored",
    "finished": "it is finished",
}  # fmt: skip
"""What a run is doing in a stage."""


def write(run: RunFolder, report: Report, scored: Scored) -> list[Path]:
    """Write all files of a finished run's report but `report.json`; returns them.

    Raises:
        StorageError: one cannot be written.
    """
    page = finished_page(report, scored, run.location)
    worst, random = (run.plots / name for name in (score_sections.WORST, score_sections.RANDOM))
    write_sheet(worst, scored.worst, scored)
    write_sheet(random, scored.random, scored)
    write_text(run.report_markdown, to_markdown(page))
    write_text(run.report_html, to_html(page))
    return [run.report_markdown, run.report_html, worst, random]


def write_unfinished(run: RunFolder, report: SearchReport, stage: str) -> None:
    """Write what is known of a run that has not been retrained. Raises as `write`."""
    page = unfinished_page(report, stage, run.location)
    write_text(run.report_markdown, to_markdown(page))
    write_text(run.report_html, to_html(page))


def finished_page(report: Report, scored: Scored, location: str) -> Page:
    """The report of a finished run. location: where it is stored, for commands."""
    return Page(
        _title(report),
        _warnings(report),
        score_sections.head(report, scored),
        [
            *score_sections.sections(report, scored),
            *search_sections.sections(report, report["best_trial"], report["timed_on"]),
            *run_sections.sections(report, location),
        ],
    )


def unfinished_page(report: SearchReport, stage: str, location: str) -> Page:
    """What is known of a run in a stage. location: where it is stored, for commands."""
    earlier = report["run"].get("earlier_reports")
    opened = (
        "The test images were opened by its report before it was extended, not since."
        if earlier
        else "The test images have not been opened."
    )
    said = (
        f"**This run is not finished: {_STAGES[stage]}, or was when it stopped.** This is what is "
        f"known so far. {opened}"
    )
    return Page(
        _title(report),
        _warnings(report),
        [Text(said)],
        [
            *search_sections.sections(report, None, None),
            *run_sections.unfinished_sections(report, location),
        ],
    )


def _title(report: SearchReport) -> str:
    return f"crnn-search report: {one_line(report['run']['name'])}"


def _warnings(report: SearchReport) -> list[str]:
    """As Markdown. Only those on data have the user's own words, which may be long."""
    return [
        (plain if doubt["kind"] == "data" else escaped)(doubt["text"])
        for doubt in report["warnings"]
    ]


def to_markdown(page: Page) -> str:
    """A page as Markdown: texts, tables, and the pictures that are files."""
    text = _environment().get_template("page.md").render(page=page, outdated=PLACE)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def to_html(page: Page) -> str:
    """A page as an HTML file that needs no other."""
    from plotly.offline import get_plotlyjs  # slow to import

    plotly = get_plotlyjs() if page.charts else ""
    template = _environment().get_template("page.html")
    return template.render(page=page, outdated=PLACE, plotly=plotly, charts=page.charts)


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("crnn_search.results.page"),
        autoescape=select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["markdown"] = lambda text: Markup(_blocks(text))  # noqa: S704
    environment.filters["inline"] = lambda text: Markup(_html(text))  # noqa: S704
    environment.filters["plain"] = plain
    environment.policies["json.dumps_kwargs"] = {
        "separators": (",", ":"), "allow_nan": False, "ensure_ascii": False,
    }  # fmt: skip
    environment.policies["json.dumps_function"] = json.dumps
    return environment


def _blocks(text: str) -> str:
    """Markdown as HTML; tables scroll inside their own box."""
    body: str = MarkdownIt("js-default").render(text)
    body = body.replace("<table>", f"{_BOX}<table>").replace("</table>", "</table></div>")
    return body.replace("<pre>", '<pre tabindex="0">')


_BOX = '<div class="scroll" tabindex="0" role="group" aria-label="table">'


def _html(text: str) -> str:
    """Markdown of one line as HTML."""
    return str(MarkdownIt("js-default").renderInline(text))
