"""The report in a real browser: on screens, on a phone, in the dark, printed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crnn_search.results import compare
from crnn_search.storage.run_folder import RunFolder
from tests.results.chromium import chromium, page_of, serious_faults

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]

HIDDEN = """() => [...document.querySelectorAll("table, pre, .strip, .js-plotly-plot")].filter(
  (found) => !found.closest(".scroll, pre") && found.getBoundingClientRect().right > innerWidth + 1
).length"""
"""How many things reach beyond the page's edge, and are not in a box that scrolls."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def desktop(browser: Any, reported: RunFolder) -> Iterator[Any]:
    """A report on a large screen, for some tests one after another."""
    with page_of(browser, reported.report_html, width=1400) as page:
        yield page


def fits(page: Any) -> bool:
    """Whether nothing makes the page scroll sideways."""
    width = page.viewport_size["width"]
    return page.evaluate("document.documentElement.scrollWidth") <= width and not page.evaluate(
        HIDDEN
    )


def test_a_report_on_a_large_screen(desktop: Any) -> None:
    assert fits(desktop)
    assert desktop.locator(".js-plotly-plot").count() > 12
    assert not serious_faults(desktop)


def test_its_text_is_there_before_its_charts(desktop: Any) -> None:
    paints = desktop.evaluate("performance.getEntriesByType('paint').map((e) => e.startTime)")
    assert 0 < max(paints) < 2000


def test_trials_are_sorted_and_configurations_shown_by_a_click(desktop: Any) -> None:
    numbers = "table.sortable tbody td:first-child"
    header = desktop.locator("table.sortable th button").first
    header.click()
    assert desktop.locator(numbers).first.inner_text() == "0"
    header.click()
    assert desktop.locator(numbers).first.inner_text() == "15"
    desktop.evaluate(
        "document.getElementById('chart-pareto-parameters')"
        ".emit('plotly_click', {points: [{customdata: 4}]})"
    )
    assert desktop.locator("#config").inner_text().startswith("# trial 4\n- {conv_channels: [4]")


@pytest.mark.parametrize(("width", "dark"), [(800, True), (390, False)])
def test_a_report_on_smaller_screens_and_in_the_dark(
    browser: Any, reported: RunFolder, width: int, dark: bool
) -> None:
    with page_of(browser, reported.report_html, width=width, dark=dark) as page:
        assert fits(page)
        assert not serious_faults(page)
        text = page.evaluate("getComputedStyle(document.querySelector('.xtitle')).fill")
        assert text == ("rgb(230, 230, 230)" if dark else "rgb(26, 26, 26)")


def test_a_report_is_printed_whole(desktop: Any, tmp_path: Path) -> None:
    assert desktop.pdf(path=str(tmp_path / "report.pdf")).startswith(b"%PDF")
    desktop.emulate_media(media="print")
    desktop.set_viewport_size({"width": 688, "height": 900})  # A4 without its margins
    desktop.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert fits(desktop)
    wide = "[...document.querySelectorAll('table')].filter((t) => t.offsetWidth > 688).length"
    assert desktop.evaluate(wide) == 0, "no table is cut at the page's edge"


def test_own_data_and_a_comparison(
    browser: Any, own_reported: RunFolder, reported: RunFolder, tmp_path: Path
) -> None:
    compare.write_page(compare.compare_runs([reported, reported]), tmp_path / "both.html")
    for path in (own_reported.report_html, tmp_path / "both.html"):
        with page_of(browser, path, width=390) as page:
            assert fits(page)
            assert not serious_faults(page)
