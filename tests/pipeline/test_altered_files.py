"""Run files that were altered in any way: an error that names the file, or the true figures.

1,040 cases in the slow suite.
"""

from __future__ import annotations

import copy
import functools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crnn_search.api import Run
from crnn_search.data.digits import Digits
from crnn_search.errors import CrnnSearchError, InputError
from crnn_search.pipeline import run as pipeline
from crnn_search.results.schema import Report
from crnn_search.results.status import describe, list_status, plan, read_status
from crnn_search.results.summary import summary
from crnn_search.storage import jsonl
from crnn_search.storage.journal import read_history
from crnn_search.storage.run_folder import RunFolder
from tests.pipeline.small_pipeline import Recorder, no_cluster, results, work

FILES = (
    "journal.jsonl", "trials.jsonl", "manifest.json", "stages.json", "finalists.json", "best.json",
    "retrained.json", "report.json", "space.yaml",
)  # fmt: skip

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -1, 0, 2**64])
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["\ud800", "trial-0000", "search", "../x", "/"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["event", "name", "report", "test", "x"]), inner)
    ),
    max_leaves=6,
)

FIGURES = ("trials", "best", "running_trials", "compute", "elapsed_s", "sessions")

MANY = settings(
    max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, digits: Digits) -> Iterator[dict[str, Path]]:
    """A finished run, and what a crash left in the middle of a search: each in its own folder."""
    folder = tmp_path_factory.mktemp("altered")
    run = RunFolder(folder / "finished" / "demo")
    run.root.mkdir(parents=True)
    recorder = Recorder(run.root, folder / "unfinished")
    with pytest.MonkeyPatch.context() as patch, no_cluster(digits):
        patch.setattr("os.fsync", lambda handle: None)
        with recorder.recording():
            work(pipeline.launch, run)
        middle = next(c for c in recorder.copies if _has_listed(RunFolder(c), 3))
        yield {"finished": run.root, "unfinished": middle}


def _has_listed(run: RunFolder, count: int) -> bool:
    """Whether so many trials have ended, all of them with their lines in the ledger."""
    history = read_history(run.journal, run.ledger)
    return len(history.ended().trials) == count and not history.unlisted


def _altered(data: st.DataObject, root: Path, name: str) -> bytes:
    """The content of a file after something happened to it."""
    content = (root / name).read_bytes()
    lines = content.splitlines(keepends=True)
    kinds = ["any JSON", "cut", "doubled", "of another file", "line away", "line twice",
             "lines swapped", "value", "added"]  # fmt: skip
    kind = data.draw(st.sampled_from(kinds), "kind")
    if kind == "any JSON":
        return _dump(data.draw(JSON))
    if kind == "cut":
        return content[: data.draw(st.integers(0, len(content)), "bytes")]
    if kind == "doubled":
        return content * 2
    if kind == "of another file":
        others = [path for path in (root / n for n in FILES) if path.exists()]
        return data.draw(st.sampled_from(others), "file").read_bytes()
    if kind == "added":
        return content + _dump(data.draw(JSON))
    return b"".join(_other_lines(data, kind, name, lines))


def _other_lines(data: st.DataObject, kind: str, name: str, lines: list[bytes]) -> list[bytes]:
    """The lines of a file after something happened to one or two of them."""
    place = data.draw(st.integers(0, len(lines) - 1), "line")
    other = data.draw(st.integers(0, len(lines) - 1), "other line")
    if kind == "line away":
        del lines[place]
    elif kind == "line twice":
        lines.insert(other, lines[place])
    elif kind == "lines swapped":
        lines[place], lines[other] = lines[other], lines[place]
    elif name.endswith(".jsonl"):
        lines[place] = _dump(_with_other_value(data, json.loads(lines[place])))
    elif name.endswith(".json"):
        return [_dump(_with_other_value(data, json.loads(b"".join(lines))))]
    return lines


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _with_other_value(data: st.DataObject, value: Any) -> Any:
    """A JSON value with another one, or none, somewhere inside."""
    value = inside = copy.deepcopy(value)
    while True:
        keys = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
        key = data.draw(st.sampled_from(keys), "key")
        if isinstance(inside[key], dict | list) and inside[key] and data.draw(st.booleans()):
            inside = inside[key]
            continue
        if data.draw(st.booleans(), "remove"):
            del inside[key]
        else:
            inside[key] = data.draw(JSON)
        return value


def _shown(run: RunFolder) -> dict[str, Any]:
    """All that commands show of a run; of each an `InputError`, if it is one."""
    found: dict[str, Any] = {}
    ((_, listed),) = list_status(str(run.root.parent))
    assert isinstance(listed, dict | InputError)
    commands: dict[str, Callable[[], Any]] = {
        "status": lambda: read_status(run),
        "trials": Run(run).trials,
        "report": Run(run).report,
        "check": lambda: Run(run).check(force=True),
    }
    for name, show in commands.items():
        try:
            found[name] = show()
        except InputError as error:
            found[name] = error
    assert all(str(what).encode() for what in found.values() if isinstance(what, InputError))
    if isinstance(found["status"], dict):
        for text in (describe(found["status"]), plan(found["status"])):
            text.encode()
        json.dumps(found["status"], allow_nan=False)
        assert isinstance(listed, dict)
    if isinstance(report := found["report"], dict):
        summary(cast("Report", report))
    return found


@functools.cache
def _shown_before(root: Path) -> dict[str, Any]:
    """All that commands show of the run that no test has altered yet."""
    return _shown(RunFolder(root))


def _says_the_same(altered: bytes, content: bytes) -> bool:
    """Whether two files are equal, or JSON of the same value: keys may be in another order."""
    try:
        return bool(json.loads(altered) == json.loads(content))
    except (ValueError, RecursionError):
        return altered == content


@pytest.mark.long(20)
@pytest.mark.slow
@MANY
@given(data=st.data())
def test_a_finished_run_shows_its_figures_or_an_error(
    runs: dict[str, Path], data: st.DataObject
) -> None:
    run = RunFolder(runs["finished"])
    expected = _shown_before(run.root)
    name = data.draw(st.sampled_from(FILES), "name")
    path = run.root / name
    content = path.read_bytes()
    altered = _altered(data, run.root, name)
    try:
        path.write_bytes(altered)
        found = _shown(run)
    finally:
        path.write_bytes(content)
    for figure in FIGURES if isinstance(found["status"], dict) else ():
        assert found["status"][figure] == expected["status"][figure]
    if isinstance(found["status"], dict) and not _says_the_same(altered, content):
        shown = found["status"]
        # A ledger may be in another order; a list of files that lost one checks the others.
        unseen = {"trials.jsonl", "stages.json"}
        assert shown["stage"] != "finished" or shown["notes"] or name in unseen
    for what in ("trials", "report"):
        if not isinstance(found[what], InputError) and name != "journal.jsonl":
            assert found[what] == expected[what]


@pytest.mark.long(20)
@pytest.mark.slow
@MANY
@given(data=st.data())
def test_an_unfinished_run_shows_the_trials_that_ended_or_an_error(
    runs: dict[str, Path], data: st.DataObject
) -> None:
    run = RunFolder(runs["unfinished"])
    expected = _shown_before(run.root)
    name = data.draw(st.sampled_from(["journal.jsonl", "trials.jsonl", "manifest.json"]), "name")
    path = run.root / name
    content = path.read_bytes()
    try:
        path.write_bytes(_altered(data, run.root, name))
        found = _shown(run)
    finally:
        path.write_bytes(content)
    if not isinstance(found["trials"], InputError):
        rows = {row["number"]: row for row in found["trials"]}
        for row in expected["trials"]:
            if row["state"] != "RUNNING":
                assert rows[row["number"]] == row


@pytest.mark.slow
@settings(MANY, max_examples=40)
@given(data=st.data())
def test_a_run_with_an_altered_file_is_resumed_or_refused(
    runs: dict[str, Path], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    expected = results(RunFolder(runs["finished"]))
    root = tmp_path_factory.mktemp("resumed") / "demo"
    shutil.copytree(runs["finished"], root)
    run = RunFolder(root)
    name = data.draw(st.sampled_from(FILES[2:-1]), "name")
    altered = _altered(data, root, name)
    (root / name).write_bytes(altered)
    refused = None
    try:
        work(pipeline.resume, run)
    except CrnnSearchError as error:
        refused = str(error)
    assert name in refused if refused else results(run) == expected
    shutil.rmtree(root.parent)


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_a_ledger_that_was_cut_is_completed_from_the_journal(
    runs: dict[str, Path], tmp_path: Path, cut: int
) -> None:
    shutil.copytree(runs["finished"], tmp_path / "demo")
    run = RunFolder(tmp_path / "demo")
    expected = read_status(run)
    number = jsonl.read(run.ledger)[-1]["number"]
    run.ledger.write_bytes(run.ledger.read_bytes()[:-cut])
    found = read_status(run)
    (note,) = found["notes"]
    last = f"trial-{number:04d}"
    assert note == f"{run.ledger} lacks the end of {last}; taken from journal.jsonl"
    assert {**found, "notes": []} == expected
    work(pipeline.resume, run)
    assert read_status(run)["notes"] == []


def test_a_journal_that_was_cut_is_completed_from_the_ledger(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    """Was `ValueError: trial-0000 has no last value`."""
    shutil.copytree(runs["unfinished"], tmp_path / "demo")
    run = RunFolder(tmp_path / "demo")
    lines = run.journal.read_bytes().splitlines(keepends=True)
    for count in range(len(lines)):
        run.journal.write_bytes(b"".join(lines[:count]))
        found = read_status(run)
        assert found["trials"]["completed"] + found["trials"]["stopped"] >= 3 - 1
    run.journal.write_bytes(b"".join(lines[:4]))
    work(pipeline.resume, run)
    found, expected = results(run), results(RunFolder(runs["finished"]))
    assert found["ledger"] == expected["ledger"]
    assert found["report.json"]["test"] == expected["report.json"]["test"]
