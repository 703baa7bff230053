"""Compiling; what the kernels compute is tested in `test_layers` and `test_recurrence`."""

from __future__ import annotations

import ctypes
import platform
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from crnn_search.kernels import compiler, native, ops


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test compiles one subject anew; those after it have what this machine has."""
    sources = tmp_path / "sources"
    sources.mkdir()
    for path in (compiler.SOURCES / "convolution.c", *compiler.SOURCES.glob("*.h")):
        shutil.copy(path, sources)
    monkeypatch.setattr(compiler, "SOURCES", sources)
    compiler.library.cache_clear()
    yield
    compiler.library.cache_clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CRNN_SEARCH_CACHE", str(tmp_path))
    return tmp_path / "kernels"


def test_it_is_compiled_once(folder: Path) -> None:
    assert native.problem() is None
    (library,) = folder.iterdir()
    made = library.stat().st_mtime_ns
    compiler.library.cache_clear()
    assert native.problem() is None
    assert [path.stat().st_mtime_ns for path in folder.iterdir()] == [made]


def test_another_source_is_another_library(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert native.problem() is None
    changed = tmp_path / "c"
    shutil.copytree(compiler.SOURCES, changed)
    (changed / "answer.c").write_text("int answer(void) { return 42; }\n")
    monkeypatch.setattr(compiler, "SOURCES", changed)
    compiler.library.cache_clear()
    library, _ = compiler.library()
    assert isinstance(library, ctypes.CDLL)
    assert library.answer() == 42
    assert len(list(folder.iterdir())) == 2


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86 compiler")
@pytest.mark.parametrize("source", ["int16_convolution.c", "winograd.c"])
def test_a_processor_without_avx_can_have_it(source: str, tmp_path: Path) -> None:
    command = ["cc", "-O0", "-w", "-march=x86-64", "-std=gnu11", "-c", "-o", "made.o"]
    folder = Path(compiler.__file__).with_name("c")
    done = subprocess.run(
        [*command, folder / source], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_no_compiler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert native.problem() == "there is no C compiler"
    with pytest.raises(RuntimeError, match="there is no C compiler"):
        ops.map_moments(torch.zeros(1, 1, 2, 2))


def test_a_compiler_that_fails_is_quoted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "broken-cc"
    broken.write_text("#!/bin/sh\necho 'out of order' >&2\nexit 1\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CC", str(broken))
    assert native.problem() == f"{broken} could not compile: out of order"
    assert not list(folder.glob("*.so"))


def test_a_cache_that_cannot_be_written_is_gone_round(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CRNN_SEARCH_CACHE", str(tmp_path / "file"))
    assert native.problem() is None


def test_a_damaged_library_is_gone_round(folder: Path) -> None:
    assert native.problem() is None
    (library,) = folder.iterdir()
    library.unlink()
    library.write_bytes(b"no library")
    compiler.library.cache_clear()
    assert native.problem() is None
