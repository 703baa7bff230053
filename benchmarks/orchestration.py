"""What a search costs beside its training: `python -m benchmarks.orchestration`.

Launches a real search, two trials at once with epochs of some 15 seconds on one core each, and
reads its journal: the wall time from the first trial's first step to the last one's end, beside the
engine's seconds divided by two, and how long each later trial waited for its first step. Ray's
start is left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.circumstances import circumstances
from crnn_search import lines

RESULTS = Path(__file__).parent / "results" / "orchestration.json"
CONCURRENT = 2
SPACE = """
search: {trials: 8, max_epochs: 3, grace_epochs: 3, epoch_sequences: SEQUENCES, seed: 0,
         max_concurrent_trials: 2}
retrain: {epochs: 1, epoch_sequences: 256, seeds: 1, finalists: 1}
space:
  conv_channels: [8, 16]
  kernel_size: 5
  pooling: [3, 2]
  padding: valid
  gru_sizes: [64]
  batch_size: 128
  learning_rate: {float: [3.0e-3, 1.0e-2], log: true}
"""


def figures(events: list[dict[str, Any]]) -> dict[str, Any]:
    """What the journal of a search of equal trials says."""
    stages = [n for n, event in enumerate(events) if event["event"] == "stage"]
    searching = events[: stages[1]]
    epochs = [event for event in searching if event["event"] == "epoch"]
    first = {event["name"]: event for event in reversed(epochs)}
    last = {event["name"]: event["elapsed_s"] for event in epochs}
    begins = sorted(event["elapsed_s"] - event["seconds"] for event in first.values())
    ends = sorted(last.values())
    wall = ends[-1] - begins[0]
    engine = sum(event["seconds"] for event in epochs)
    waits = [begun - ended for begun, ended in zip(begins[CONCURRENT:], ends, strict=False)]
    return {
        "epoch_s": engine / len(epochs),
        "wall_s": wall,
        "engine_s_each": engine / CONCURRENT,
        "overhead": wall / (engine / CONCURRENT) - 1,
        "waits_s": waits,
    }


def main() -> None:
    """Measure, print, write `benchmarks/results/orchestration.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--sequences", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "space.yaml").write_text(SPACE.replace("SEQUENCES", str(options.sequences)))
        words = ["launch", "space.yaml", "--name", "search", "--storage", "runs"]
        if options.data_dir:
            words += ["--data-dir", str(options.data_dir.resolve())]
        subprocess.run([sys.executable, "-m", "crnn_search", *words], cwd=folder, check=True)
        found = figures(lines.read(folder / "runs/search/journal.jsonl"))
    RESULTS.write_text(json.dumps(circumstances("ray") | found, indent=2) + "\n")
    print(
        f"epochs of {found['epoch_s']:.1f} s; wall time {found['wall_s']:.1f} s, "
        f"{found['overhead']:.1%} above the engine's {found['engine_s_each']:.1f} s; "
        f"later trials waited {max(found['waits_s']):.2f} s at most"
    )


if __name__ == "__main__":
    main()
