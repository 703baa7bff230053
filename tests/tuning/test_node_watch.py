"""A cluster without a living node ends the stage."""

from __future__ import annotations

import os
import signal
import threading

import pytest
import ray

from crnn_search.tuning import node_watch
from crnn_search.tuning.node_watch import NodeWatch

MESSAGE = "no node of the cluster has been alive for 0 s; everything so far is kept; continue with"


class FakeProcess:
    """What the watch does to this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, connected: bool) -> None:
        self.signals: list[int] = []
        self.exits: list[int] = []
        self.interrupted, self.ended = threading.Event(), threading.Event()
        self.alive: list[object] = [object()]
        for name in ("CHECK_S", "NO_NODE_S", "GRACE_S"):
            monkeypatch.setattr(node_watch, name, 0.05)
        monkeypatch.setattr(node_watch, "nodes", lambda: self.alive)
        monkeypatch.setattr(os, "kill", self.kill)
        monkeypatch.setattr(os, "_exit", self.exit)
        monkeypatch.setattr(ray, "is_initialized", lambda: connected)

    def kill(self, _: int, number: int) -> None:
        self.signals.append(number)
        self.interrupted.set()

    def exit(self, code: int) -> None:
        self.exits.append(code)
        self.ended.set()


def test_lost_nodes_interrupt_the_main_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    process = FakeProcess(monkeypatch, connected=False)
    with NodeWatch("crnn-search resume runs/demo") as watch:
        assert not process.interrupted.wait(0.3)
        process.alive.clear()
        assert process.interrupted.wait(10)
    assert process.signals == [signal.SIGINT]
    assert str(watch.error) == f"{MESSAGE}\n  crnn-search resume runs/demo"
    assert not process.ended.wait(0.3)


def test_process_whose_main_thread_waits_for_ray_is_ended(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    process = FakeProcess(monkeypatch, connected=True)
    process.alive.clear()
    with NodeWatch("crnn-search resume runs/demo"):
        assert process.ended.wait(10)
    assert process.exits == [1]
    assert f"error: {MESSAGE}\n  crnn-search resume runs/demo\n" in capfd.readouterr().err


def test_watch_ends_with_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    process = FakeProcess(monkeypatch, connected=True)
    with NodeWatch("crnn-search resume runs/demo"):
        pass
    process.alive.clear()
    assert not process.interrupted.wait(0.3)
