from __future__ import annotations

import pytest

from crnn_search.text import duration, first_line


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("error", "line"),
    [(ValueError("\n  first \nsecond"), "first"), ("one", "one"), (ValueError(), "no message")],
)
def test_first_line(error: BaseException | str, line: str) -> None:
    assert first_line(error) == line
