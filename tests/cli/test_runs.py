"""status, list, trials, logs, stop and submit, with a cluster that is not there."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml

from crnn_search.cli.data import read_for
from crnn_search.cluster.jobs import Submitted
from crnn_search.spaces.file import load_space
from crnn_search.storage.run_folder import RunFolder
from tests.cli.conftest import SPACE, CommandLine, Done
from tests.data.folders import clips

ADDRESS = "http://127.0.0.1:8265"
BUCKET = "s3://bucket/my runs/demo?region=eu-central-1"


class Head:
    """A cluster with one job, which records what is submitted."""

    submitted: ClassVar[list[tuple[list[str], str, str | None, dict[str, Path]]]] = []
    known = Submitted("demo-1", "RUNNING", "/shared/runs/demo", 0)

    def __init__(self, address: str) -> None:
        assert address == ADDRESS

    def submit(
        self, arguments: list[str], run: str, space: str | None, files: dict[str, Path]
    ) -> str:
        self.submitted.append((arguments, run, space, files))
        return "demo-2"

    def jobs(self) -> list[Submitted]:
        return [self.known]

    def job(self, name: str) -> Submitted:
        assert name == self.known.id
        return self.known

    def log(self, job: Submitted) -> str:
        return f"first\n\nsecond\nthird\nlast of {job.id}\n"

    def follow(self, job: Submitted) -> None:
        print(f"following {job.id}")

    def stop(self, job: Submitted) -> Submitted:
        return Submitted(job.id, "STOPPED", job.run, 0)


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> type[Head]:
    monkeypatch.setattr("crnn_search.cluster.jobs.Cluster", Head)
    Head.submitted.clear()
    return Head


class FakeMirror:
    """Of a run in a bucket: all that was ever written is in the local folder."""

    uri = BUCKET

    def has(self, name: str) -> bool:
        return False


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RunFolder:
    """A run in a bucket that has not started a trial."""
    (tmp_path / "space.yaml").write_text(SPACE)
    mirror: Any = FakeMirror()
    run = RunFolder(tmp_path, mirror)
    for module in ("runs", "watch"):
        monkeypatch.setattr(f"crnn_search.cli.{module}.open_run", lambda *_: run)
    monkeypatch.setattr("crnn_search.results.status.is_held", lambda run: False)
    return run


def test_status_of_a_run_in_a_bucket_names_the_bucket(
    crnn_search: CommandLine, bucket: RunFolder
) -> None:
    done = crnn_search("status", BUCKET)
    assert done.code == 0
    assert done.out.endswith(f"\n  crnn-search resume '{BUCKET}'\n")
    assert str(bucket.root) not in done.out
    done = crnn_search("status", BUCKET, "--json")
    assert json.loads(done.out)["location"] == BUCKET
    assert str(bucket.root) not in done.out


def test_stop_of_a_run_in_a_bucket_names_the_bucket(
    monkeypatch: pytest.MonkeyPatch, crnn_search: CommandLine, bucket: RunFolder
) -> None:
    monkeypatch.setattr("crnn_search.storage.lease.stop", lambda run, timeout_s: True)
    done = crnn_search("stop", BUCKET)
    assert done.out == f"{BUCKET} was stopped; continue with\n  crnn-search resume '{BUCKET}'\n"
    monkeypatch.setattr("crnn_search.storage.lease.stop", lambda run, timeout_s: False)
    done = crnn_search("stop", BUCKET)
    assert done.code == 2
    assert f"no process runs {BUCKET}" in done.err


def test_list_shows_every_run_of_a_folder(crnn_search: CommandLine, tmp_path: Path) -> None:
    for name in ("one", "two", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "one" / "space.yaml").write_text(SPACE)
    (tmp_path / "two" / "space.yaml").write_text("space: 3")
    lines = crnn_search("list", "--storage", str(tmp_path)).out.splitlines()
    assert lines[0].split() == ["run", "state", "started", "duration", "trials", "best", "RMSE",
                                "test", "RMSE"]  # fmt: skip
    assert lines[1].split() == ["one", "stopped:", "search", "0", "s", "0/64"]
    assert lines[2].startswith("two")
    found = json.loads(crnn_search("list", "--storage", str(tmp_path), "--json").out)
    assert [run["name"] for run in found] == ["one", "two"]
    assert (found[0]["stage"], found[0]["test_rmse"]) == ("search", None)
    assert "two" in found[1]["location"]
    assert "space" in found[1]["error"]
    assert not any(line.startswith("other") for line in lines)


@pytest.mark.parametrize(
    "command",
    ["status", "logs", "trials", "stop", "tensorboard", "dashboard", "report", "export"],
)
def test_folder_without_a_run_is_refused(
    crnn_search: CommandLine, tmp_path: Path, command: str
) -> None:
    done = crnn_search(command, str(tmp_path))
    assert done.code == 2
    assert f"{tmp_path} is not the folder of a run: it has no space.yaml" in done.err


def test_a_log_is_shown_without_colours_and_control_characters(
    crnn_search: CommandLine, space: Path
) -> None:
    RunFolder(space.parent).log.write_bytes(b"\x1b[36m(a)\x1b[0m \xff \x1b]0;title\x07\n")
    assert crnn_search("logs", str(space.parent)).out == "(a) \ufffd \\x1b]0;title\\x07\n"


def test_logs_of_a_run(crnn_search: CommandLine, space: Path) -> None:
    run = RunFolder(space.parent)
    done = crnn_search("logs", str(run.root))
    assert done.code == 2
    assert "has no search.log: the search has not started yet" in done.err
    run.log.write_text("a line\n")
    assert crnn_search("logs", str(run.root)).out == "a line\n"


def test_the_log_of_a_run_is_followed_until_the_run_ends(
    monkeypatch: pytest.MonkeyPatch, crnn_search: CommandLine, space: Path
) -> None:
    run = RunFolder(space.parent)
    written = iter(["", "first\nsec", "", "ond\n", "last\nunfinished"])

    def held(run: RunFolder) -> bool:
        with run.log.open("a") as file:
            file.write(more := next(written, ""))
        return "last" not in more

    monkeypatch.setattr("crnn_search.cli.watch.is_held", held)
    monkeypatch.setattr("crnn_search.cli.watch.FOLLOW_S", 0.0)
    done = crnn_search("logs", str(run.root), "--follow")
    assert (done.code, done.out) == (0, "first\nsecond\nlast\nunfinished")


def test_a_log_in_a_bucket_cannot_be_followed(crnn_search: CommandLine, bucket: RunFolder) -> None:
    done = crnn_search("logs", BUCKET, "--follow")
    assert done.code == 2
    assert "--follow takes a run in a folder, got s3://bucket/my runs/demo" in done.err


def test_a_run_may_be_named_by_its_name_alone_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch, crnn_search: CommandLine, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "there is no folder runs" in crnn_search("status").err
    Path("runs").mkdir()
    assert "there is no run in the folder runs; name one" in crnn_search("status").err
    for place, age in (("runs/old", 200), ("runs/new", 100), ("runs/older", 300), ("here", 0)):
        path = Path(place) / "space.yaml"
        path.parent.mkdir()
        path.write_text(SPACE)
        os.utime(path, (10_000 - age, 10_000 - age))
    assert crnn_search("status").out.startswith("new: searching, not running\n")
    assert crnn_search("status", "older").out.endswith("crnn-search resume runs/older\n")
    assert crnn_search("status", "here").out.endswith("crnn-search resume here\n")
    assert crnn_search("trials", "old").code == 0
    done = crnn_search("stop", "nowhere")
    assert (done.code, "nowhere is not the folder of a run" in done.err) == (2, True)
    done = crnn_search("status", "--address", ADDRESS)
    assert (done.code, "--address needs the id of a job" in done.err) == (2, True)


def test_commands_on_a_job(crnn_search: CommandLine, head: type[Head]) -> None:
    def run(*words: str) -> str:
        done = crnn_search(*words, "--address", ADDRESS)
        assert done.code == 0, done.err
        return done.out

    assert run("list").splitlines()[1].split()[:2] == ["demo-1", "running"]
    assert run("status", "demo-1").splitlines() == [
        "demo-1: running",
        "  run        /shared/runs/demo",
        "  output     second",
        "  output     third",
        "  output     last of demo-1",
    ]
    assert run("logs", "demo-1").endswith("last of demo-1\n")
    assert run("logs", "demo-1", "--follow") == "following demo-1\n"
    assert run("stop", "demo-1") == (
        "demo-1: stopped; continue with\n"
        f"  crnn-search submit --resume /shared/runs/demo --address {ADDRESS}\n"
    )
    done = crnn_search("status", "demo-1", "--json", "--address", ADDRESS)
    assert (done.code, "--json" in done.err) == (2, True)
    done = crnn_search("list", "--storage", "runs", "--address", ADDRESS)
    assert (done.code, "not both" in done.err) == (2, True)


def test_submit_sends_the_space_and_the_command(
    crnn_search: CommandLine, head: type[Head], space: Path
) -> None:
    done = crnn_search(
        "submit", str(space), "--storage", "/shared/runs", "--name", "demo", "--trials", "3",
        "--time-budget", "2h", "--data-dir", "/data", "--address", ADDRESS,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "job: demo-2\nrun: /shared/runs/demo\n" in done.out
    assert f"crnn-search logs demo-2 --address {ADDRESS} --follow" in done.out
    assert crnn_search("submit", "--resume", "s3://b/demo", "--address", ADDRESS).code == 0
    (launched, resumed) = head.submitted
    assert launched[0] == [
        "launch", "space.yaml", "--storage", "/shared/runs", "--name", "demo",
        "--time-budget", "2h", "--address", "auto", "--data-dir", "/data",
    ]  # fmt: skip
    assert launched[1] == "/shared/runs/demo"
    assert "trials: 3" in str(launched[2])
    assert launched[3] == {}
    assert resumed == (["resume", "s3://b/demo", "--address", "auto"], "s3://b/demo", None, {})


@pytest.fixture
def clips_space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A space of own data."""
    monkeypatch.setenv("CRNN_SEARCH_CACHE", str(tmp_path / "cache"))
    clips(tmp_path / "clips")
    path = tmp_path / "space.yaml"
    path.write_text("task: {data: clips, image: {size: [9, 9]}}\nspace: {conv_channels: [4]}")
    return path


def submit(crnn_search: CommandLine, space: Path, *options: str) -> Done:
    words = ("submit", str(space), "--storage", "/shared", "--name", "demo", "--address", ADDRESS)
    return crnn_search(*words, *options)


def test_submit_ships_a_small_data_set(
    crnn_search: CommandLine, head: type[Head], clips_space: Path
) -> None:
    done = submit(crnn_search, clips_space, "--trials", "3")
    assert (done.code, done.err) == (0, "")
    ((_, _, text, files),) = head.submitted
    names = ["metadata.csv", *(f"{number}.png" for number in range(12))]
    folder = clips_space.parent / "clips"
    assert files == {f"data/clips/{name}": folder / name for name in names}
    task = yaml.safe_load(str(text))["task"]
    assert (task["data"], task["image"]) == ("data/clips", {"size": [9, 9]})
    sent = clips_space.parent / "job"
    for name, path in files.items():  # the space is a valid one where the job finds it
        (sent / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, sent / name)
    (sent / "space.yaml").write_text(str(text))
    searched = read_for(load_space(sent / "space.yaml"))
    assert searched.task.name == "clips"
    assert searched.shape == (1, 9, 9)


def test_submit_ships_an_npz_file(
    crnn_search: CommandLine, head: type[Head], clips_space: Path
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 2, 8, 8), dtype=np.uint8)
    np.savez(clips_space.parent / "a.npz", images=images, targets=np.arange(9))
    assert submit(crnn_search, clips_space, "--set", "task.data=a.npz").code == 0
    ((_, _, text, files),) = head.submitted
    assert files == {"data/a.npz": clips_space.parent / "a.npz"}
    assert yaml.safe_load(str(text))["task"]["data"] == "data/a.npz"


def test_data_set_that_is_too_large_to_ship_is_refused(
    crnn_search: CommandLine, head: type[Head], clips_space: Path
) -> None:
    folder = clips_space.parent / "clips"
    size = sum(path.stat().st_size for path in folder.iterdir())
    with (folder / "0.png").open("r+b") as file:
        file.truncate((folder / "0.png").stat().st_size + 100_000_000 - size)
    done = submit(crnn_search, clips_space)
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"error: submit ships data sets below 100 MB with the job, got 100 MB in {folder}; name "
        "the place where the head finds them with --data-dir, give task.data as a URI such as "
        "s3://BUCKET/FOLDER, or launch on the head\n"
    )
    assert not head.submitted
    assert submit(crnn_search, clips_space, "--data-dir", "/shared/clips").code == 0


@pytest.mark.parametrize(
    ("data", "options"),
    [
        ("s3://bucket/clips?region=eu-central-1", []),
        ("none.npz", ["--data-dir", "/shared/clips"]),
    ],
)
def test_data_that_the_head_sees_are_not_read_here(
    crnn_search: CommandLine, head: type[Head], clips_space: Path, data: str, options: list[str]
) -> None:
    done = submit(crnn_search, clips_space, "--set", f"task.data={data}", *options)
    assert done.code == 0, done.err
    ((arguments, _, text, files),) = head.submitted
    assert files == {}
    assert yaml.safe_load(str(text))["task"]["data"].endswith(data)
    assert arguments[-2:] == (options or ["--address", "auto"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("task.data=none", "data must be a folder with metadata.csv, or an .npz file, got /"),
        ("task.data=none.npz", "none.npz cannot be read: No such file or directory"),
        ("task.target=cuont", "has no target column 'cuont'; did you mean count?"),
        ("space.max_sequence_length=9", "the space does not fit the data in"),
        ("space={conv_channels: [4, 4], pooling: 4}", "no sample is feasible"),
    ],
)
def test_data_that_are_not_valid_are_not_submitted(
    crnn_search: CommandLine, head: type[Head], clips_space: Path, change: str, message: str
) -> None:
    done = submit(crnn_search, clips_space, "--set", change)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert not head.submitted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"--storage": "runs"}, "--storage must be an absolute folder"),
        ({"--storage": None}, "--storage must be an absolute folder"),
        ({"--set": "search.trials=0"}, "search.trials"),
        ({"--time-budget": "soon"}, "--time-budget must be a time above 0"),
        ({"--name": "../else"}, "must be a plain folder name, got '../else'"),
        ({"--storage": "s3:/bucket"}, "must be a path or a URI such as s3://BUCKET/PREFIX, got"),
        ({"--storage": "s3://b", "--name": "a#b"}, "must be one without #, got 'a#b'"),
        ({"--resume": "/shared/runs/demo"}, "one of the two"),
    ],
)
def test_wrong_submissions_are_refused(
    crnn_search: CommandLine,
    head: type[Head],
    space: Path,
    options: dict[str, str | None],
    message: str,
) -> None:
    given = {"--address": ADDRESS, "--storage": "/shared/runs"} | options
    words = [word for name, value in given.items() if value for word in (name, value)]
    done = crnn_search("submit", str(space), *words)
    assert done.code == 2
    assert message in done.err
    assert not head.submitted


def test_resume_cannot_change_the_run(crnn_search: CommandLine, head: type[Head]) -> None:
    words = ("--resume", "/shared/demo", "--address", ADDRESS, "--set", "search.seed=1")
    done = crnn_search("submit", *words)
    assert (done.code, head.submitted) == (2, [])
    assert "--resume can be combined with --address and --data-dir only" in done.err
