"""The kernels compiled with other flags: under sanitizers, and for processors without AVX."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from crnn_search.kernels import compiler

SANITIZERS = ("-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
OVERFLOW = """
#include <stdlib.h>
int read_past_the_end(int n) { char *p = calloc(n, 1); int x = p[n]; free(p); return x; }
"""


def run(
    tmp_path: Path, command: list[str], preload: Path | None = None
) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"CRNN_SEARCH_CACHE": str(tmp_path), "ASAN_OPTIONS": "detect_leaks=0"}
    if preload:
        env["LD_PRELOAD"] = str(preload)
    return subprocess.run(
        [sys.executable, *command], env=env, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def asan() -> Path:
    """The runtime of gcc's address sanitizer."""
    query = ["cc", "-print-file-name=libasan.so"]
    found = Path(subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip())
    if not found.is_file():  # without one the name is printed as it was given
        pytest.skip("the compiler has no address sanitizer")
    return found.resolve()


@pytest.mark.long(20)
@pytest.mark.slow
def test_kernels_pass_address_and_undefined_behaviour_sanitizers(
    tmp_path: Path, asan: Path
) -> None:
    done = run(tmp_path, ["-m", "tests.kernels.run_kernels", *SANITIZERS], preload=asan)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_sanitizer_finds_an_overflow(tmp_path: Path, asan: Path) -> None:
    source, library = tmp_path / "overflow.c", tmp_path / "overflow.so"
    source.write_text(OVERFLOW, encoding="utf-8")
    command = ["cc", *SANITIZERS, "-fPIC", "-shared", "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    script = f"import ctypes; ctypes.CDLL({str(library)!r}).read_past_the_end(8)"
    done = run(tmp_path, ["-c", script], preload=asan)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86 compiler")
def test_kernels_run_on_processors_without_avx(tmp_path: Path) -> None:
    done = run(tmp_path, ["-m", "tests.kernels.run_kernels", "-O0", "-march=x86-64"])
    assert done.returncode == 0, done.stderr
    assert "-march=native" in compiler.FLAGS  # which the flag above overrides
