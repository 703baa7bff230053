"""Compiling and caching; most tests compile one short source in place of the kernels."""

from __future__ import annotations

import ctypes
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from crnn_search.kernels import compiler, native, ops


@pytest.fixture(autouse=True)
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of sources, compiled anew by each test."""
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / "answer.c").write_text("int answer(void) { return 42; } /* µ */\n", encoding="utf-8")
    monkeypatch.setattr(compiler, "SOURCES", folder)
    monkeypatch.setenv("CRNN_SEARCH_CACHE", str(tmp_path / "cache"))
    compiler.library.cache_clear()
    yield folder
    compiler.library.cache_clear()


def libraries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "kernels").glob("*.so"))


def fake_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    path = tmp_path / "fake-cc"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CC", str(path))
    return path


def test_library_is_compiled_once_and_then_loaded(tmp_path: Path) -> None:
    library, reason = compiler.library()
    assert reason is None
    assert isinstance(library, ctypes.CDLL)
    assert library.answer() == 42
    (path,) = libraries(tmp_path)
    compiled = path.stat().st_mtime_ns
    compiler.library.cache_clear()
    assert native.problem() is None
    assert path.stat().st_mtime_ns == compiled


def test_changed_source_is_another_library(tmp_path: Path, sources: Path) -> None:
    assert native.problem() is None
    (sources / "answer.c").write_text("int answer(void) { return 43; }\n", encoding="utf-8")
    compiler.library.cache_clear()
    library, _ = compiler.library()
    assert isinstance(library, ctypes.CDLL)
    assert library.answer() == 43
    assert len(libraries(tmp_path)) == 2


def test_trials_that_start_together_compile_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    fake_compiler(tmp_path, monkeypatch, f'echo "$@" >> {log}; sleep 0.3; exec cc "$@"')
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: compiler.library.__wrapped__(), range(2)))
    assert [reason for _, reason in found] == [None, None]
    assert log.read_text(encoding="utf-8").count("-shared") == 1


def test_missing_compiler_is_the_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert native.problem() == "there is no C compiler called 'no-such-compiler'"
    with pytest.raises(RuntimeError, match="no compiled kernels: there is no C compiler"):
        ops.map_moments(torch.zeros(1, 1, 2, 2))


def test_compiler_may_have_options_or_a_space_in_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    path = fake_compiler(tmp_path, monkeypatch, f'echo "$@" >> {log}; exec cc "$@"')
    monkeypatch.setenv("CC", f"{path} -m64 '-DNAME=a b'")
    assert native.problem() is None
    assert "-m64 -DNAME=a b" in log.read_text(encoding="utf-8")
    path = path.rename(tmp_path / "fake cc")
    monkeypatch.setenv("CC", str(path))
    compiler.library.cache_clear()
    assert native.problem() is None
    assert len(libraries(tmp_path)) == 2


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("cc '", 'CC is no command: "cc \'": No closing quotation'),
        ("no-such-compiler -m64", "there is no C compiler called 'no-such-compiler -m64'"),
        (" ", None),
    ],
)
def test_command_that_is_none_is_the_problem(
    monkeypatch: pytest.MonkeyPatch, command: str, problem: str | None
) -> None:
    monkeypatch.setenv("CC", command)
    assert native.problem() == problem


def test_compiler_error_is_the_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fake_compiler(tmp_path, monkeypatch, "echo 'out of order' >&2; exit 1")
    assert native.problem() == f"{path} cannot compile the kernels: out of order"
    assert not libraries(tmp_path)


def test_silent_compiler_error_is_the_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fake_compiler(tmp_path, monkeypatch, "exit 3")
    assert native.problem() == f"{path} cannot compile the kernels: it ended with exit code 3"


def test_timeout_is_the_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fake_compiler(tmp_path, monkeypatch, "echo started >&2; exec sleep 10")
    monkeypatch.setattr(compiler, "TIMEOUT_S", 0.2)
    assert native.problem() == f"{path} cannot compile the kernels: it had not ended after 0.2 s"


def test_unwritable_cache_is_bypassed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("CRNN_SEARCH_CACHE", str(tmp_path / "file"))
    assert native.problem() is None


def test_damaged_library_is_bypassed(tmp_path: Path) -> None:
    assert native.problem() is None
    (path,) = libraries(tmp_path)
    path.unlink()
    path.write_bytes(b"no library")
    compiler.library.cache_clear()
    assert native.problem() is None
