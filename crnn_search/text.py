"""Text for people: durations, figures, first lines of errors, values in messages."""

from __future__ import annotations

import re

MAX_LENGTH = 200
"""How many characters of a value or of an error's first line a message shows."""


def duration(seconds: float) -> str:
    """Seconds in words, as `2 h 05 min`, `3 min 20 s` or `7 s`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def figure(rmse: float) -> str:
    """An RMSE: three decimals, or four significant digits of one that is small or large."""
    return f"{rmse:.3f}" if rmse == 0 or 0.1 <= rmse < 1e5 else f"{rmse:.4g}"


def first_line(error: BaseException | str) -> str:
    """The first line of an error's message that is not blank, cut at `MAX_LENGTH`."""
    lines = (line.strip() for line in str(error).splitlines())
    return cut(next((line for line in lines if line), "no message"))


def shown(value: object) -> str:
    """A value as a message shows it: its `repr`, cut at `MAX_LENGTH`."""
    return cut(repr(value))


def cut(text: str) -> str:
    """A text of at most `MAX_LENGTH` characters; of a longer one its start and its length."""
    if len(text) <= MAX_LENGTH:
        return text
    return f"{text[:MAX_LENGTH]}… ({len(text):,} characters)"


def printable(text: str) -> str:
    r"""A text without control characters: all but line breaks and tabs are escapes as `\x1b`.

    So are lone surrogates, which Python makes of file names that are not UTF-8.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode()
        for char in text
    )


def printable_log(text: str) -> str:
    """The text of a log: without colours, otherwise as `printable`."""
    return printable(re.sub(r"\x1b\[[0-9;]*m", "", text))
