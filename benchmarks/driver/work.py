"""What both drivers of the benchmark share: the space, the objective, and the measurements."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

SPACE = """
search: {{trials: {trials}, max_epochs: 9, grace_epochs: 1, reduction_factor: 3,
         max_concurrent_trials: 2}}
space:
  conv_channels: {{list_of: {{int: [8, 64], log: true}}, length: [1, 4]}}
  gru_sizes: {{list_of: {{int: [32, 256], log: true}}, length: [1, 3]}}
  dropout: {{float: [0.0, 0.5]}}
  learning_rate: {{float: [1.0e-4, 2.0e-2], log: true}}
  batch_size: {{choice: [64, 128, 256, 512]}}
"""

EPOCHS = 9


def objective(config: dict[str, Any], epoch: int) -> float:
    """A validation RMSE that needs no training."""
    return float(
        abs(config["learning_rate"] - 0.003) * 300 + config["dropout"]
        + abs(len(config["gru_sizes"]) - 2) + 3 / epoch
    )  # fmt: skip


def memory_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Marks:
    """Trials that ended, seconds and memory, each time `every` more trials have ended."""

    def __init__(self, every: int) -> None:
        self.every, self.ended, self.rows = every, 0, [(0, 0.0, memory_mb())]
        self.start = time.monotonic()

    def add(self) -> None:
        """Count a trial that ended."""
        if self.ended == 0:  # Ray has started
            self.start = time.monotonic()
        self.ended += 1
        if self.ended % self.every == 0:
            self.rows.append((self.ended, time.monotonic() - self.start, memory_mb()))
