"""One policy for SIGINT, SIGTERM and SIGHUP: the first stops cleanly, the second ends at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

EXIT_CODE = 130
"""Of a process that the second signal ends."""

TUNE_VARIABLE = "TUNE_DISABLE_SIGINT_HANDLER"
"""With it Tune has a handler for SIGUSR1 only, and leaves SIGINT alone."""

SHOW_CURSOR = b"\x1b[?25h\n"
"""A live table hides it."""

_asked = False
_last_words = "interrupted"
_when_asked: Callable[[], None] | None = None


def asked_to_stop() -> bool:
    """Whether a signal has asked this process to stop, in a `handled` block."""
    return _asked


def say_at_the_end(text: str) -> None:
    """Print this text, in place of `interrupted`, when the second signal ends the process."""
    global _last_words
    _last_words = text


def call_when_asked(function: Callable[[], None]) -> None:
    """Call this function when the first signal asks to stop, in a thread of its own."""
    global _when_asked
    _when_asked = function


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Apply the policy in this block: for a program's main thread, from its start to its end.

    The first signal raises KeyboardInterrupt or, while Ray Tune runs, stops it. The second ends the
    process, even where the main thread waits for a library. SIGHUP stays ignored under nohup;
    SIGINT does not, though shells ignore it for what they start with `&` and Ray blocks it for its
    jobs: `crnn-search stop` uses it.
    """
    global _asked
    _asked = False
    with kept(*SIGNALS):
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, _interrupt)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        os.environ[TUNE_VARIABLE] = "1"
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        watch = threading.Thread(target=_end_at_the_second, args=(reader,), daemon=True)
        watch.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            os.close(writer)
            watch.join()
            os.close(reader)
            del os.environ[TUNE_VARIABLE]


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt in this block, unless the program has handlers
    of its own for them.
    """
    with kept(signal.SIGINT, signal.SIGTERM):
        if _in_main_thread():
            if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
                signal.signal(signal.SIGINT, signal.default_int_handler)
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        yield


@contextlib.contextmanager
def kept(*numbers: signal.Signals) -> Iterator[None]:
    """Restore the handlers of these signals after this block, whatever a library does to them."""
    before = {number: signal.getsignal(number) for number in numbers if _in_main_thread()}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # else it was not Python that set it
                signal.signal(number, handler)


def _in_main_thread() -> bool:
    """Whether this thread may set handlers."""
    return threading.current_thread() is threading.main_thread()


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Stop what the main thread does."""
    global _asked
    _asked = True
    if callable(signal.getsignal(signal.SIGUSR1)):  # Tune's, which ends its loop
        signal.raise_signal(signal.SIGUSR1)
    else:
        raise KeyboardInterrupt


def _end_at_the_second(reader: int) -> None:
    """Read the numbers of signals as they arrive, whatever the main thread does."""
    count = 0
    while received := os.read(reader, 64):
        before, count = count, count + sum(number in SIGNALS for number in received)
        if before == 0 < count and _when_asked:
            threading.Thread(target=_when_asked, daemon=True).start()
        if count > 1:
            with contextlib.suppress(OSError):
                if os.isatty(1):
                    os.write(1, SHOW_CURSOR)
                os.write(2, f"{_last_words}\n".encode(errors="replace"))
            os._exit(EXIT_CODE)
