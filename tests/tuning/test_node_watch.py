"""A cluster without a living node ends the stage."""

from __future__ import annotations

import pytest

from crnn_search.errors import RunError
from crnn_search.tuning import node_watch
from crnn_search.tuning.node_watch import NodeWatch


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_no_living_node_for_a_minute_ends_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, alive = Clock(), [object()]
    monkeypatch.setattr(node_watch, "time", clock)
    monkeypatch.setattr(node_watch, "nodes", lambda: alive)
    watch = NodeWatch("crnn-search resume runs/demo")

    def step(after_s: float) -> None:
        clock.now += after_s
        watch.on_step_end(1, [])

    step(100)
    alive.clear()
    step(30)
    step(30)
    alive.append(object())
    step(30)
    alive.clear()
    step(59)
    with pytest.raises(RunError, match=r"no node .* for 60 s; .*\n  crnn-search resume runs/demo"):
        step(6)
    assert isinstance(watch.error, RunError)
    step(1)  # it looks every few seconds only
