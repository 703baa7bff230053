"""A small real search on a cluster, watched through its journal and compared with its ledger.

Its trials wait in its middle until they are let go: see `held`.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crnn_search.storage import jsonl
from tests import held
from tests.hosts.cluster import Cluster
from tests.hosts.hosts import HOME, SHARED, Host
from tests.hosts.limits import HostError
from tests.waiting import wait

TRIALS, EPOCHS = 8, 4
SPACE = f"""
search: {{trials: {TRIALS}, max_epochs: {EPOCHS}, grace_epochs: 2, reduction_factor: 2,
         epoch_sequences: 1000, seed: 3}}
retrain: {{epochs: 1, epoch_sequences: 256, seeds: 1, finalists: 1}}
space:
  conv_channels: {{list_of: {{int: [4, 8]}}, length: 1}}
  kernel_size: 5
  pooling: 4
  gru_sizes: [16]
  learning_rate: {{float: [5.0e-3, 3.0e-2], log: true}}
  batch_size: 64
"""


SUBMIT = """
from crnn_search.cluster import jobs
whole, jobs.PROGRAM = jobs.PROGRAM, jobs.PROGRAM.replace("-m crnn_search", "-m tests.held_trials")
assert jobs.PROGRAM != whole, whole
from crnn_search.cli.app import main
main()
"""
"""The command line, whose jobs are those of `tests.held_trials`."""


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
        self, what: Callable[[dict[str, Any]], bool], after: int, timeout_s: float = 120
    ) -> float:
        """Wait for an event that is not among the first `after`; returns how long it took.

        Raises:
            HostError: the search ended without it, or it did not come in time.
        """
        return self._wait(
            lambda: any(what(event) for event in self.events()[after:]),
            timeout_s,
            "it has not made the progress that was waited for",
        )

    def wait_for_middle(self) -> None:
        """Wait until its first trials have ended, and others wait on every worker.

        Raises:
            HostError: the search ended before, or this did not come in time.
        """
        workers = self.cluster.workers
        self._wait(
            lambda: len(self.ledger()) >= held.FREE and all(map(self.held_on, workers)),
            150,
            lambda: (
                f"{len(self.ledger())} of its first {held.FREE} trials have ended, and these wait: "
                f"{ {worker.name: self.held_on(worker) for worker in workers} }"
            ),
        )

    def held_on(self, host: Host) -> set[str]:
        """The trials that wait on a host, until `let_go`: see `held`."""
        last = {event["name"]: event["node"] for event in self.events(event="epoch")}
        ended = {line["name"] for line in self.ledger()}
        free = {f"trial-{number:04d}" for number in range(held.FREE)}
        return {name for name in last if last[name] == host.name} - ended - free

    def let_go(self) -> None:
        """Let the trials that wait continue, on all hosts."""
        cluster = self.cluster
        for host in (cluster.head, cluster.spare_head, *cluster.workers, *cluster.off):
            held.go_file(self.name, host.files / "tmp/home").touch()

    def notes_on(self, host: Host) -> str:
        """What trials have noticed on a host, whether or not the driver has heard of it."""
        path = held.notes_file(self.name, host.files / "tmp/home")
        return path.read_text() if path.exists() else ""

    def _wait(
        self, what: Callable[[], bool], timeout_s: float, otherwise: str | Callable[[], str]
    ) -> float:
        """Wait until something is true of the search; returns how long it took."""

        def happened() -> bool:
            ended = self.process.poll() is not None
            if what():
                return True
            if ended:
                raise HostError(f"{self.name} has ended before: {reason()}")
            return False

        def reason() -> str:
            why = otherwise if isinstance(otherwise, str) else otherwise()
            return f"{self.name}: {why}; its output:\n{self.tail()}"

        return wait(happened, timeout_s, reason)

    def ledger(self) -> list[dict[str, Any]]:
        path = self.folder / "trials.jsonl"
        return jsonl.read(path) if path.exists() else []

    def wait_for_end(self, timeout_s: float) -> int:
        """Wait until its driver, or whoever follows it, has ended; returns the exit code.

        Raises:
            HostError: it did not end in time.
        """
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            message = f"{self.name} has not ended after {timeout_s:.0f} s:\n{self.tail()}"
            raise HostError(message) from None

    def finish(self) -> str:
        """Wait for its end; returns its trials in words, checked against those asked for.

        Raises:
            HostError: it failed, did not end in time, or lost or repeated a trial.
        """
        code = self.wait_for_end(150)
        if code or not (self.folder / "report.json").exists():
            raise HostError(f"{self.name} ended with exit code {code}:\n{self.tail()}")
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
            raise HostError(f"{self.name}: {counted}, failed: {failed}")
        return f"{counted}, epochs trained twice {twice}"

    def printed(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def tail(self) -> str:
        return "\n".join(self.printed().splitlines()[-30:])


def write_space(cluster: Cluster) -> None:
    """Write the space where all hosts see it."""
    (cluster.world.shared / "space.yaml").write_text(SPACE)


def write_own_data(cluster: Cluster) -> str:
    """Write a data set that only the client sees, and a space beside it; returns its folder."""
    folder = f"{HOME}/clips"
    example = f"data example {folder} --coloured --sequences 300 --data-dir {SHARED}/mnist"
    cluster.client.run("crnn-search", *example.split())
    space = f"task: {{data: ., target: sum}}\n{SPACE}"
    (cluster.client.files / "tmp/home/clips/space.yaml").write_text(space)
    return folder


def submit(cluster: Cluster, name: str, folder: str | None = None) -> Search:
    """Submit a search from the client, which is not part of the cluster, and follow its job.

    folder: of the client, with an own data set; by default the search is on MNIST's sums.

    Raises:
        HostError: it was refused.
    """
    write_space(cluster)
    dashboard = cluster.tunnel()
    data = "" if folder else f"--data-dir {SHARED}/mnist"
    place = f"--name {name} --storage {SHARED}/runs {data}"
    words = f"submit {folder or SHARED}/space.yaml --address {dashboard} {place}"
    printed = cluster.client.run("python", "-c", SUBMIT, *words.split())
    jobs = [line for line in printed.splitlines() if line.startswith("job: ")]
    if not jobs:
        raise HostError(f"{name} has no job:\n{printed}")
    log = cluster.log.with_name(f"{name}.log")
    job = jobs[0].removeprefix("job: ")
    follow = ("crnn-search", "logs", job, "--address", dashboard, "--follow")
    return Search(cluster, name, cluster.client.start(*follow, log=log))


def resume(cluster: Cluster, name: str, host: Host) -> Search:
    """Resume a search on a host; no trial waits any more."""
    data = "" if (cluster.world.shared / "runs" / name / "data").is_dir() else f"{SHARED}/mnist"
    words = f"resume {SHARED}/runs/{name} --address auto {data and f'--data-dir {data}'}"
    log = cluster.log.with_name(f"{name}.log")
    return Search(cluster, name, cluster.start_ssh(host, f"venv/bin/crnn-search {words}", log))
