"""Compiles the C code of folder `c` on each machine, with its compiler and for its processor.

The code is plain C, called through `ctypes`: there is no build step, and it depends on no version
of Python or PyTorch. Without a compiler there is no library, and a reason (decision 0012).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from crnn_search.kernels.processor import cpu_flags
from crnn_search.storage.cache import cache_folder
from crnn_search.text import first_line

SOURCES = Path(__file__).with_name("c")
FLAGS = (
    "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-std=gnu11", "-fPIC",
)  # fmt: skip
TIMEOUT_S = 120


@functools.cache
def library() -> tuple[ctypes.CDLL | None, str | None]:
    """The compiled library, or why there is none. Compiles if the machine's cache has none yet."""
    compiler, problem = _compiler()
    if problem is not None:
        return None, problem
    try:
        try:
            return ctypes.CDLL(str(_cached(compiler, cache_folder() / "kernels"))), None
        except OSError:  # the cache cannot be written, or its library is damaged
            with tempfile.TemporaryDirectory() as folder:  # a loaded library needs no file
                path = Path(folder) / "kernels.so"
                _compile(compiler, path)
                return ctypes.CDLL(str(path)), None
    except (OSError, subprocess.SubprocessError) as error:
        return None, f"{shlex.join(compiler)} cannot compile the kernels: {_reason(error)}"


def _compiler() -> tuple[tuple[str, ...], str | None]:
    """The command in CC, with its options if it has some, or `cc`; and why it cannot be used."""
    named = os.environ.get("CC", "").strip() or "cc"
    try:
        words = shlex.split(named)
    except ValueError as error:
        return (), f"CC is no command: {named!r}: {error}"
    program = shutil.which(named) or (shutil.which(words[0]) if words else None)
    if program is None:
        return (), "there is no C compiler" + ("" if named == "cc" else f" called {named!r}")
    return ((program,) if shutil.which(named) else (program, *words[1:])), None


def _cached(compiler: Sequence[str], folder: Path) -> Path:
    """The library for these sources, this compiler and processor; compiled if it is missing."""
    path = folder / f"kernels-{_digest(compiler)}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / "lock"):
            if not path.exists():
                _compile(compiler, path)
    return path


def _digest(compiler: Sequence[str]) -> str:
    """Changes with everything that the library depends on: machines may share a cache."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(SOURCES.glob("*.[ch]"))]
    parts = (*texts, *compiler, *FLAGS, platform.machine(), *sorted(cpu_flags()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock among processes, so that trials that start together compile once.

    Without locks on this file system each compiles, and the last one's library stays.
    """
    with path.open("wb") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)  # closing the file releases it
        yield


def _compile(compiler: Sequence[str], path: Path) -> None:
    """Compile all sources to a library, written completely or not at all."""
    sources = sorted(SOURCES.glob("*.c"))
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        folder = Path(name)
        objects = [folder / f"{source.stem}.o" for source in sources]
        with ThreadPoolExecutor() as pool:
            list(pool.map(partial(_compile_source, compiler), sources, objects))
        _run(*compiler, *FLAGS, "-shared", "-o", folder / path.name, *objects)
        (folder / path.name).replace(path)


def _compile_source(compiler: Sequence[str], source: Path, output: Path) -> None:
    _run(*compiler, *FLAGS, "-c", "-o", output, source)


def _run(*command: str | Path) -> None:
    subprocess.run(
        command, check=True, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S
    )


def _reason(error: Exception) -> str:
    """Why it failed. Python's own messages repeat the command, which has a dozen options."""
    if isinstance(error, subprocess.CalledProcessError):
        ended = f"it ended with exit code {error.returncode}"
        return first_line(error.stderr) if error.stderr.strip() else ended
    if isinstance(error, subprocess.TimeoutExpired):
        return f"it had not ended after {error.timeout:g} s"
    return first_line(error)
