"""Pages that servers of a test show, read through Debian's chromium."""

from __future__ import annotations

import contextlib
import os
import shutil
import urllib.request
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, sync_playwright

CHROMIUM = shutil.which("chromium")

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install it")

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
def page() -> Iterator[Page]:
    """An empty page of a browser without a window."""
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        found = browser.new_page(viewport={"width": 1400, "height": 900})
        found.set_default_timeout(TIMEOUT_MS)
        yield found
        browser.close()
