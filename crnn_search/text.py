"""Text for people: durations, the first line of an error."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Seconds in words, as `2 h 05 min`, `3 min 20 s` or `7 s`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def first_line(error: BaseException | str) -> str:
    """The first line of an error's message that is not blank."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else "no message"
