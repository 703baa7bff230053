from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import crnn_search
from crnn_search.cluster.provenance import COMMIT_VARIABLE, commit_of, git_commit

PACKAGE = Path(crnn_search.__file__).parent


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with a commit."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / "file").touch()
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path


def test_commit_is_that_of_the_packages_checkout(repository: Path) -> None:
    package = repository / "crnn_search"
    package.mkdir()
    assert commit_of(package) == git(repository, "rev-parse", "HEAD")
    (repository / "file").write_text("changed")
    assert commit_of(package) == git(repository, "rev-parse", "HEAD") + "-dirty"


def test_commit_of_a_foreign_repository_is_not_the_packages(repository: Path) -> None:
    """As in an ordinary installation, in the virtual environment of another project."""
    installed = repository / ".venv" / "lib" / "site-packages" / "crnn_search"
    installed.mkdir(parents=True)
    shutil.copy(PACKAGE / "__init__.py", installed)
    assert commit_of(installed) is None


def test_package_outside_of_a_repository_has_no_commit(tmp_path: Path) -> None:
    assert commit_of(tmp_path / "crnn_search") is None


def test_machine_without_git_knows_no_commit(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert commit_of(repository / "crnn_search") is None


def test_submitted_package_reads_its_commit_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(COMMIT_VARIABLE, "abc-dirty")
    assert git_commit() == "abc-dirty"
