"""Waits that end, with a reason."""

from __future__ import annotations

import time
from collections.abc import Callable


class WaitError(RuntimeError):
    """A wait was in vain."""


PAUSE_S = 0.05


def wait(
    what: Callable[[], bool],
    timeout_s: float,
    otherwise: str | Callable[[], str],
    pause_s: float = PAUSE_S,
) -> float:
    """Wait until `what` is true; returns how long it took, in seconds.

    otherwise: what is so instead, or a function that says it when the time is over. pause_s: how
    long it is not asked for: longer where asking is expensive.

    Raises:
        WaitError: it was not true after `timeout_s`; `otherwise` is the message.
    """
    start = time.monotonic()
    while not what():
        if time.monotonic() - start > timeout_s:
            reason = otherwise if isinstance(otherwise, str) else otherwise()
            raise WaitError(f"after {timeout_s:.0f} s: {reason}")
        time.sleep(pause_s)
    return time.monotonic() - start
