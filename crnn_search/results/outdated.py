"""A report that is not of its run's files any more says so at its top."""

from __future__ import annotations

import html

from crnn_search.results.formatting import plain
from crnn_search.storage.files import write_text
from crnn_search.storage.run_folder import RunFolder

PLACE = "<!-- outdated -->"
"""Where the mark is put, in Markdown and in HTML."""


def mark_outdated(run: RunFolder, why: str) -> None:
    """Mark `report.md` and `report.html`. Nothing is done where there is none, or a mark.

    why: plain text.

    Raises:
        StorageError: a file cannot be written.
    """
    for path, mark in (
        (run.report_markdown, f"**Outdated: {plain(why)}**"),
        (run.report_html, f'<p class="warning" role="note">Outdated: {html.escape(why)}</p>'),
    ):
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        if PLACE in text:
            write_text(path, text.replace(PLACE, mark, 1))
