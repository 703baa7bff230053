"""The report in a real browser: on screens, on a phone, in the dark, printed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crnn_search.results import compare
from crnn_search.storage.run_folder import RunFolder
from tests.browser import chromium, page_of, serious_faults

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]

HIDDEN = """() => [...document.querySelectorAll("table, pre, .strip, .js-plotly-plot")].filter(
  (found) => !found.closest(".scroll, pre") && found.getBoundingClientRect().right > innerWidth + 1
).length"""
"""How many things reach beyond the page's edge, and are not in a box that scrolls."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.mark.parametrize(("width", "dark"), [(1400, False), (800, True), (390, False)])
def test_a_report_fits_every_screen(
    browser: Any, reported: RunFolder, width: int, dark: bool
) -> None:
    with page_of(browser, reported.report_html, width=width, dark=dark) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(HIDDEN) == 0
        assert page.locator(".js-plotly-plot").count() > 12
        assert not serious_faults(page)
        text = page.evaluate("getComputedStyle(document.querySelector('.xtitle')).fill")
        assert text == ("rgb(230, 230, 230)" if dark else "rgb(26, 26, 26)")


def test_a_report_is_seen_at_once(browser: Any, reported: RunFolder) -> None:
    """Its text is there before its charts are."""
    with page_of(browser, reported.report_html, width=1400) as page:
        paints = page.evaluate("performance.getEntriesByType('paint').map((e) => e.startTime)")
        assert 0 < max(paints) < 2000


def test_trials_are_sorted_and_configurations_shown_by_a_click(
    browser: Any, reported: RunFolder
) -> None:
    with page_of(browser, reported.report_html, width=1400) as page:
        numbers = "table.sortable tbody td:first-child"
        page.get_by_role("button", name="trial", exact=True).click()
        assert page.locator(numbers).first.inner_text() == "0"
        page.get_by_role("button", name="trial", exact=True).click()
        assert page.locator(numbers).first.inner_text() == "15"
        page.evaluate(
            "document.getElementById('chart-pareto-parameters')"
            ".emit('plotly_click', {points: [{customdata: 4}]})"
        )
        assert page.locator("#config").inner_text().startswith("# trial 4\n- {conv_channels: [4]")


def test_a_report_can_be_printed(browser: Any, reported: RunFolder, tmp_path: Path) -> None:
    with page_of(browser, reported.report_html, width=1400, dark=True) as page:
        content = page.pdf(path=str(tmp_path / "report.pdf"), prefer_css_page_size=True)
        assert content.startswith(b"%PDF")
        page.emulate_media(media="print")
        page.set_viewport_size({"width": 688, "height": 900})  # A4 without margins
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate(HIDDEN) == 0
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") in {
            "rgb(255, 255, 255)", "rgba(0, 0, 0, 0)",
        }  # fmt: skip


def test_own_data_and_a_comparison(
    browser: Any, own_reported: RunFolder, reported: RunFolder, tmp_path: Path
) -> None:
    compare.write_page(compare.compare_runs([reported, reported]), tmp_path / "both.html")
    for path in (own_reported.report_html, tmp_path / "both.html"):
        with page_of(browser, path, width=390) as page:
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            assert not serious_faults(page)
