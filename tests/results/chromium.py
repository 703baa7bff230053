"""Chromium without a window, for tests of pages; and axe-core, which finds what hinders people."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

AXE = Path(__file__).parents[2] / ".venv" / "node" / "node_modules" / "axe-core" / "axe.min.js"
"""`.ci/run` installs it."""

SERIOUS = {"serious", "critical"}


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser of Playwright's, with Debian's chromium."""
    sync_api = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium")
    if program is None or not AXE.is_file():
        pytest.skip("it needs chromium and axe-core, which .ci/run installs")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def page_of(browser: Any, path: Path, *, width: int, dark: bool = False) -> Iterator[Any]:
    """A page that is open and has drawn its charts; an error on its console fails the test."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if dark else "light",
        offline=True,
    )
    page, errors = context.new_page(), []
    page.on(
        "console", lambda message: errors.append(message.text) if message.type == "error" else 0
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-drawn]", state="attached", timeout=60_000)
    yield page
    context.close()
    assert not errors


def serious_faults(page: Any) -> list[str]:
    """What axe-core finds that hinders people seriously, the insides of charts left out."""
    page.add_script_tag(path=str(AXE))
    found = page.evaluate("axe.run({exclude: ['.js-plotly-plot']})")["violations"]
    return [
        f"{fault['id']}: {[node['html'][:200] for node in fault['nodes'][:3]]}"
        for fault in found
        if fault["impact"] in SERIOUS
    ]
