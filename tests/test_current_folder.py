"""Nothing is imported from the current folder, and no folder need be there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.small_run import REPOSITORY

NAMES = (
    "profile", "queue", "typing", "json", "random", "logging", "signal", "tempfile", "secrets",
    "numpy", "yaml", "torch", "ray", "optuna", "typer", "rich", "click", "pydantic", "onnxruntime",
)  # fmt: skip
HOSTILE = "raise SystemExit('imported from the current folder')"
MODULE = ("-m", "crnn_search")
PROGRAM = ("-c", "from crnn_search.cli.app import main; main()")
SCRIPT = PROGRAM[1].replace("; ", "\n")
"""What `crnn-search` is when it is installed."""
SPACE = "space: {dropout: {float: [0.0, 0.5]}}"
ON_RAY = """
import json
from crnn_search.cli import app

def where():
    import os, sys, profile, queue
    import crnn_search.tuning.worker
    files = [module.__file__ for module in (profile, queue, crnn_search)]
    return sys.path, os.path.realpath(files[0]), os.path.realpath(files[2]), len(os.listdir())

def run():
    import ray
    from crnn_search.cluster import connection
    with connection.connect(None):
        print(json.dumps([*ray.get(ray.remote(where).remote()), ray.cluster_resources()["CPU"]]))

app.app = lambda **_: run()
app.main()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder, with modules of common names and another `crnn_search`."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(HOSTILE)
    (tmp_path / "space.yaml").write_text(SPACE)
    return tmp_path


def run(
    folder: Path, *arguments: str, path: str = REPOSITORY, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200", **variables},
    )


@pytest.mark.parametrize("arguments", [["--help"], ["check", "space.yaml"], ["list"]])
def test_driver_imports_nothing_from_the_current_folder(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, arguments: list[str]
) -> None:
    (folder / "runs").mkdir()
    script = tmp_path_factory.mktemp("bin") / "crnn-search"
    script.write_text(SCRIPT)
    for program in (MODULE, (str(script),)):
        done = run(folder, *program, *arguments)
        assert (done.returncode, done.stderr) == (0, "")


SHOWN = """
import os, sys
from crnn_search.cli import app
app.app = lambda **_: print(sys.path.count(os.getcwd()), os.environ["PYTHONPATH"])
app.main()
"""


@pytest.mark.parametrize("entry", ["", ".", "./"])
def test_entry_of_pythonpath_for_the_current_folder_is_left_out(tmp_path: Path, entry: str) -> None:
    done = run(tmp_path, "-c", SHOWN, path=os.pathsep.join([entry, REPOSITORY]))
    assert done.stdout == f"0 {REPOSITORY}\n", done.stderr


def test_folder_that_pythonpath_names_in_full_is_kept(tmp_path: Path) -> None:
    path = os.pathsep.join([str(tmp_path), REPOSITORY])
    assert run(tmp_path, "-c", SHOWN, path=path).stdout == f"1 {path}\n"


@pytest.mark.parametrize("program", [MODULE, PROGRAM])
@pytest.mark.parametrize("arguments", [["--help"], ["check", "space.yaml"], ["list"], ["launch"]])
def test_deleted_current_folder_is_one_line(
    tmp_path: Path, program: tuple[str, ...], arguments: list[str]
) -> None:
    (tmp_path / "gone").mkdir()
    command = 'rmdir "$PWD"; exec "$@"'
    done = subprocess.run(
        ["sh", "-c", command, "sh", sys.executable, *program, *arguments],
        cwd=tmp_path / "gone",
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": REPOSITORY},
    )
    message = "error: the current folder cannot be used: No such file or directory; change to "
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == message + "another one\n"


@pytest.mark.slow
def test_workers_run_the_drivers_package_and_nothing_of_the_current_folder(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("package")
    (other / "crnn_search").symlink_to(Path(REPOSITORY) / "crnn_search")
    (folder / "crnn_search").mkdir()
    (folder / "crnn_search" / "__init__.py").write_text(HOSTILE)
    program = f"import sys; sys.path[:0] = [{str(other)!r}]\n{ON_RAY}"
    done = run(folder, "-P", "-c", program, path="")
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout.splitlines()[-1])
    search_path, profile, package, files, _ = found
    assert str(folder) not in search_path
    assert Path(profile).parent == Path(json.__file__).parents[1]
    assert package == f"{REPOSITORY}/crnn_search/__init__.py"
    assert files == 1  # of its current folder: the link to the package
