"""A small real search on a cluster, watched through its journal and compared with its ledger."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crnn_search.storage import jsonl
from tests.hosts.cluster import SHARED, Cluster, wait
from tests.hosts.hosts import Host

TRIALS, EPOCHS = 8, 4
SPACE = f"""
search: {{trials: {TRIALS}, max_epochs: {EPOCHS}, grace_epochs: 2, reduction_factor: 2,
         epoch_sequences: 6000, seed: 3}}
retrain: {{epochs: 1, epoch_sequences: 256, seeds: 1, finalists: 1}}
space:
  conv_channels: {{list_of: {{int: [4, 8]}}, length: 1}}
  kernel_size: 5
  pooling: 4
  gru_sizes: [16]
  learning_rate: {{float: [5.0e-3, 3.0e-2], log: true}}
  batch_size: 64
"""


@dataclass
class Search:
    """A search that was started on a cluster."""

    cluster: Cluster
    name: str
    process: subprocess.Popen[bytes]

    @property
    def folder(self) -> Path:
        return self.cluster.world.shared / "runs" / self.name

    @property
    def log(self) -> Path:
        return self.cluster.log.with_name(f"{self.name}.log")

    def events(self, **wanted: Any) -> list[dict[str, Any]]:
        """The events of its journal that have these fields."""
        path = self.folder / "journal.jsonl"
        found = jsonl.read(path) if path.exists() else []
        return [event for event in found if wanted.items() <= event.items()]

    def wait_for(
        self, what: Callable[[dict[str, Any]], bool], after: int, timeout_s: float = 180
    ) -> float:
        """Wait for an event that is not among the first `after`; returns how long it took."""

        def happened() -> bool:
            if self.process.poll() not in {None, 0}:
                raise RuntimeError(f"{self.name} ended:\n{self.tail()}")
            return any(what(event) for event in self.events()[after:])

        return wait(happened, timeout_s, f"{self.name} makes no progress:\n{self.tail()}")

    def under_way(self) -> None:
        """Wait until some trials have ended and others run on every worker."""
        nodes = {worker.name for worker in self.cluster.workers}
        wait_s = 120.0
        self.wait_for(lambda event: event["event"] == "epoch", 0, wait_s)
        wait(
            lambda: (
                bool(self.ledger())
                and nodes <= {event["node"] for event in self.events(event="epoch")}
            ),
            wait_s,
            f"not every one of {nodes} has a trial of {self.name}, or none has ended",
        )

    def running_on(self, host: Host) -> set[str]:
        """The trials whose last epoch a host trained and that have not ended."""
        last = {event["name"]: event["node"] for event in self.events(event="epoch")}
        ended = {line["name"] for line in self.ledger()}
        return {name for name, node in last.items() if node == host.name} - ended

    def ledger(self) -> list[dict[str, Any]]:
        path = self.folder / "trials.jsonl"
        return jsonl.read(path) if path.exists() else []

    def finish(self, timeout_s: float = 300) -> str:
        """Wait for its end; returns its trials in words, checked against those asked for."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{self.name} does not end:\n{self.tail()}") from None
        if code or not (self.folder / "report.json").exists():
            raise RuntimeError(f"{self.name} ended with exit code {code}:\n{self.tail()}")
        return self.count()

    def count(self) -> str:
        """Trials lost and repeated, by the ledger; epochs trained twice, by the journal."""
        ended = Counter(line["number"] for line in self.ledger())
        lost = TRIALS - len(ended)
        repeated = sum(ended.values()) - len(ended)
        failed = [line for line in self.ledger() if line["state"] == "FAIL"]
        trained = Counter((event["name"], event["epoch"]) for event in self.events(event="epoch"))
        twice = sum(trained.values()) - len(trained) + len(self.events(event="spent"))
        counted = f"lost {lost}, repeated {repeated}"
        if failed or lost or repeated or set(ended) != set(range(TRIALS)):
            raise RuntimeError(f"{self.name}: {counted}, failed: {failed}")
        return f"{counted}, epochs trained twice {twice}"

    def printed(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def tail(self) -> str:
        return "\n".join(self.printed().splitlines()[-30:])


def write_space(cluster: Cluster) -> None:
    """Write the space where all hosts see it."""
    (cluster.world.shared / "space.yaml").write_text(SPACE)


def submit(cluster: Cluster, name: str) -> Search:
    """Submit a search from the client, which is not part of the cluster, and follow its job."""
    write_space(cluster)
    dashboard = cluster.tunnel()
    place = f"--name {name} --storage {SHARED}/runs --data-dir {SHARED}/mnist"
    words = f"submit {SHARED}/space.yaml --address {dashboard} {place}"
    printed = cluster.client.run("crnn-search", *words.split()).splitlines()
    job = next(line.removeprefix("job: ") for line in printed if line.startswith("job: "))
    log = cluster.log.with_name(f"{name}.log")
    follow = ("crnn-search", "logs", job, "--address", dashboard, "--follow")
    return Search(cluster, name, cluster.client.start(*follow, log=log))


def resume(cluster: Cluster, name: str, host: Host) -> Search:
    """Resume a search on a host."""
    words = f"resume {SHARED}/runs/{name} --address auto --data-dir {SHARED}/mnist"
    log = cluster.log.with_name(f"{name}.log")
    return Search(cluster, name, cluster.start_ssh(host, f"venv/bin/crnn-search {words}", log))
