"""Processes that want the lease of a run at the same time."""

from __future__ import annotations

import json
import multiprocessing
from typing import Any, Protocol

import pytest

from crnn_search.errors import LeaseLostError
from crnn_search.storage import store_lease
from crnn_search.storage.object_store import ObjectStore
from crnn_search.storage.run_folder import LEASE
from crnn_search.storage.store_lease import FREE, StoreLease

ROUND_S = 60.0
"""How long a process waits for the other."""


class Barrier(Protocol):
    def wait(self) -> int: ...


def prepare(store: ObjectStore, number: int) -> None:
    """A free lease for 0, one of a dead process for other numbers."""
    dead = json.dumps({"owner": "dead", "heartbeat": number}).encode()
    store.write(LEASE, dead if number else FREE)


def compete(store: ObjectStore, barrier: Barrier) -> str | None:
    """Acquire the lease; writes when all competitors have seen the same. The owner's name if won.

    Any owner must count as dead: `STALE_S` must be 0.
    """
    replace, waited = store.replace, list[int]()

    def wait_and_replace(*arguments: Any) -> Any:
        if not waited:
            waited.append(barrier.wait())
        return replace(*arguments)

    store.replace = wait_and_replace  # type: ignore[method-assign, assignment]
    lease = StoreLease(store)
    try:
        lease.acquire()
    except LeaseLostError:
        return None
    finally:
        store.replace = replace  # type: ignore[method-assign]
    return lease._owner


def race(uri: str, rounds: int) -> list[int]:
    """How many of two processes had the lease in each round, as each process and the store say."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2, timeout=ROUND_S), context.SimpleQueue()
    processes = [
        context.Process(
            target=_compete_often, args=(uri, rounds, first, barrier, results), daemon=True
        )
        for first in (True, False)
    ]
    for process in processes:
        process.start()
    # Each waits for the other in every round, and with an end: so both end.
    for process in processes:
        process.join()
    codes = [process.exitcode for process in processes]
    assert codes == [0, 0], f"the processes ended with {codes}: see their errors above"
    won = [results.get() for _ in processes]
    return [sum(counts) for counts in zip(*won, strict=True)]


def _compete_often(uri: str, rounds: int, first: bool, barrier: Any, results: Any) -> None:
    store_lease.STALE_S = 0.0
    store, won = ObjectStore(uri, pytest.fail), []
    for number in range(rounds):
        if first:
            prepare(store, number % 2 and number)
        barrier.wait()
        winner = compete(store, barrier)
        barrier.wait()
        won.append(winner is not None and winner == store_lease.owner(store))
        barrier.wait()
    results.put(won)
