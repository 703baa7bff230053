"""TensorBoard and Optuna's dashboard on a search that is interrupted and resumed.

They are the real servers, read through a real browser; the study goes into a file first, then into
a real PostgreSQL server, which is killed and started again while the search goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import psycopg
import pytest
from optuna.storages import RDBStorage
from playwright.sync_api import Page
from sqlalchemy.pool import NullPool

from crnn_search.data.digits import Digits
from crnn_search.storage import jsonl
from tests import held
from tests.browser import answers, needs_chromium, page
from tests.postgres import needs_postgres, server
from tests.small_run import (
    LAUNCH,
    REPOSITORY,
    RESUME,
    SPACE,
    prepare,
    start,
    wait_for,
    wait_for_end,
)
from tests.waiting import wait

MAIN = "from crnn_search.cli.app import main; main()"
SECRET = "s3cret"
WORDS = {"COMPLETE": "Complete", "PRUNED": "Pruned"}


@contextlib.contextmanager
def board(root: Path, *words: str) -> Iterator[str]:
    """A server on the run; gives the URL that it says."""
    with subprocess.Popen(
        [sys.executable, "-c", MAIN, words[0], "runs/demo", "--port", "0", *words[1:]],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={"PATH": "", "PYTHONPATH": REPOSITORY},
        start_new_session=True,
    ) as process:
        assert process.stdout
        try:
            url = process.stdout.readline().split(": ", 1)[1].strip()
            wait(lambda: answers(url), 60, f"{url} does not answer")
            yield url
        finally:
            process.send_signal(signal.SIGTERM)


def check_hparams(browser: Page, url: str, run: Path, expected: list[str]) -> None:
    """Check the rows of HParams, and that the objective is what TensorBoard shows first."""
    browser.goto(url)
    cards = browser.locator("card-view")
    cards.first.wait_for()
    assert cards.first.inner_text().replace("\n", "").startswith("validation/rmse")
    browser.goto(url.split("?", maxsplit=1)[0] + "#hparams")
    lines = jsonl.read(run / "trials.jsonl")
    full = [line["validation_rmse"][-1] for line in lines if line["state"] == "COMPLETE"]
    for text in (*expected, "learning_rate", *(f"{rmse:#.5g}" for rmse in full)):
        browser.get_by_text(text, exact=True).first.wait_for()
    assert browser.get_by_text("batch_size", exact=True).count() == 0


def check_dashboard(browser: Page, url: str, states: list[str]) -> None:
    """Check the state of each trial on the page of Optuna's dashboard."""
    browser.goto(f"{url}/trials")
    browser.get_by_text(f"{len(states)} Trials").first.wait_for()
    text = browser.locator("body").inner_text()
    words = [
        line for line in text.splitlines() if line in {"Complete", "Pruned", "Fail", "Running"}
    ]
    assert words[: len(states)] == states


def study_of(url: str) -> optuna.Study:
    storage = RDBStorage(url, engine_kwargs={"poolclass": NullPool})
    return optuna.load_study(study_name="demo", storage=storage)


@pytest.mark.long(80)
@pytest.mark.slow
@needs_chromium
@needs_postgres
def test_boards_follow_a_search_through_all_that_happens_to_it(
    tmp_path: Path, digits: Digits
) -> None:
    prepare(tmp_path, digits, SPACE.replace("seeds: 2", "seeds: 1"))
    run, go = tmp_path / "runs" / "demo", held.go_file("demo", tmp_path)
    process = start(tmp_path, *LAUNCH, before=held.PROGRAM, HELD=str(tmp_path))
    wait_for(run, process=process, event="epoch", name="trial-0002")
    with page() as browser, server() as postgres:
        with board(tmp_path, "tensorboard") as url:
            check_hparams(browser, url, run, ["trial-0000", "trial-0001", "trial-0002"])
        with board(tmp_path, "dashboard") as url:
            check_dashboard(browser, url, ["Complete", "Complete", "Running"])
        process.send_signal(signal.SIGINT)
        assert wait_for_end(process, tmp_path) == 130
        postgres.start()
        seen = len(jsonl.read(run / "journal.jsonl"))
        secret = postgres.url.replace("@/", f":{SECRET}@/")
        process = start(
            tmp_path, *RESUME, before=held.PROGRAM, HELD=str(tmp_path),
            CRNN_SEARCH_STUDY_STORAGE=secret,
        )  # fmt: skip
        wait_for(run, seen, process, event="stage", stage="search")
        wait(lambda: _has_study(postgres.url), 60, "there is no study")
        assert _processes_with(SECRET) <= {process.pid}
        postgres.kill()
        go.touch()
        wait_for(run, seen, process, event="stage", stage="finalists")
        postgres.start()
        assert wait_for_end(process, tmp_path) == 0, (tmp_path / "log").read_text()
        study = study_of(postgres.full_url)
        lines = jsonl.read(run / "trials.jsonl")
        assert [trial.state.name for trial in study.trials] == [line["state"] for line in lines]
        for trial, line in zip(study.trials, lines, strict=True):
            assert trial.intermediate_values == dict(enumerate(line["validation_rmse"], start=1))
            assert trial.user_attrs["node"] == line["node"]
        log = (tmp_path / "log").read_text()
        assert "which does not stop the search" in log
        files = [path for path in run.rglob("*") if path.is_file()]
        assert not [path for path in files if SECRET.encode() in path.read_bytes()]
        assert SECRET not in log
        states = [WORDS[line["state"]] for line in lines]
        with board(tmp_path, "dashboard", "--study-storage", postgres.url) as url:
            check_dashboard(browser, url, states)
        names = [line["name"] for line in lines]
        best = json.loads((run / "best.json").read_text())["number"]
        with board(tmp_path, "tensorboard") as url:
            check_hparams(browser, url, run, [*names, f"trial-{best:04d}-retrained-0"])


def _has_study(url: str) -> bool:
    try:
        with psycopg.connect(url) as connection:
            return connection.execute("select study_name from studies").fetchall() == [("demo",)]
    except psycopg.errors.UndefinedTable:
        return False


def _processes_with(text: str) -> set[int]:
    """The processes that have a text in their arguments or got it in their environment."""
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208  (processes end meanwhile)
        for file in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                if text.encode() in Path(f"/proc/{name}/{file}").read_bytes():
                    found.add(int(name))
    return found
