from __future__ import annotations

import pytest

from crnn_search.text import (
    MAX_LENGTH,
    cut,
    duration,
    figure,
    first_line,
    printable,
    printable_log,
    shown,
)


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


def test_long_lines_and_values_are_cut() -> None:
    assert cut("a" * MAX_LENGTH) == "a" * MAX_LENGTH
    assert cut("a" * 5000) == "a" * MAX_LENGTH + "… (5,000 characters)"
    assert first_line("x" * 5000).endswith("xx… (5,000 characters)")
    assert shown("a\x1b\n") == r"'a\x1b\n'"
    assert shown(list(range(1000))).startswith("[0, 1, 2, ")
    assert len(shown(list(range(1000)))) < MAX_LENGTH + 30


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("größer · ×\n\tfine", "größer · ×\n\tfine"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("\x9b31m \r \x7f", r"\x9b31m \r \x7f"),
        ("left\u202eright", r"left\u202eright"),
        ("\udcff", r"\udcff"),
    ],
)
def test_unprintable_characters_are_escaped(text: str, expected: str) -> None:
    assert printable(text) == expected


def test_a_log_has_no_colours() -> None:
    assert printable_log("\x1b[1;36m(a)\x1b[0m b\x1b]0;c\x07\n") == "(a) b\\x1b]0;c\\x07\n"


@pytest.mark.parametrize(
    ("rmse", "words"),
    [(0.0, "0.000"), (2.0, "2.000"), (0.7512, "0.751"), (0.00041237, "0.0004124"),
     (12345.678, "12345.678"), (2.5e9, "2.5e+09")],
)  # fmt: skip
def test_figure(rmse: float, words: str) -> None:
    assert figure(rmse) == words
