"""Benchmarks. Processes that they start import them from this repository's folder.

Ray's workers import nothing from the current folder, so that folder is named in `PYTHONPATH`.
"""

import os
from pathlib import Path

_ROOT = str(Path(__file__).parents[1])

if _ROOT not in os.environ.get("PYTHONPATH", "").split(os.pathsep):
    _paths = (_ROOT, os.environ.get("PYTHONPATH"))
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in _paths if path)
