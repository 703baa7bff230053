"""Faults of hosts in the middle of a search, and what must become of the search."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.hosts import searches
from tests.hosts.cluster import Cluster
from tests.hosts.hosts import SHARED, Host
from tests.hosts.limits import HostError
from tests.hosts.searches import Search
from tests.waiting import wait

CUT_S = 60
UNREACHABLE_S = 30
CLOCK_OFF_S = 600
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"


SCORE = """
import csv, math, pathlib, sys
import numpy as np
import onnxruntime
from PIL import Image
folder = pathlib.Path(sys.argv[1])
rows = list(csv.DictReader((folder / "metadata.csv").open()))
sequences = {}
for row in rows:
    if row["split"] == "test":
        sequences.setdefault((row["sequence"], float(row["sum"])), []).append(row["file_name"])
session = onnxruntime.InferenceSession(sys.argv[2])
errors = []
for (_, target), names in sequences.items():
    images = np.stack([np.asarray(Image.open(folder / name)) for name in names])
    images = images.transpose(0, 3, 1, 2)[None].astype(np.float32) / 255
    inputs = {"images": images, "lengths": np.array([len(names)])}
    errors.append(session.run(["prediction"], inputs)[0][0] - target)
print(math.sqrt(np.mean(np.square(errors))))
"""
"""Prints the RMSE of an ONNX file on the test sequences of a folder of images in colour."""


@dataclass(frozen=True)
class Outcome:
    """What became of a search: trials by its ledger, and how long until it continued."""

    counted: str
    recovered_s: float
    note: str = ""


def worker_killed(cluster: Cluster) -> Outcome:
    """A worker host loses power; its trials continue elsewhere from their last checkpoints."""
    search, victim, trials = _in_the_middle(cluster, "worker-killed")
    known = len(search.events())
    victim.kill()
    search.let_go()
    recovered_s = _wait_for_epochs(search, trials, known)
    counted = search.finish()
    victim.boot()
    back_s = cluster.wait_for_nodes()
    return Outcome(counted, recovered_s, f"switched on again, it was back in {back_s:.0f} s")


def link_cut(cluster: Cluster) -> Outcome:
    """A worker's cable is out for a minute."""
    search, victim, trials = _in_the_middle(cluster, "link-cut")
    known = len(search.events())
    start = time.monotonic()
    victim.cut()
    search.let_go()
    recovered_s = _wait_for_epochs(search, trials, known)
    time.sleep(max(0.0, CUT_S - (time.monotonic() - start)))
    victim.mend()
    back_s = cluster.wait_for_nodes()
    return Outcome(search.finish(), recovered_s, f"the worker was back {back_s:.0f} s after it")


def worker_joins(cluster: Cluster) -> Outcome:
    """A machine that is named in the file is switched on; it gets trials."""
    search = searches.submit(cluster, "worker-joins")
    search.wait_for_middle()
    known = len(search.events())
    new = cluster.off.pop()
    new.boot()
    cluster.workers.append(new)
    recovered_s = search.wait_for(lambda event: event.get("node") == new.name, known)
    search.let_go()
    return Outcome(search.finish(), recovered_s, f"its first epoch ended on {new.name}")


def driver_killed(cluster: Cluster) -> Outcome:
    """The driver's process dies; a worker host, which sees the same storage, resumes the search.

    The search is on a data set that was sent with the job. At the end a program without this
    package scores the exported model on the data set's files.
    """
    folder = searches.write_own_data(cluster)
    search = searches.submit(cluster, "driver-killed", folder)
    search.wait_for_middle()
    cluster.head.run("kill", "-9", str(search.events(event="session")[-1]["pid"]))
    search.let_go()
    search.wait_for_end(60)
    outcome = _resumed(cluster, search, cluster.workers[0], time.monotonic())
    report = json.loads((search.folder / "report.json").read_text())
    words = (f"{folder}", f"{SHARED}/runs/{search.name}/model/model.onnx")
    scored = float(cluster.client.run("python", "-I", "-c", SCORE, *words).split()[-1])
    reported = report["test"]["exported_rmse"]
    if abs(scored - reported) > 0.01 * reported:
        raise HostError(f"the ONNX file's RMSE is {scored}, the report says {reported}")
    note = f"{outcome.note}; RMSE reported {reported:.4f}, of the ONNX file {scored:.4f}"
    return Outcome(outcome.counted, outcome.recovered_s, note)


def head_killed(cluster: Cluster) -> Outcome:
    """The head host loses power; another machine becomes the head."""
    search, _, _ = _in_the_middle(cluster, "head-killed")
    start = time.monotonic()
    cluster.head.kill()
    search.let_go()
    cluster.head = cluster.spare_head
    cluster.head.boot()
    up_s = cluster.up()
    outcome = _resumed(cluster, search, cluster.head, start)
    return Outcome(outcome.counted, outcome.recovered_s, f"of which a new head took {up_s:.0f} s")


def storage_unreachable(cluster: Cluster) -> Outcome:
    """The shared folder is empty and read-only on every host for half a minute."""
    search, _, _ = _in_the_middle(cluster, "storage-away")
    hosts = [cluster.head, *cluster.workers]
    for host in hosts:
        host.run("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(SHARED))
    start = time.monotonic()
    search.let_go()
    for host in cluster.workers:
        wait(
            lambda host=host: "cannot be reached" in search.notes_on(host),  # type: ignore[misc]
            60,
            f"no trial on {host.name} has noticed that the storage is away",
        )
    time.sleep(max(0.0, UNREACHABLE_S - (time.monotonic() - start)))
    known = len(search.events())
    for host in hosts:
        host.run("umount", "--lazy", str(SHARED))  # also while a process looks at it
    recovered_s = search.wait_for(_is_epoch, known)
    counted = search.finish()
    warnings = [line for line in search.printed().splitlines() if "cannot be reached" in line]
    if not warnings:
        raise HostError(f"{search.name} gave no warning:\n{search.tail()}")
    return Outcome(counted, recovered_s, f"warned: {warnings[0]}")


def clock_off(cluster: Cluster) -> Outcome:
    """A worker comes with a clock ten minutes ahead: libfaketime shows its processes that time.

    It keeps this clock.
    """
    host = cluster.workers[-1]
    _switch_off(cluster, host)
    host.variables |= {"LD_PRELOAD": FAKETIME, "FAKETIME": f"+{CLOCK_OFF_S}s"}
    host.boot()
    cluster.wait_for_nodes()
    search, _, trials = _in_the_middle(cluster, "clock-off", host)
    off_s = float(cluster.ssh(host, "date +%s")) - time.time()
    if abs(off_s - CLOCK_OFF_S) > 5:
        raise HostError(f"the clock of {host.name} is {off_s:.0f} s off, not {CLOCK_OFF_S}")
    known = len(search.events())
    search.let_go()
    recovered_s = _wait_for_epochs(search, trials, known)
    return Outcome(search.finish(), recovered_s, f"{host.name} was {off_s:.0f} s ahead")


Fault = Callable[[Cluster], Outcome]
SHORT: dict[str, Fault] = {"worker host killed": worker_killed}
ALL = SHORT | {
    f"worker's link cut for {CUT_S} s": link_cut,
    "new worker joins": worker_joins,
    "driver killed": driver_killed,
    f"storage unreachable for {UNREACHABLE_S} s": storage_unreachable,
    "head host killed": head_killed,
    "clock of a host 10 minutes off": clock_off,  # last: the cluster keeps this host
}


def _switch_off(cluster: Cluster, host: Host) -> None:
    """Stop Ray on a host, switch it off, and wait until the cluster has noticed."""
    cluster.ssh(host, "venv/bin/ray stop")
    host.kill()
    cluster.workers.remove(host)
    cluster.wait_for_nodes()
    cluster.workers.append(host)


def _in_the_middle(
    cluster: Cluster, name: str, victim: Host | None = None
) -> tuple[Search, Host, set[str]]:
    """A search that waits in its middle, one of the workers, and the trials that wait on it."""
    search = searches.submit(cluster, name)
    search.wait_for_middle()
    victim = victim or cluster.workers[0]
    return search, victim, search.held_on(victim)


def _wait_for_epochs(search: Search, trials: set[str], known: int) -> float:
    """Wait until each of the trials has ended another epoch; returns how long the last one took."""
    start = time.monotonic()

    def ended_epoch(name: str) -> Callable[[dict[str, object]], bool]:
        return lambda event: _is_epoch(event) and event["name"] == name

    for name in trials:
        search.wait_for(ended_epoch(name), known)
    return time.monotonic() - start


def _resumed(cluster: Cluster, search: Search, host: Host, start: float) -> Outcome:
    """Resume a search whose driver died, and check that no ended trial has changed."""
    ended, known = search.ledger(), len(search.events())
    if not 0 < len(ended) < searches.TRIALS:
        raise HostError(f"{search.name} was not in its middle: {len(ended)} trials had ended")
    search = searches.resume(cluster, search.name, host)
    search.wait_for(_is_epoch, known)
    recovered_s = time.monotonic() - start
    counted = search.finish()
    if search.ledger()[: len(ended)] != ended:
        raise HostError(f"{search.name}: the ledger's first lines have changed")
    return Outcome(counted, recovered_s, f"resumed on {host.name}")


def _is_epoch(event: dict[str, object]) -> bool:
    return event["event"] == "epoch"
