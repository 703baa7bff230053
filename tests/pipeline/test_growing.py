"""A search on a cluster that grows while it runs: real Ray, several nodes on one machine."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from crnn_search.data.digits import Digits
from crnn_search.storage import jsonl
from tests import held
from tests.small_run import LAUNCH, prepare, start, wait_for, wait_for_end
from tests.waiting import wait

SPACE = """
search: {trials: 5, max_epochs: 2, grace_epochs: 2, epoch_sequences: 512, seed: 3}
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
    cluster.add_node(num_cpus=2)
    threading.Event().wait()  # Linux ends the node's processes with the thread that started them
threading.Thread(target=grow, daemon=True).start()
"""


@pytest.mark.long(45)
@pytest.mark.slow
def test_trials_start_on_a_node_that_joins_later(tmp_path: Path, digits: Digits) -> None:
    prepare(tmp_path, digits, SPACE)
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 32, held.FOLDER: str(tmp_path)}
    process = start(tmp_path, *LAUNCH, before=held.PROGRAM + GROWING, all_cores=True, **variables)
    run = tmp_path / "runs" / "demo"
    wait_for(run, process=process, event="epoch")

    def three_run_or_it_ended() -> bool:
        return process.poll() is not None or max(at_once(jsonl.read(run / "journal.jsonl"))) == 3

    wait(three_run_or_it_ended, 200, "not three trials run at once")
    held.go_file("demo", tmp_path).touch()
    wait_for(run, process=process, event="stage", stage="retrain")
    process.send_signal(signal.SIGTERM)
    assert wait_for_end(process, tmp_path, 60) == 130, (tmp_path / "log").read_text()
    events = jsonl.read(run / "journal.jsonl")
    first_epoch = [event["event"] for event in events].index("epoch")
    before = [event for event in events[:first_epoch] if event["event"] == "trial"]
    assert len(before) == 1, "one core runs one trial"
    assert max(at_once(events)) == 3, "nodes of 1 and 2 cores"
    assert len(jsonl.read(run / "trials.jsonl")) == 5


def at_once(events: list[jsonl.Record]) -> list[int]:
    """How many trials of the search ran, whenever one was started or had ended an epoch."""
    running, found = 0, [0]
    for event in events:
        if event["event"] == "stage" and event["stage"] != "search":
            break
        if event["event"] == "trial":
            running += 1
            found.append(running)
        elif event["event"] == "epoch":
            found.append(running)
            running -= event["epoch"] == 2
    return found
