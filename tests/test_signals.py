"""The first SIGINT, SIGTERM or SIGHUP stops a process cleanly, the second ends it at once."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crnn_search import signals

WAITS = """
import time
from crnn_search import signals
with signals.handled():
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("stopping", signals.asked_to_stop(), flush=True)
        {then}
"""
IN_C = "import hashlib; hashlib.pbkdf2_hmac('sha512', b'', b'', 10**9)"
COMMAND = """
import time
from crnn_search.cli import app, watch

def wait(*_):
    print("ready", flush=True)
    time.sleep(60)

watch.open_run = wait
app.main()
"""
IGNORING = 'trap "" {}; exec "$@"'


@contextmanager
def running(
    program: str, *arguments: str, ignored: str = "USR2"
) -> Iterator[subprocess.Popen[str]]:
    """A Python program that has printed `ready`. ignored: a signal that it inherits as ignored."""
    shell = ["sh", "-c", IGNORING.format(ignored), "sh"]
    with subprocess.Popen(
        [*shell, sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


@pytest.mark.parametrize("number", signals.SIGNALS)
@pytest.mark.parametrize("ignored", ["USR2", "INT"])
def test_first_signal_stops_and_the_second_ends(number: signal.Signals, ignored: str) -> None:
    with running(WAITS.format(then="time.sleep(60)"), ignored=ignored) as process:
        process.send_signal(number)
        assert process.stdout
        assert process.stdout.readline() == "stopping True\n"
        process.send_signal(number)
        assert process.wait(5) == 130
        assert process.stderr
        assert process.stderr.read() == "interrupted\n"


def test_second_signal_ends_a_process_that_is_inside_a_library() -> None:
    with running(WAITS.format(then=IN_C)) as process:
        process.send_signal(signal.SIGTERM)
        assert process.stdout
        assert process.stdout.readline() == "stopping True\n"
        process.send_signal(signal.SIGHUP)
        assert process.wait(5) == 130


def test_hangup_stays_ignored_under_nohup() -> None:
    with running(WAITS.format(then=""), ignored="HUP") as process:
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired, match="timed out"):
            process.wait(0.3)
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 0


def test_blocked_signals_are_unblocked() -> None:
    program = (
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})\n"
        + WAITS.format(then="")
    )
    with running(program) as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 0


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_every_command_exits_130(number: signal.Signals) -> None:
    with running(COMMAND, "status", "runs/demo", ignored="INT") as process:
        process.send_signal(number)
        assert process.wait(5) == 130
        assert process.stderr
        assert process.stderr.read().strip() in {"interrupted", "Aborted.\ninterrupted"}


def test_handlers_are_restored() -> None:
    def handler(*_: object) -> None: ...

    before = [signal.getsignal(number) for number in signals.SIGNALS]
    with signals.handled(), signals.kept(signal.SIGTERM):
        assert signal.getsignal(signal.SIGINT) not in before
        signal.signal(signal.SIGTERM, handler)
    assert [signal.getsignal(number) for number in signals.SIGNALS] == before


def test_signal_while_tune_runs_is_tunes() -> None:
    asked: list[int] = []
    with signals.handled(), signals.kept(signal.SIGUSR1):
        signal.signal(signal.SIGUSR1, lambda number, _: asked.append(number))
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.01)
        assert asked == [signal.SIGUSR1]
        assert signals.asked_to_stop()


def test_program_without_handlers_is_interruptible(tmp_path: Path) -> None:
    program = """
import time
from crnn_search import signals
with signals.interruptible():
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("stopping", flush=True)
"""
    for number in (signal.SIGINT, signal.SIGTERM):
        with running(program, ignored="INT") as process:
            process.send_signal(number)
            assert process.wait(5) == 0
    for handler in (signal.default_int_handler, signal.SIG_IGN):
        with signals.kept(signal.SIGINT):
            signal.signal(signal.SIGINT, handler)
            with signals.interruptible():
                assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
            assert signal.getsignal(signal.SIGINT) is handler


def test_the_first_signal_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told = threading.Event()
    monkeypatch.setattr(signals, "_when_asked", None)
    signals.call_when_asked(told.set)
    with signals.handled():
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            signal.raise_signal(signal.SIGINT)
        assert told.wait(5)
