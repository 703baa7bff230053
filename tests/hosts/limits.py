"""The time that a block may take, and signals that leave nothing behind."""

from __future__ import annotations

import contextlib
import signal
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from tests.waiting import WaitError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends the test before its end."""


class HostError(RuntimeError):
    """A command on a host, or one that makes a host, failed; or a search did."""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """End this block after some seconds, whatever it waits for. Blocks must not be nested.

    Raises:
        WaitError: the time was over; its message names the functions that were waiting.
    """

    def end(_: int, frame: FrameType | None) -> None:
        raise WaitError(f"not done after {seconds:.0f} s, in {_where(frame)}")

    signal.signal(signal.SIGALRM, end)
    # Again every few seconds: Python drops an exception that is raised in a destructor.
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001), 5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _where(frame: FrameType | None) -> str:
    """The functions of this test that a frame is in, outermost first."""
    here = Path(__file__).parent
    stack = traceback.extract_stack(frame)
    calls = [call for call in stack if Path(call.filename).parent in {here, here.parent}]
    return " > ".join(
        f"{call.name} ({Path(call.filename).name}:{call.lineno})" for call in calls[-3:]
    )


def hold_signals() -> None:
    """Let `SIGNALS` wait for a block of `interruptible`, where the first one interrupts.

    So does a SIGINT that a shell had set to be ignored, as it does for what it starts in the
    background; a hangup that `nohup` had set to be ignored stays so.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt in this block if one of `SIGNALS` comes, or has come before."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def take_signals() -> None:
    """Undo `hold_signals` in the process of the world: what it starts finds Linux's defaults."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _interrupt(_: int, __: FrameType | None) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # a second one must not end the cleaning up
    raise KeyboardInterrupt
