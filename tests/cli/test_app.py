"""Bad input gets one clear message and exit code 2; nothing is started or lost."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from crnn_search.cli import app
from crnn_search.errors import RunError
from crnn_search.storage.run_folder import RunPaths

SPACE = "space: {dropout: {float: [0.0, 0.5]}}"


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the command line."""
    monkeypatch.setattr(sys, "argv", ["crnn-search", *arguments])
    monkeypatch.setattr("os._exit", sys.exit)
    with pytest.raises(SystemExit, match=r".*") as caught:
        app.main()
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return path


def test_check_shows_sampled_configurations(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], space: Path
) -> None:
    code, out, _ = run(monkeypatch, capsys, "check", str(space), "--samples", "3")
    assert code == 0
    assert "is valid" in out
    assert out.count("dropout=") == 3
    assert "peak memory" in out


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
def test_a_wrong_space_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    text: str,
    message: str,
) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    storage = tmp_path / "runs"
    for command in (["check", str(path)], ["launch", str(path), "--storage", str(storage)]):
        code, _, err = run(monkeypatch, capsys, *command)
        assert code == 2
        assert message in err
        assert err.startswith("error: ")
        assert "space.yaml:" in err
    assert not storage.exists()


def test_all_problems_of_a_space_are_told_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("search: {trials: 0}\nspace:\n  dropout: 7\n  batch: 3\n")
    code, _, err = run(monkeypatch, capsys, "check", str(path))
    assert code == 2
    for line in ("space.yaml:1: search.trials", "space.yaml:3: space.dropout", "space.yaml:4: "):
        assert line in err


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc").is_dir(), reason="needs /proc as root")
def test_an_unwritable_storage_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], space: Path
) -> None:
    code, _, err = run(monkeypatch, capsys, "launch", str(space), "--storage", "/proc/runs")
    assert code == 2
    assert "cannot write to /proc/runs" in err
    assert "--storage" in err


def test_a_name_that_is_a_path_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], space: Path
) -> None:
    code, _, err = run(monkeypatch, capsys, "launch", str(space), "--name", "../elsewhere")
    assert code == 2
    assert "a run's name must be a plain folder name, got '../elsewhere'" in err


def test_data_that_is_not_there_leaves_no_run_behind(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    space: Path,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(app, "_configure_logging", lambda run, verbose: None)
    storage, data = tmp_path / "runs", tmp_path / "nowhere"
    arguments = ("launch", str(space), "--storage", str(storage), "--data-dir", str(data))
    code, _, err = run(monkeypatch, capsys, *arguments)
    assert code == 2
    assert "--data-dir must be a folder" in err
    assert list(storage.iterdir()) == []


@pytest.mark.parametrize("command", ["report", "export", "tensorboard"])
def test_a_folder_that_is_no_run_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    command: str,
) -> None:
    code, _, err = run(monkeypatch, capsys, command, str(tmp_path))
    assert code == 2
    assert "is not the folder of a run: it has no space.yaml" in err


def test_a_run_that_is_not_finished_has_no_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "space.yaml").write_text("space: {}")
    for command in ("report", "export"):
        code, _, err = run(monkeypatch, capsys, command, str(tmp_path))
        assert code == 2
        assert "the run has not been retrained yet" in err
    code, _, err = run(monkeypatch, capsys, "tensorboard", str(tmp_path))
    assert code == 2
    assert "no TensorBoard files" in err


def test_predict_refuses_what_is_no_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    image = tmp_path / "image.png"
    Image.new("L", (28, 28)).save(image)
    for name, content in (("a.onnx", b"no model"), ("b.safetensors", b"x"), ("c.txt", b"hello")):
        path = tmp_path / name
        path.write_bytes(content)
        code, _, err = run(monkeypatch, capsys, "predict", str(path), str(image))
        assert code == 2
        assert name in err


def test_predict_refuses_what_is_no_image(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from crnn_search.training import checkpoint, engine
    from tests.training.test_engine import CPU, SMALL

    model = tmp_path / "model.safetensors"
    checkpoint.save_model(
        model, engine.start(SMALL, seed=0, epochs=1, device=CPU).model, SMALL, {"max_digits": 8}
    )
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    for path in (broken, tmp_path / "missing.png"):
        code, _, err = run(monkeypatch, capsys, "predict", str(model), str(path))
        assert code == 2
        assert path.name in err


def test_an_unknown_command_or_option_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, capsys, "lunch")[0] == 2
    assert run(monkeypatch, capsys, "check", "--bogus")[0] == 2


def test_an_interruption_exits_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], space: Path
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("crnn_search.spaces.file.load_space", interrupted)
    code, _, err = run(monkeypatch, capsys, "check", str(space))
    assert code == 130
    assert "interrupted" in err


@pytest.mark.parametrize(
    "command", [[], ["launch"], ["check"], ["report"], ["export"], ["predict"], ["tensorboard"]]
)
def test_help_reads_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    code, out, _ = run(monkeypatch, capsys, *command, "--help")
    assert code == 0
    assert "Usage: crnn-search" in out


def test_another_users_run_is_resumed_by_force_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    resumed: list[Path] = []

    def resume(paths: RunPaths, *_: object) -> None:
        resumed.append(paths.root)
        raise RunError("far enough")

    monkeypatch.setattr("crnn_search.pipeline.run.resume", resume)
    monkeypatch.setattr(app, "_configure_logging", lambda run, verbose: None)
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    code, _, err = run(monkeypatch, capsys, "resume", str(tmp_path))
    assert code == 2
    assert f"{tmp_path} belongs to user {user}, not to you, user {user + 1}" in err
    assert err.endswith("if you do trust it, add --force\n")
    assert not resumed
    code, _, err = run(monkeypatch, capsys, "resume", str(tmp_path), "--force")
    assert (code, err) == (1, "error: far enough\n")
    assert resumed == [tmp_path]
