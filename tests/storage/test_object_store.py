"""Objects of a store: read, written, listed; retries and messages when that fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crnn_search.errors import InputError, StorageError
from crnn_search.storage import object_store
from crnn_search.storage.location import join
from crnn_search.storage.object_store import MAX_PAUSE_S, ObjectStore


class Clock:
    """Stands in for `time` in `object_store`: sleeping takes no time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)


class FailingSystem:
    """A file system whose requests fail some times, then succeed."""

    def __init__(self, message: str, failures: float) -> None:
        self.message, self.failures = message, failures

    def open_input_stream(self, path: str) -> Any:
        self.failures -= 1
        if self.failures >= 0:
            raise OSError(self.message)
        raise FileNotFoundError(path)

    open_output_stream = open_input_stream


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(object_store, "time", clock)
    return clock


def failing_store(message: str, failures: float, messages: list[str]) -> ObjectStore:
    store = ObjectStore("s3://bucket/runs?region=us-east-1", messages.append)
    store._system = FailingSystem(message, failures)
    return store


def test_an_object_that_was_written_is_read(s3: str) -> None:
    store = ObjectStore(join(s3, "objects"), pytest.fail)
    store.write("a/b", bytes(range(256)))
    assert store.read("a/b") == bytes(range(256))
    assert store.read("a/c") is None
    store.write("a/b", b"again")
    assert store.read("a/b") == b"again"
    store.remove("a/b")
    store.remove("a/b")
    assert store.read("a/b") is None


def test_names_are_listed_recursively_and_sorted(s3: str) -> None:
    store = ObjectStore(join(s3, "names"), pytest.fail)
    assert store.names() == []
    for name in ("b/c/d", "a", "b/a"):
        store.write(name, b"")
    assert store.names() == ["a", "b/a", "b/c/d"]
    assert store.names("b") == ["b/a", "b/c/d"]


def test_folders_with_an_object_are_listed(s3: str) -> None:
    store = ObjectStore(join(s3, "folders"), pytest.fail)
    assert store.folders_with("space.yaml") == []
    for name in ("b/space.yaml", "a/space.yaml", "half/lease.json", "space.yaml"):
        store.write(name, b"")
    assert store.folders_with("space.yaml") == ["a", "b"]


def test_fetch_copies_an_object_to_a_file(s3: str, tmp_path: Path) -> None:
    store = ObjectStore(join(s3, "fetched"), pytest.fail)
    store.write("a", b"content")
    store.fetch("a", tmp_path / "deep" / "a")
    store.fetch("missing", tmp_path / "missing")
    assert (tmp_path / "deep" / "a").read_bytes() == b"content"
    assert not (tmp_path / "missing").exists()


def test_a_failed_request_is_retried_with_growing_pauses(clock: Clock) -> None:
    messages: list[str] = []
    store = failing_store("timeout", 8, messages)
    assert store.read("a", retry_for_s=600) is None
    assert clock.pauses == [0.5, 1, 2, 4, 8, 16, MAX_PAUSE_S, MAX_PAUSE_S]
    assert messages == [
        "storage: s3://bucket/runs/a?region=us-east-1 cannot be reached, retrying for 600 s; "
        "trials wait, none is lost: timeout",
        f"storage: reachable again after {sum(clock.pauses):.0f} s",
    ]


def test_retries_end(clock: Clock) -> None:
    store = failing_store("timeout", float("inf"), [])
    with pytest.raises(StorageError, match=r"cannot read s3://bucket/runs/a.*: timeout; what"):
        store.read("a", retry_for_s=10)
    assert 10 <= clock.now < 10 + 8


@pytest.mark.parametrize(
    "message",
    [
        "AWS Error ACCESS_DENIED during HeadObject",
        "AWS Error INVALID_ACCESS_KEY_ID",
        "AWS Error SIGNATURE_DOES_NOT_MATCH",
    ],
)
def test_permanent_errors_are_not_retried(clock: Clock, message: str) -> None:
    messages: list[str] = []
    with pytest.raises(StorageError, match=message):
        failing_store(message, 1, messages).write("a", b"")
    assert clock.pauses == []
    assert messages == []


def test_a_slow_answer_is_reported(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    store = ObjectStore(join(s3, "slow"), messages.append)
    monkeypatch.setattr(object_store, "SLOW_S", 0.05)
    system = store._system

    class SlowSystem:
        def open_input_stream(self, path: str) -> Any:
            time.sleep(0.3)
            return system.open_input_stream(path)

    store._system = SlowSystem()
    assert store.read("a") is None
    slow, over = messages
    assert slow == f"storage: no answer from {store.uri.replace('slow', 'slow/a')} yet; " + (
        "trials wait, none is lost"
    )
    assert over == "storage: reachable again after 0 s"


READS: list[Callable[[ObjectStore], object]] = [
    lambda store: store.names(),
    lambda store: store.folders_with("space.yaml"),
]


@pytest.mark.parametrize("read", READS, ids=["names", "folders_with"])
def test_listing_a_missing_bucket_says_so(
    s3: str, read: Callable[[ObjectStore], object], clock: Clock
) -> None:
    store = ObjectStore(s3.replace("bucket", "nobucket"), pytest.fail)
    with pytest.raises(StorageError, match=r"cannot read s3://nobucket/.*: there is no bucket"):
        read(store)
    assert clock.pauses == []


def test_writing_to_a_missing_bucket_says_so(s3: str, clock: Clock) -> None:
    store = ObjectStore(s3.replace("bucket", "nobucket"), pytest.fail)
    with pytest.raises(StorageError, match=r"cannot write s3://nobucket/.*: there is no bucket"):
        store.write("a", b"")
    assert clock.pauses == []


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://key:secret@bucket/runs", "may not name its credentials"),
        ("nosuch://bucket/runs", "is not a storage that pyarrow knows"),
        ("s3://bucket/runs?acess=1", "takes the options region, endpoint_override, scheme, got"),
    ],
)
def test_a_wrong_uri_is_refused_without_its_secrets(uri: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        ObjectStore(uri)
    assert "secret" not in str(caught.value)
