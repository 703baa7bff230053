"""Runs in an object store: a real S3 server here, drivers that die, a server that hangs."""

from __future__ import annotations

import atexit
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from crnn_search.data.sequences import Digits
from crnn_search.errors import InputError, RunFolderError, StorageError
from crnn_search.storage import journal, jsonl, lease
from crnn_search.storage.files import write_json
from crnn_search.storage.mirror import SEGMENT_LINES
from crnn_search.storage.object_store import ObjectStore, join
from crnn_search.storage.run_folder import RunPaths, create_run, open_run, runs
from tests.pipeline.test_resume import results
from tests.small_run import SPACE, FinishedRun, command, start, write_mnist

QUICK = """
from crnn_search.storage import lease
lease.BEAT_S, lease.VALID_S, lease.STALE_S = 0.5, 1.5, 3.0
"""
"""A lease that is stale after three seconds."""


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[bytes]
    uri: str

    def hang(self, hanging: bool) -> None:
        self.process.send_signal(signal.SIGSTOP if hanging else signal.SIGCONT)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    with (tmp_path_factory.mktemp("s3") / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", program], stdout=log, stderr=log)
    patch = pytest.MonkeyPatch()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patch.setenv(name, "testing")
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    try:
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as client:
                if not client.connect_ex(("127.0.0.1", port)):
                    break
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        bucket = urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT")
        urllib.request.urlopen(bucket).close()
        options = f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
        yield Server(process, f"s3://bucket/runs?{options}")
    finally:
        process.kill()
        process.wait()
        patch.undo()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("BEAT_S", 0.2), ("VALID_S", 0.6), ("STALE_S", 1.5)):
        monkeypatch.setattr(lease, name, seconds)


def test_a_mirror_gives_back_what_was_pushed_and_appended(server: Server) -> None:
    run = create_run(server.uri, "mirrored")
    assert run.mirror
    with pytest.raises(RunFolderError, match="a run called 'mirrored' exists in s3://bucket"):
        create_run(server.uri, "mirrored")
    run.space.write_text("space: {}")
    write_json(run.best, {"number": 1})
    (run.plots / "deep").mkdir(parents=True)
    (run.plots / "deep" / "a.bin").write_bytes(bytes(range(256)))
    (run.root / "checkpoints").mkdir()
    (run.root / "checkpoints" / "not-this").touch()
    run.push()
    events = [{"event": "epoch", "epoch": n} for n in range(SEGMENT_LINES + 5)]
    for part in (events[:3], events[3:]):  # two sessions
        run.mirror.begin()
        for event in part:
            journal.append(run, run.journal, event)
    again = open_run(run.location)
    assert jsonl.read(again.journal) == events == jsonl.read(run.journal)
    assert again.best.read_bytes() == run.best.read_bytes()
    assert (again.plots / "deep" / "a.bin").read_bytes() == bytes(range(256))
    assert not again.checkpoints.exists()
    segments = [n for n in run.mirror.store.names() if n.startswith("journal")]
    assert len(segments) == 3

    run.best.unlink()
    run.push()
    assert not open_run(run.location).best.exists()


def test_a_line_counts_only_once_the_store_has_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = create_run(server.uri, "refused")
    assert run.mirror
    run.space.write_text("space: {}")
    run.push()
    run.mirror.begin()

    def fail(*_: Any) -> None:
        raise StorageError("s3://bucket", "no")

    monkeypatch.setattr(run.mirror.store, "write", fail)
    with pytest.raises(StorageError, match="cannot write s3://bucket: no"):
        journal.append(run, run.journal, {"event": "epoch"})
    assert not run.journal.exists()


def test_a_lease_has_one_owner_and_a_dead_owners_is_taken(
    server: Server, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = create_run(server.uri, "leased")
    run.space.write_text("space: {}")
    run.push()
    notes: list[str] = []
    beat, asleep = lease._Lease.beat, threading.Event()
    monkeypatch.setattr(lease._Lease, "beat", lambda self: asleep.is_set() or beat(self))
    with lease.hold(run, notes.append):
        assert lease.is_held(run)
        other = open_run(run.location)
        with pytest.raises(RunFolderError, match="another process works on s3://bucket/runs/l"):
            enter(other, notes)
        asleep.set()  # this process stands still: another takes the run
        time.sleep(0.5)
        with lease.hold(other, notes.append):
            with pytest.raises(StorageError, match="has taken the run over"):
                journal.append(run, run.journal, {"event": "epoch"})
            journal.append(other, other.journal, {"event": "mine"})
    assert not lease.is_held(run)
    assert jsonl.read(open_run(run.location).journal) == [{"event": "mine"}]


def enter(run: RunPaths, notes: list[str]) -> None:
    with lease.hold(run, notes.append):
        pass


def test_a_store_that_hangs_is_waited_for(server: Server) -> None:
    said: list[str] = []
    store = ObjectStore(join(server.uri, "hanging"), said.append)
    server.hang(True)
    timer = subprocess.Popen(["sh", "-c", f"sleep 15; kill -CONT {server.process.pid}"])
    store.write("a", b"content")
    timer.wait()
    assert store.read("a") == b"content"
    assert said[0].startswith("storage: ")
    assert "trials wait, none is lost" in said[0]
    assert "reached again after" in said[-1]


def test_only_folders_that_hold_a_run_are_listed(server: Server) -> None:
    storage = join(server.uri, "listed")
    for name in ("b/space.yaml", "a/space.yaml", "half/lease.json"):
        ObjectStore(storage).write(name, b"content")
    assert runs(storage) == [join(storage, "a"), join(storage, "b")]


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://key:secret@bucket/runs", "may not name its credentials"),
        ("nosuch://bucket/runs", "is no storage that pyarrow knows"),
        ("s3://bucket/runs?acess=1", "takes the options region, endpoint_override, scheme, got"),
    ],
)
def test_a_wrong_uri_is_refused_without_its_secrets(uri: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        ObjectStore(uri)
    assert "secret" not in str(caught.value)


def test_a_bucket_that_is_not_there_is_refused_at_once(server: Server) -> None:
    with pytest.raises(RunFolderError, match="cannot write to s3://nobucket/"):
        create_run(server.uri.replace("bucket", "nobucket"), "demo")


def test_places_are_joined_before_their_options() -> None:
    assert join("s3://b/p?scheme=http", "a", "b") == "s3://b/p/a/b?scheme=http"
    assert join("/shared/runs/", "a") == "/shared/runs/a"


def events(uri: str) -> list[dict[str, Any]]:
    store = ObjectStore(uri)
    names = [name for name in store.names() if name.startswith("journal.jsonl.d/")]
    text = b"".join(store.read(name) or b"" for name in names)
    return [json.loads(line) for line in text.splitlines()]


def wait_for(uri: str, after: int, **wanted: Any) -> None:
    deadline = time.monotonic() + 120
    while not any(wanted.items() <= event.items() for event in events(uri)[after:]):
        assert time.monotonic() < deadline, f"{wanted} does not happen"
        time.sleep(0.1)


def test_a_search_in_a_store_survives_its_drivers_machine_and_a_store_that_hangs(
    tmp_path: Path, digits: Digits, server: Server, finished: FinishedRun
) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    write_mnist(tmp_path / "data", digits)
    storage = join(server.uri, "machines")
    uri = join(storage, "demo")
    data = ("--data-dir", "data")
    launch = ("launch", "space.yaml", "--name", "demo", "--storage", storage, *data)
    process = start(tmp_path, *launch, before=QUICK, TMPDIR=own_folder())
    wait_for(uri, 0, event="epoch", name="trial-0001", epoch=1)
    assert "demo: searching; a process works on it" in command(tmp_path, "status", uri).stdout
    other = command(tmp_path, "resume", uri, *data)
    assert other.returncode == 2
    assert "another process works on s3://bucket/runs/machines/demo" in other.stderr
    process.send_signal(signal.SIGKILL)
    process.wait()

    # Another machine: nothing is left of the first one's folders.
    known = len(events(uri))
    process = start(tmp_path, "resume", uri, *data, before=QUICK, TMPDIR=own_folder())
    wait_for(uri, known, event="epoch")
    server.hang(True)
    time.sleep(15)
    server.hang(False)
    assert process.wait(timeout=240) == 0, (tmp_path / "log").read_text()
    printed = (tmp_path / "log").read_text()
    assert "trials wait, none is lost" in printed
    assert f"report: {join(uri, 'report.md')}" in printed
    assert results(open_run(uri).root) == results(finished.folder)
    listed = command(tmp_path, "list", "--storage", storage)
    assert "demo finished no 5 of 5" in " ".join(listed.stdout.split()), listed.stderr


def own_folder() -> str:
    """A machine's own folder for temporary files; Ray's sockets need a short path."""
    folder = tempfile.mkdtemp(prefix="m")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
