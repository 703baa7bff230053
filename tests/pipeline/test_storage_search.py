"""A real search in an object store: its driver's machine dies, and the store hangs."""

from __future__ import annotations

import atexit
import json
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from crnn_search.data.digits import Digits
from crnn_search.storage.location import join
from crnn_search.storage.object_store import ObjectStore
from crnn_search.storage.runs import open_run
from tests.small_run import FinishedRun, prepare, results, run_here, start, wait_for_end
from tests.storage.s3_process import serve
from tests.waiting import wait

SHORT_LEASE = """
from crnn_search.storage import store_lease
store_lease.HEARTBEAT_S, store_lease.VALID_S, store_lease.STALE_S = 0.5, 1.5, 3.0
"""


@pytest.mark.long(85)
@pytest.mark.slow
def test_a_search_survives_a_dead_driver_and_a_store_that_hangs(
    tmp_path: Path, digits: Digits, request: pytest.FixtureRequest
) -> None:
    prepare(tmp_path, digits)
    log = tmp_path / "log"
    data = ("--data-dir", "data")
    with serve(tmp_path / "s3.log") as server:
        storage = join(server.uri, "machines")
        uri = join(storage, "demo")
        launch = ("launch", "space.yaml", "--name", "demo", "--storage", storage, *data)
        process = start(tmp_path, *launch, before=SHORT_LEASE, TMPDIR=own_folder())
        wait_for(uri, 0, process, event="epoch", name="trial-0001", epoch=1)
        status = run_here(tmp_path, "status", uri).stdout
        assert "demo: searching" in status
        assert tempfile.gettempdir() not in status
        other = run_here(tmp_path, "resume", uri, *data)
        assert other.returncode == 2
        assert "another process is using s3://bucket/runs/machines/demo" in other.stderr
        process.send_signal(signal.SIGKILL)
        process.wait(30)

        # Another machine, without the first one's folders.
        known = len(events(uri))
        process = start(tmp_path, "resume", uri, *data, before=SHORT_LEASE, TMPDIR=own_folder())
        wait_for(uri, known, process, event="epoch")
        with server.hanging():
            wait(lambda: "\nstorage: " in log.read_text(), 120, log.read_text)
            time.sleep(3)  # until others would take the lease for stale
        assert wait_for_end(process, tmp_path, 240) == 0, log.read_text()
        assert join(uri, "report.html") in log.read_text()
        finished: FinishedRun = request.getfixturevalue("finished")  # another test has launched it
        assert results(open_run(uri).root) == results(finished.folder)
        listed = run_here(tmp_path, "list", "--storage", storage)
        assert "demo finished" in " ".join(listed.stdout.split()), listed.stderr


def events(uri: str) -> list[dict[str, Any]]:
    """All events in the store so far."""
    store = ObjectStore(uri)
    names = [name for name in store.names() if name.startswith("journal.jsonl.d/")]
    text = b"".join(store.read(name) or b"" for name in names)
    return [json.loads(line) for line in text.splitlines()]


def wait_for(uri: str, after: int, process: subprocess.Popen[bytes], **fields: Any) -> None:
    """Wait until the store has an event with these fields, after its first `after` events."""

    def happened() -> bool:
        ended = process.poll() is not None
        if any(fields.items() <= event.items() for event in events(uri)[after:]):
            return True
        assert not ended, f"the run ended without an event with {fields}"
        return False

    wait(happened, 120, f"no event with {fields}", pause_s=0.5)


def own_folder() -> str:
    """A machine's own folder for temporary files; Ray's sockets need a short path."""
    folder = tempfile.mkdtemp(prefix="m")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
