"""A search on a cluster that grows while it runs: real Ray, several nodes on one machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from crnn_search.data.sequences import Digits
from crnn_search.storage import jsonl
from tests.small_run import LAUNCH, prepare, start

SPACE = """
search: {trials: 14, max_epochs: 2, grace_epochs: 2, epoch_sequences: 8192, seed: 3}
retrain: {epochs: 1, epoch_sequences: 256, seeds: 1, finalists: 1}
space:
  conv_channels: 4
  kernel_size: 5
  pooling: 4
  gru_sizes: [8]
  learning_rate: {float: [5.0e-3, 3.0e-2], log: true}
  batch_size: 32
"""

GROWING = """
import pathlib, sys, threading, time
import ray
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
cluster.add_node(num_cpus=1)
sys.argv += ["--address", cluster.address]
ray._private.utils.set_sigterm_handler = lambda handler: None  # only the main thread may set it
journal = pathlib.Path("runs/demo/journal.jsonl")
def grow():
    while not (journal.exists() and '"epoch"' in journal.read_text()):
        time.sleep(0.05)
    cluster.add_node(num_cpus=3)
    threading.Event().wait()  # Linux ends the node's processes with the thread that started them
threading.Thread(target=grow, daemon=True).start()
"""


@pytest.mark.slow
def test_trials_start_on_a_node_that_joins_later(tmp_path: Path, digits: Digits) -> None:
    prepare(tmp_path, digits, SPACE)
    process = start(
        tmp_path, *LAUNCH, before=GROWING, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 32
    )
    assert process.wait(timeout=280) == 0, (tmp_path / "log").read_text()
    events = jsonl.read(tmp_path / "runs" / "demo" / "journal.jsonl")
    started = running = 0
    at_once = []
    for event in events:
        if event["event"] == "stage" and event["stage"] != "search":
            break
        if event["event"] == "trial":
            running, started = running + 1, started + 1
            at_once.append(running)
        elif event["event"] == "epoch":
            at_once.append(running)
            running -= event["epoch"] == 2
    assert started == 14
    first_epoch = [event["event"] for event in events].index("epoch")
    before = [event for event in events[:first_epoch] if event["event"] == "trial"]
    assert len(before) == 1, "one core runs one trial"
    assert max(at_once) == 4, "nodes of 1 and 3 cores"
