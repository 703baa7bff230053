from __future__ import annotations

import subprocess
import sys


def test_footprint_does_not_import_torch() -> None:
    program = "import sys, crnn_search.training.footprint; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
