"""The C code of folder `c`, compiled once on each machine, by its compiler, for its processor.

Plain C, called by `ctypes`: there is no build step, and nothing of Python's or PyTorch's to match.
Where there is no compiler there is no library, and a reason (decision 0012).
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from crnn_search.storage.cache import cache_folder

SOURCES = Path(__file__).with_name("c")
FLAGS = (
    "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-std=gnu11", "-fPIC",
)  # fmt: skip
LIMIT_S = 120


@functools.cache
def library() -> tuple[ctypes.CDLL | None, str | None]:
    """The compiled library, or why there is none. The first call of all compiles it."""
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None:
        return None, "there is no C compiler"
    try:
        try:
            return ctypes.CDLL(str(_compiled(compiler, cache_folder() / "kernels"))), None
        except OSError:  # the cache cannot be written, or holds what cannot be loaded
            with tempfile.TemporaryDirectory() as folder:  # what is loaded needs its file no more
                return ctypes.CDLL(str(_compiled(compiler, Path(folder)))), None
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or "").strip() or str(error)
        return None, f"{compiler} could not compile: {said.splitlines()[0]}"


def _compiled(compiler: str, folder: Path) -> Path:
    """The library for this source and processor; compiled if it is not there."""
    sources = sorted(SOURCES.glob("*.c"))
    texts = [path.read_text() for path in sorted(SOURCES.glob("*.[ch]"))]
    about = "\n".join((*texts, compiler, *FLAGS, platform.machine(), _processor()))
    library = folder / f"kernels-{hashlib.sha256(about.encode()).hexdigest()[:16]}.so"
    if library.exists():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as unfinished:
        made = Path(unfinished) / library.name
        objects = [made.with_name(f"{source.stem}.o") for source in sources]
        with ThreadPoolExecutor() as pool:
            list(pool.map(partial(_compile, compiler), sources, objects))
        _run(compiler, *FLAGS, "-shared", "-o", made, *objects, "-lm")
        made.replace(library)  # whole or not at all, whoever else compiles
    return library


def _compile(compiler: str, source: Path, made: Path) -> None:
    _run(compiler, *FLAGS, "-c", "-o", made, source)


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=LIMIT_S)


def _processor() -> str:
    """What this processor can; machines that share a cache may differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
