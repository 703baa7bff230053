"""Chromium without a window, for tests of pages; and axe-core, which finds what hinders people."""

from __future__ import annotations

import contextlib
import os
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium")

AXE = Path(__file__).parents[1] / ".venv" / "node" / "node_modules" / "axe-core" / "axe.min.js"
"""`.ci/run` installs it."""

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install it")
needs_axe = pytest.mark.skipif(not AXE.is_file(), reason="needs axe-core: .ci/run installs it")

SERIOUS = {"serious", "critical"}

TIMEOUT_MS = 120_000


def answers(url: str) -> bool:
    """Whether a server of this machine answers."""
    try:
        with urllib.request.urlopen(url, timeout=20) as found:
            found.read()  # to its end: a server that is ended meanwhile prints a traceback
    except OSError:
        return False
    return True


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A browser of Playwright's, with Debian's chromium."""
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@contextlib.contextmanager
def page() -> Iterator[Page]:
    """An empty page of a browser of its own."""
    with chromium() as browser:
        found = browser.new_page(viewport={"width": 1400, "height": 900})
        found.set_default_timeout(TIMEOUT_MS)
        yield found


@contextlib.contextmanager
def page_of(browser: Browser, path: Path, *, width: int, dark: bool = False) -> Iterator[Page]:
    """A page that is open and has drawn its charts; an error on its console fails the test."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if dark else "light",
        offline=True,
    )
    found, errors = context.new_page(), list[str]()
    found.on(
        "console", lambda message: errors.append(message.text) if message.type == "error" else None
    )
    found.on("pageerror", lambda error: errors.append(str(error)))
    found.goto(path.as_uri())
    found.wait_for_selector("html[data-drawn]", state="attached", timeout=60_000)
    yield found
    context.close()
    assert not errors


def serious_faults(page: Page) -> list[Any]:
    """What axe-core finds that hinders people seriously, the insides of charts left out."""
    page.evaluate(
        AXE.read_text(encoding="utf-8")
    )  # as a script it would need the page's permission
    found = page.evaluate("axe.run({exclude: ['.js-plotly-plot']})")["violations"]
    return [
        f"{fault['id']}: {[node['html'][:200] for node in fault['nodes'][:3]]}"
        for fault in found
        if fault["impact"] in SERIOUS
    ]
