from __future__ import annotations

import datetime
import json
import threading
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from sqlalchemy.pool import NullPool

from crnn_search.hyperparameters import TrialConfig
from crnn_search.spaces.file import parse_space
from crnn_search.storage.journal import SEARCH, History
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.trial import InfeasibleTrial, TrialRecord, TrialState
from crnn_search.tuning import study_mirror
from crnn_search.tuning.study_mirror import StudyMirror
from crnn_search.tuning.study_storage import of_file, of_server
from crnn_search.tuning.study_writer import StudyOf, StudyWriter
from tests.postgres import Postgres, needs_postgres, server
from tests.tuning.examples import record
from tests.waiting import wait

SPACE = parse_space("""
space:
  conv_channels: {list_of: {int: [2, 8]}, length: [1, 3]}
  kernel_size: {choice: [3, [5, 3]]}
  learning_rate: {float: [1.0e-3, 1.0e-2], log: true}
""")

CONFIG = TrialConfig.from_dict(
    {"conv_channels": [4, 8], "kernel_size": [5, 3], "learning_rate": 0.002}
)

INFEASIBLE = InfeasibleTrial(3, CONFIG.to_dict(), "no pixels")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = tmp_path / "demo {1}?%"
    folder.mkdir()
    return RunFolder(folder)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_mirror, "PAUSE_S", 0.0)
    monkeypatch.setattr(study_mirror, "BUSY", 0.0)
    monkeypatch.setattr(study_mirror, "RETRY_S", (0.1,))


def of(number: int, *rmse: float | None, **fields: Any) -> TrialRecord:
    """A trial of the search with these values, by epoch."""
    found = record(number, *rmse, node="here", device="cpu", seconds=2.0, **fields)
    found.trial = type(found.trial).from_dict(
        found.trial.to_dict() | {"config": CONFIG.to_dict(), "epochs": 2}
    )
    return found


def mirror(
    run: RunFolder,
    history: History | None = None,
    **options: Any,
) -> StudyMirror:
    created = options.pop("created", "2026-01-01")
    note = options.pop("note", pytest.fail)
    return StudyMirror(run, SPACE, history or History(), created, note, **options)


def storage(url: str) -> RDBStorage:
    """A database that no connection stays open to."""
    return RDBStorage(url, engine_kwargs={"poolclass": NullPool})


def study(run: RunFolder, url: str | None = None) -> optuna.Study:
    """A study as Optuna reads it; of a file at a place with a plain name."""
    if url is None:
        plain = run.root.parent / "plain.db"
        plain.write_bytes(run.study.read_bytes())
        url = f"sqlite:///{plain}"
    return optuna.load_study(study_name=run.name, storage=storage(url))


def trials(run: RunFolder, url: str | None = None) -> list[FrozenTrial]:
    return study(run, url).trials


ENDED = (
    of(0, 3.0, 2.0, state=TrialState.COMPLETE),
    of(1, 4.0, state=TrialState.PRUNED, reason="time budget used up"),
    of(2, 5.0, None, state=TrialState.FAIL, reason="diverged"),
)


def check_ended(found: list[FrozenTrial]) -> None:
    """Check the copies of `ENDED` and `INFEASIBLE`."""
    assert [trial.state.name for trial in found] == ["COMPLETE", "PRUNED", "FAIL", "FAIL"]
    assert [trial.value for trial in found] == [2.0, 4.0, None, None]
    steps = [trial.intermediate_values for trial in found]
    assert steps == [{1: 3.0, 2: 2.0}, {1: 4.0}, {1: 5.0}, {}]
    assert found[0].params == {
        "conv_channels.length": 2,
        "conv_channels.0": 4,
        "conv_channels.1": 8,
        "kernel_size": "[5, 3]",
        "learning_rate": 0.002,
    }
    parameters = CONFIG.model.parameter_count(SPACE.shape)
    own = {"parameters": parameters, "seconds": 2.0, "node": "here", "device": "cpu"}
    assert found[0].user_attrs.items() >= own.items()
    reasons = [trial.user_attrs.get("reason") for trial in found]
    assert reasons == [None, "time budget used up", "diverged", "no pixels"]


def test_the_file_follows_each_epoch(run: RunFolder) -> None:
    follower = mirror(run)
    with follower.running():
        wait(run.study.exists, 20, "there is no file")
        assert trials(run) == []
        follower.update(of(0, 3.0))
        wait(lambda: len(trials(run)) == 1, 20, "there is no trial")
        (found,) = trials(run)
        assert (found.state.name, found.intermediate_values) == ("RUNNING", {1: 3.0})
        assert found.user_attrs["run"] == str(run.root)
        for trial in (*ENDED, INFEASIBLE):
            follower.update(trial)
    check_ended(trials(run))
    assert study(run).metric_names == ["validation_rmse"]
    assert study(run).user_attrs == {"run": str(run.root), "created": "2026-01-01"}


def test_a_resumed_search_has_its_earlier_trials_and_their_times(run: RunFolder) -> None:
    events = [
        {"event": "session", "elapsed_s": 5.0, "started": "2026-01-01T10:00:05+00:00"},
        {"event": "trial", "elapsed_s": 10.0, "stage": SEARCH, "trial": ENDED[0].trial.to_dict()},
        {"event": "ended", "elapsed_s": 70.0, "name": "trial-0000"},
        {"event": "infeasible", "elapsed_s": 71.0, "number": 1},
    ]
    run.journal.write_text("".join(f"{json.dumps(event)}\n" for event in events))
    infeasible = InfeasibleTrial(1, CONFIG.to_dict(), "no pixels")
    running = of(2, 5.0)
    history = History({SEARCH: {"a": ENDED[0], "b": running}}, [infeasible])
    follower = mirror(run, history)
    with follower.running():
        follower.update(of(2, 5.0, 4.0, state=TrialState.COMPLETE))
    found = trials(run)
    assert [trial.state.name for trial in found] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert found[0].duration == datetime.timedelta(seconds=60)
    assert found[0].datetime_start
    expected = datetime.datetime(2026, 1, 1, 10, 0, 10, tzinfo=datetime.UTC)
    assert found[0].datetime_start.astimezone(datetime.UTC) == expected
    assert found[2].intermediate_values == {1: 5.0, 2: 4.0}


def test_updates_do_not_wait_for_a_database_that_hangs(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, notes = threading.Event(), list[str]()
    monkeypatch.setattr(StudyWriter, "write", lambda *_: hangs.wait(60))
    monkeypatch.setattr(study_mirror, "END_S", 0.1)
    follower = mirror(run, note=notes.append)
    with follower.running():
        for epoch in range(1000):
            follower.update(of(0, *[1.0] * (epoch % 3)))
    hangs.set()
    (note,) = notes
    assert note.endswith("study.db, is not up to date at the end of this session")


@pytest.mark.parametrize(("trials", "name"), [(0, "demo"), (1, "demo 2026-01-01")])
def test_a_study_that_says_nothing_is_taken_if_it_is_empty(
    tmp_path: Path, trials: int, name: str
) -> None:
    """A connection may be lost before a study says of what run it is."""
    file = of_file(tmp_path / "studies.db")
    other = optuna.create_study(study_name="demo", storage=storage(file.url))
    for _ in range(trials):
        other.ask()
    StudyWriter(file, StudyOf("demo", "runs/demo", "2026-01-01"), SPACE).close()
    assert name in optuna.get_all_study_names(storage(file.url))
    written = optuna.load_study(study_name=name, storage=storage(file.url))
    assert written.user_attrs["created"] == "2026-01-01"


@pytest.fixture
def postgres() -> Any:
    with server() as found:
        yield found


@needs_postgres
@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back_has_everything(
    run: RunFolder, postgres: Postgres
) -> None:
    notes: list[str] = []
    follower = mirror(run, note=notes.append, server=of_server(postgres.url))
    with follower.running():
        wait(lambda: len(notes) == 1, 30, "nobody noticed that the server is not there")
        follower.update(of(0, 3.0))
        postgres.start()
        wait(lambda: len(notes) == 2, 30, "nobody noticed the server")
        wait(lambda: len(trials(run, postgres.full_url)) == 1, 30, "there is no trial")
        postgres.kill()
        follower.update(ENDED[0])
        follower.update(ENDED[1])
        wait(lambda: len(notes) == 3, 30, "nobody noticed that the server has gone")
        postgres.start()
        follower.update(ENDED[2])
        follower.update(INFEASIBLE)
    check_ended(trials(run, postgres.full_url))
    assert not run.study.exists()
    assert notes[0].startswith(
        "cannot write the copy of the study for Optuna's dashboard, postgres"
    )
    assert "which does not stop the search: " in notes[2]
    assert notes[1] == notes[3]
    assert notes[1].endswith("is up to date again")
    _the_next_session(run, postgres)


def _the_next_session(run: RunFolder, postgres: Postgres) -> None:
    """It finds what is there; what its history does not say is removed. Runs are told apart."""
    here = of_server(postgres.url)
    run.journal.touch()
    known = {str(number): trial for number, trial in enumerate(ENDED)}
    before = trials(run, postgres.full_url)[0].datetime_complete
    with mirror(run, History({SEARCH: known}, [INFEASIBLE]), server=here).running():
        pass
    check_ended(trials(run, postgres.full_url))
    assert trials(run, postgres.full_url)[0].datetime_complete == before
    with mirror(run, History({SEARCH: {"0": of(0, 3.0)}}), server=here).running():
        pass
    (found,) = trials(run, postgres.full_url)
    assert (found.state.name, found.intermediate_values) == ("RUNNING", {1: 3.0})
    with mirror(run, created="2026-01-02", server=here).running():
        pass
    names = optuna.get_all_study_names(storage(postgres.full_url))
    assert sorted(names) == [run.name, f"{run.name} 2026-01-02"]


def test_a_study_that_sqlite_cannot_copy_is_a_note(run: RunFolder) -> None:
    run.study.mkdir()
    notes: list[str] = []
    with mirror(run, note=notes.append).running():
        pass
    assert len(notes) == 2
    assert "which does not stop the search: " in notes[0]
    run.study.rmdir()
    with mirror(run).running():
        pass
    assert trials(run) == []
