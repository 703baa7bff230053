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


def time_range(low_s: float | None, high_s: float) -> str:
    """A range of time, rounded: `3 to 5 min`, `about 4 h`. low_s: None for `at most 5 min`."""
    if high_s < 60:
        return "less than a minute"
    unit, word = next(
        (u, w) for u, w in ((86400, "days"), (3600, "h"), (60, "min")) if high_s >= 2 * u or u == 60
    )
    decimals = 1 if unit > 60 and high_s < 10 * unit else 0
    high = f"{high_s / unit:.{decimals}f}"
    if low_s is None:
        return f"at most {high} {word}"
    low = f"{low_s / unit:.{decimals}f}"
    return f"about {high} {word}" if low == high else f"{low} to {high} {word}"


def counted(count: int, noun: str) -> str:
    """A number of things: `1 trial`, `2 trials`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def figure(rmse: float) -> str:
    """An RMSE: three decimals, or four significant digits of one that is small or large."""
    return f"{rmse:.3f}" if rmse == 0 or 0.1 <= rmse < 1e5 else f"{rmse:.4g}"


def compact(value: object) -> str:
    """A hyperparameter's value in few characters: a list as `16-32-64`, a number as `0.0031`."""
    if isinstance(value, list | tuple):
        return "-".join(map(compact, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


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
