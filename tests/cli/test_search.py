"""check, launch, resume and extend: wrong input is refused before anything starts."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from crnn_search.errors import RunError
from crnn_search.hyperparameters import ImageShape, TrialConfig
from crnn_search.pipeline.manifest import Manifest
from crnn_search.spaces.file import load_space
from crnn_search.storage.run_folder import RunFolder
from crnn_search.training.footprint import peak_memory_mb
from tests.cli.conftest import SPACE, CommandLine
from tests.data.folders import HEADER, clips, write_metadata


def test_check_shows_sampled_configurations(crnn_search: CommandLine, space: Path) -> None:
    done = crnn_search("check", str(space), "--samples", "3")
    assert done.code == 0
    assert f"{space} is valid.\n" in done.out
    assert done.out.count("dropout=") == 3
    assert "peak memory" in done.out


def test_check_shows_infeasible_networks(crnn_search: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("space: {conv_channels: {list_of: {int: [8, 9]}, length: [1, 6]}}")
    done = crnn_search("check", str(path), "--samples", "9")
    assert done.code == 0
    assert "infeasible" in done.out
    assert "of the samples are infeasible and will be skipped" in done.out


@pytest.fixture
def clips_space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A space for six sequences of two grey images of 8 × 8."""
    monkeypatch.setenv("CRNN_SEARCH_CACHE", str(tmp_path / "cache"))
    clips(tmp_path / "clips")
    path = tmp_path / "space.yaml"
    path.write_text(
        "task: {data: clips}\nspace: {conv_channels: [4], gru_sizes: {choice: [[4], [6]]}}"
    )
    return path


def test_check_reads_own_data_and_fits_the_space(
    crnn_search: CommandLine, clips_space: Path
) -> None:
    done = crnn_search("check", str(clips_space), "--samples", "8")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{clips_space} is valid.\n")
    config = TrialConfig.from_dict({"conv_channels": [4], "gru_sizes": [6]})
    shape = ImageShape(1, 8, 8)
    assert f"{config.model.parameter_count(shape):,}" in done.out
    assert f"{peak_memory_mb(config, shape, 2):,.0f} MB" in done.out


def test_check_refuses_networks_that_do_not_fit_own_data(
    crnn_search: CommandLine, clips_space: Path
) -> None:
    done = crnn_search("check", str(clips_space), "--set", "space.pooling=4", "--set",
                       "space.conv_channels=[4, 4]")  # fmt: skip
    assert (done.code, done.out) == (2, "")
    assert f"the space does not fit the data in {clips_space.parent}/clips:" in done.err
    assert "no sample is feasible" in done.err
    layers = "space.conv_channels={list_of: {int: [4, 5]}, length: [1, 3]}"
    done = crnn_search("check", str(clips_space), "--set", layers, "--set", "space.pooling=3")
    assert done.code == 0, done.err
    assert " of the samples are infeasible and will be skipped" in done.out


def test_check_refuses_own_data_with_a_problem(crnn_search: CommandLine, clips_space: Path) -> None:
    (clips_space.parent / "clips" / "3.png").unlink()
    done = crnn_search("check", str(clips_space))
    assert (done.code, done.out) == (2, "")
    assert done.err.endswith("row 5: 3.png cannot be read: No such file or directory\n")


def test_check_warns_of_own_data(crnn_search: CommandLine, clips_space: Path) -> None:
    rows = [["0.png", name, name] for name in range(12)]
    write_metadata(clips_space.parent / "clips", HEADER, rows)
    done = crnn_search("check", str(clips_space))
    assert done.out.startswith("warning: 1 image is in more than one split: scores may be too good")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("space: {droput: {float: [0, 1]}}", "did you mean dropout?"),
        ("space: {dropout: {float: [0.5, 0.1]}}", "dropout"),
        ("space: {batch_size: -3}", "got -3"),
        ("space: {conv_channels: [8, 8, 8], kernel_size: 9, padding: valid}", "leaves no pixels"),
        ("serach: {}\nspace: {}", "did you mean search?"),
    ],
)
def test_invalid_spaces_are_refused(
    crnn_search: CommandLine, tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    storage = tmp_path / "runs"
    for command in (["check", str(path)], ["launch", str(path), "--storage", str(storage)]):
        done = crnn_search(*command)
        assert done.code == 2
        assert message in done.err
        assert done.err.startswith("error: ")
        assert "space.yaml:" in done.err
    assert not storage.exists()


def test_all_problems_of_a_space_are_reported_at_once(
    crnn_search: CommandLine, tmp_path: Path
) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("search: {trials: 0}\nspace:\n  dropout: 7\n  batch: 3\n")
    done = crnn_search("check", str(path))
    assert done.code == 2
    for line in ("space.yaml:1: search.trials", "space.yaml:3: space.dropout", "space.yaml:4: "):
        assert line in done.err


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc").is_dir(), reason="needs /proc as root")
def test_unwritable_storage_is_refused(crnn_search: CommandLine, space: Path) -> None:
    done = crnn_search("launch", str(space), "--storage", "/proc/runs")
    assert done.code == 2
    assert "cannot write to /proc/runs" in done.err
    assert "--storage" in done.err


def test_run_name_with_a_path_is_refused(crnn_search: CommandLine, space: Path) -> None:
    done = crnn_search("launch", str(space), "--name", "../elsewhere")
    assert done.code == 2
    assert "a run's name must be a plain folder name, got '../elsewhere'" in done.err


def test_missing_data_leaves_no_run(crnn_search: CommandLine, space: Path, tmp_path: Path) -> None:
    storage, data = tmp_path / "runs", tmp_path / "nowhere"
    done = crnn_search("launch", str(space), "--storage", str(storage), "--data-dir", str(data))
    assert done.code == 2
    assert "--data-dir must be a folder" in done.err
    assert list(storage.iterdir()) == []


def test_options_reach_the_pipeline(
    monkeypatch: pytest.MonkeyPatch, crnn_search: CommandLine, space: Path, tmp_path: Path
) -> None:
    calls: list[tuple[Any, ...]] = []
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    shutil.copy(space, earlier / "space.yaml")

    def launch(searched: Any, run: RunFolder, _: Any, options: Any, **more: Any) -> None:
        logging.getLogger("library").warning("a warning")
        calls.append((searched, run, options, more))
        raise RunError("far enough")

    monkeypatch.setattr("crnn_search.pipeline.run.launch", launch)
    done = crnn_search(
        "launch", str(space), "--storage", str(tmp_path), "--name", "demo", "--address", "auto",
        "--trials", "7", "--set", "space.dropout={float: [0, 0.25]}", "--time-budget", "2h",
        "--compute-budget", "3corehours", "--warm-start", str(earlier),
    )  # fmt: skip
    lines = [f"run: {tmp_path}/demo", "loading Ray, Optuna and PyTorch"]
    assert (done.code, done.out.splitlines()) == (1, lines)
    assert done.err == "error: far enough\n"
    ((searched, run, options, more),) = calls
    assert run.root == tmp_path / "demo"
    assert searched.search.trials == 7
    assert searched.space["dropout"].high == 0.25
    assert (options.address, options.data_dir, options.verbose) == ("auto", None, False)
    assert (more["budget"].time_s, more["budget"].core_seconds) == (7200, 10800)
    assert more["warm_runs"] == [str(earlier)]
    assert shlex.split(options.command) == sys.argv
    assert "WARNING library: a warning" in run.log.read_text()
    more_words = ("--storage", str(tmp_path), "--name", "silent", "--quiet")
    done = crnn_search("launch", str(space), *more_words)
    assert (done.code, done.out, done.err) == (1, "", "error: far enough\n")
    done = crnn_search("launch", str(space), *more_words, "--verbose")
    assert (done.code, "--verbose and --quiet exclude each other" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("command", "message"),
    [("", "got ''"), ("no-such-program -x", "program can be found"), ("a 'b", "No closing quot")],
)
def test_hook_that_is_no_command_is_refused(
    crnn_search: CommandLine, space: Path, tmp_path: Path, command: str, message: str
) -> None:
    done = crnn_search("launch", str(space), "--storage", str(tmp_path / "x"), "--on-end", command)
    assert done.code == 2
    assert "--on-end must be a command" in done.err
    assert message in done.err
    assert not (tmp_path / "x").exists()


def test_interrupted_run_names_the_command_that_resumes_it(
    monkeypatch: pytest.MonkeyPatch, crnn_search: CommandLine, space: Path, tmp_path: Path
) -> None:
    def launch(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("crnn_search.pipeline.run.launch", launch)
    storage = tmp_path / "my runs"
    done = crnn_search("launch", str(space), "--storage", str(storage), "--name", "demo")
    assert done.code == 130
    assert done.err == f"interrupted: continue with\n  crnn-search resume '{storage}/demo'\n"


@pytest.fixture
def run(tmp_path: Path, space: Path) -> RunFolder:
    """A run that was launched, and then nothing."""
    assert space.parent == tmp_path
    run = RunFolder(tmp_path)
    Manifest.create(run, load_space(space), {}).write(run)
    return run


def test_run_of_another_user_needs_force(
    monkeypatch: pytest.MonkeyPatch, crnn_search: CommandLine, run: RunFolder
) -> None:
    resumed: list[Path] = []

    def resume(run: RunFolder, *_: object) -> None:
        resumed.append(run.root)
        raise RunError("far enough")

    monkeypatch.setattr("crnn_search.pipeline.run.resume", resume)
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    done = crnn_search("resume", str(run.root))
    assert done.code == 2
    assert f"{run.root} belongs to user {user}, not to you, user {user + 1}" in done.err
    assert done.err.endswith("add --force\n")
    assert not resumed
    done = crnn_search("resume", str(run.root), "--force")
    assert (done.code, done.err) == (1, "error: far enough\n")
    assert "resume will start 64 more trials, repeat the finalists" in done.out
    assert resumed == [run.root]


@pytest.mark.parametrize("command", ["resume", "extend", "report", "export"])
def test_run_of_another_format_is_refused(
    crnn_search: CommandLine, tmp_path: Path, command: str
) -> None:
    (tmp_path / "space.yaml").write_text(SPACE + "\n  precision: int16")  # valid in format 1 only
    (tmp_path / "manifest.json").write_text('{"versions": {"crnn-search": "0.1.0"}}')
    (tmp_path / "journal.jsonl").write_text('{"event": "again", "elapsed_s": 1.0}\n')
    done = crnn_search(command, str(tmp_path), *(["--trials", "2"] if command == "extend" else []))
    assert done.code == 2
    assert (
        f"error: {tmp_path} was written by crnn-search 0.1.0, whose runs have format 1" in done.err
    )


@pytest.mark.parametrize("command", ["resume", "extend", "report", "export"])
def test_run_without_manifest_is_refused(
    crnn_search: CommandLine, space: Path, command: str
) -> None:
    more = ["--trials", "2"] if command == "extend" else []
    done = crnn_search(command, str(space.parent), *more)
    assert done.code == 2
    assert f"{space.parent} has no manifest.json" in done.err
    assert "launch it again" in done.err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a[/x].yaml", "must be a mapping with a section space"),
        ("[bold]\x1b[31m.yaml", r"[bold]\x1b[31m.yaml"),
        ("missing [/x].yaml", "cannot be read: No such file"),
    ],
)
def test_names_of_spaces_are_no_markup(
    crnn_search: CommandLine, tmp_path: Path, name: str, text: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if "missing" not in name:
        path.write_text("3")
    done = crnn_search("check", str(path))
    assert (done.code, done.out) == (2, "")
    assert text in done.err
    assert "\x1b" not in done.err


def test_values_and_keys_in_messages_are_cut_and_printable(
    crnn_search: CommandLine, tmp_path: Path
) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(
        f'space: {{dropout: {"x" * 5000}, "{"k" * 900}": 1, "a\\e[31m\\nb": 2, '
        f"batch_size: {{choice: {[-1] * 300}}}}}\n"
    )
    done = crnn_search("check", str(path), "--set", f"search.seed={'y' * 5000}")
    assert done.code == 2
    for line in done.err.splitlines():
        assert len(line) < 1200
        assert line.isprintable()
    for letter in "xyk":
        assert letter * 201 not in done.err
        assert letter * 190 in done.err


def test_home_folders_expand_for_space_and_storage(
    monkeypatch: pytest.MonkeyPatch, crnn_search: CommandLine, space: Path
) -> None:
    home = space.parent / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(space.parent)

    def launch(space: Any, run: RunFolder, *_: Any, **__: Any) -> None:
        raise RunError(f"in {run.root}")

    monkeypatch.setattr("crnn_search.pipeline.run.launch", launch)
    done = crnn_search("launch", "~/../space.yaml", "--storage=~/runs", "--name=~x")
    assert done.err == f"error: in {home}/runs/~x\n"
    assert not Path("~").exists()


def test_three_launches_in_a_second_have_three_names(
    monkeypatch: pytest.MonkeyPatch, crnn_search: CommandLine, space: Path, tmp_path: Path
) -> None:
    def launch(*_: Any, **__: Any) -> None:
        raise RunError("far enough")

    monkeypatch.setattr("crnn_search.pipeline.run.launch", launch)
    for _ in range(3):
        done = crnn_search("launch", str(space), "--storage", str(tmp_path / "runs"))
        assert (done.code, done.err) == (1, "error: far enough\n")
    assert len(list((tmp_path / "runs").iterdir())) == 3
