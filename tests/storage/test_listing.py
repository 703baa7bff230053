"""`list` and `status` of runs in an object store read only what they show."""

from __future__ import annotations

from typing import Any

import obstore
import pytest

from crnn_search.errors import InputError
from crnn_search.results.status import FILES, list_status, read_status
from crnn_search.storage import journal, lease, stages
from crnn_search.storage.files import write_json
from crnn_search.storage.location import join
from crnn_search.storage.run_folder import LEASE, RunFolder
from crnn_search.storage.runs import create_run, open_run
from tests.storage.examples import new_record

SPACE = "search: {trials: 2}\nspace: {dropout: {float: [0.0, 0.5]}}"

pytestmark = pytest.mark.usefixtures("short_lease")


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is read and listed, one entry a request."""
    made: list[str] = []
    get, find = obstore.get, obstore.list

    def counted_get(store: Any, name: str) -> Any:
        made.append(name)
        return get(store, name)

    def counted_find(store: Any, below: str | None) -> Any:
        made.append("(list)")
        return find(store, below)

    monkeypatch.setattr(obstore, "get", counted_get)
    monkeypatch.setattr(obstore, "list", counted_find)
    return made


def new_run(storage: str, name: str, *, retrained: bool = False) -> RunFolder:
    """A run with two trials, one ended; with model, plots and checkpoints if it is retrained."""
    run = create_run(storage, name)
    assert run.mirror
    with run.changes():
        run.space.write_text(SPACE)
        run.manifest.write_text("{}")
        if retrained:
            for path in (run.best, run.retrained, run.report_json):
                write_json(path, {})
            models = run.retrained_models / "a.safetensors", run.model / "model.onnx"
            for path in models:
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(bytes(1000))
            stages.record(run, stages.FINALISTS, [run.best])
            stages.record(run, stages.RETRAIN, [run.retrained, models[0]])
            stages.record(run, stages.REPORT, [run.report_json])
            stages.record(run, stages.EXPORT, [models[1]])
            stages.record(run, stages.FINISHED, [run.space, run.manifest])
    record = new_record(0)
    journal.append(run, run.journal, {
        "event": "trial", "elapsed_s": 1.0, "stage": "search", "trial": record.trial.to_dict(),
    })  # fmt: skip
    journal.append(run, run.ledger, record.to_dict())
    run.mirror.store.write("checkpoints/trial-0000/a", b"state")
    return run


def test_a_listing_reads_no_models_and_the_journals_of_unfinished_runs_only(
    s3: str, requests: list[str]
) -> None:
    new_run(s3, "done", retrained=True)
    new_run(s3, "open")
    requests.clear()
    rows = {run.name: content for run, content in list_status(s3)}
    done, started = rows["done"], rows["open"]
    assert isinstance(done, dict)
    assert isinstance(started, dict)
    assert (done["stage"], done["held"], done["best"]["number"]) == ("finished", False, 0)
    assert (started["stage"], started["trials"]["completed"]) == ("search", 1)
    kinds = sorted(name.partition(".d/")[0].rpartition("/")[2] for name in requests)
    assert kinds == [
        "(list)", "(list)", "journal.jsonl", "manifest.json", "manifest.json", "report.json",
        "space.yaml", "space.yaml", "stages.json", "trials.jsonl", "trials.jsonl",
    ]  # fmt: skip


def test_a_listing_sees_that_a_finished_run_is_being_extended(s3: str) -> None:
    """Its other files were those of the finished run when the extension was interrupted."""
    run = new_run(s3, "done", retrained=True)
    with run.changes():
        stages.record(run, stages.FINISHED, [run.space, run.manifest, run.journal])
    ((_, content),) = list_status(s3)
    assert isinstance(content, dict)
    assert content["stage"] == "finished"
    none = dict.fromkeys(("time_s", "core_seconds", "gpu_seconds"))
    budget = {"limits": none, "before": none}
    event = {"event": "extension", "elapsed_s": 2.0, "trials": 4, "budget": budget, "report": None}
    journal.append(run, run.journal, event)
    ((_, content),) = list_status(s3)
    assert isinstance(content, dict)
    assert (content["stage"], content["trials"]["requested"]) == ("search", 4)


def test_status_reads_no_models(s3: str, requests: list[str]) -> None:
    run = new_run(s3, "done", retrained=True)
    requests.clear()
    assert read_status(open_run(run.location, FILES))["stage"] == "finished"
    assert not [name for name in requests if "model" in name or "safetensors" in name]
    assert len(requests) == 8


def test_a_listing_shows_heartbeats_and_what_cannot_be_read(s3: str) -> None:
    alive, dead, broken = (new_run(s3, name) for name in ("alive", "dead", "broken"))
    assert broken.mirror
    assert dead.mirror
    dead.mirror.store.write(LEASE, b'{"owner": "gone", "heartbeat": 1}')
    broken.mirror.store.write("space.yaml", b"space: 3")
    with lease.acquire(alive, pytest.fail):
        rows = {run.name: content for run, content in list_status(s3)}
    assert isinstance(rows["alive"], dict)
    assert isinstance(rows["dead"], dict)
    assert (rows["alive"]["held"], rows["dead"]["held"]) == (True, False)
    assert isinstance(rows["broken"], InputError)
    assert join(s3, "broken", "space.yaml") in str(rows["broken"])
    assert str(broken.root.parent) not in str(rows["broken"])
