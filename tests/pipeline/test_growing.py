"""A search on a cluster that grows while it runs: real Ray, several nodes on one machine."""

from __future__ import annotations

from pathlib import Path

from crnn_search.data.sequences import Digits
from crnn_search.storage import jsonl
from tests.small_run import start, write_mnist

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
ray._private.utils.set_sigterm_handler = lambda handler: None  # it is for the main thread only
journal = pathlib.Path("runs/demo/journal.jsonl")
def grow():
    while not (journal.exists() and '"epoch"' in journal.read_text()):
        time.sleep(0.05)
    cluster.add_node(num_cpus=3)
    threading.Event().wait()  # Linux ends the node's processes with the thread that began them
threading.Thread(target=grow, daemon=True).start()
"""


def test_a_node_that_joins_later_gets_trials_and_uneven_nodes_are_full(
    tmp_path: Path, digits: Digits
) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    write_mnist(tmp_path / "data", digits)
    words = ("launch", "space.yaml", "--name", "demo", "--data-dir", "data")
    process = start(
        tmp_path, *words, before=GROWING, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 32
    )
    assert process.wait(timeout=280) == 0, (tmp_path / "log").read_text()
    events = jsonl.read(tmp_path / "runs" / "demo" / "journal.jsonl")
    search = [event for event in events if event["event"] in {"job", "epoch"}]
    begun = running = 0
    at_once = []
    for event in search:
        if event.get("stage", "search") != "search" or "retrained" in event.get("name", ""):
            continue
        if event["event"] == "job":
            running, begun = running + 1, begun + 1
        at_once.append(running)
        running -= event["event"] == "epoch" and event["epoch"] == 2
    assert begun == 14
    first_epoch = [event["event"] for event in search].index("epoch")
    assert at_once[first_epoch] == 1, "one core has room for one trial"
    assert max(at_once) == 4, "cores of 1 and 3"
