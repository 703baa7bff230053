"""Benchmark programs with synthetic digits in place of MNIST, also in the processes they start."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from tests.small_run import REPOSITORY, one_core

FOLDER = "SYNTHETIC_DIGITS"
"""Environment variable that names the folder of the digits' files."""

PROGRAM = """
import functools, sys
sys.path.insert(0, REPOSITORY)
for name in BLOCKED:
    sys.modules[name] = None
from tests.benchmarks.synthetic import install
install()
if "ray" not in BLOCKED:
    import ray
    hook = {"worker_process_setup_hook": "tests.benchmarks.synthetic.install"}
    ray.init = functools.partial(ray.init, runtime_env=hook)
from MODULE import main
BEFORE
if __name__ == "__main__":
    main()
"""


def install() -> None:
    """Accept the files of the folder as MNIST's."""
    from crnn_search.data import mnist

    folder = Path(os.environ[FOLDER])
    mnist.FILES = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in mnist.FILES
    }


def run(
    root: Path,
    module: str,
    *arguments: str,
    before: str = "",
    blocked: tuple[str, ...] = (),
    all_cores: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run a benchmark in `root`, whose folder `data` has the digits.

    before: Python that runs before its `main`. blocked: packages that it cannot import. all_cores:
    not on one core.
    """
    program = PROGRAM.replace("MODULE", module).replace("BEFORE", before)
    program = program.replace("REPOSITORY", repr(REPOSITORY))
    (root / "program.py").write_text(program.replace("BLOCKED", repr(blocked)))
    return subprocess.run(
        [sys.executable, "program.py", *arguments],
        cwd=root,
        preexec_fn=None if all_cores else one_core,
        env=os.environ | {FOLDER: str(root / "data")},
        capture_output=True,
        text=True,
        timeout=400,
    )
