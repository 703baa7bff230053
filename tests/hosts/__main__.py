"""`make cluster-test`: a Ray cluster on three hosts of this machine, and faults injected into it.

`--short` injects one fault, a killed worker host; `--fault WORD` those whose name has this word;
`--keep FOLDER` keeps the logs of hosts and searches.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from crnn_search.errors import CrnnSearchError
from tests.hosts import faults, refusals
from tests.hosts.cluster import Cluster, listens, prepare, prepare_client
from tests.hosts.faults import Fault
from tests.hosts.hosts import HOME, PROGRAMS, Host, World, enter
from tests.hosts.limits import (
    at_most,
    hold_signals,
    interruptible,
    take_signals,
)
from tests.waiting import wait

PACKAGES = "iproute2 openssh-server rsync faketime"

WHOLE_S = 20 * 60.0
"""How long all faults together may take, with the cluster's start."""

FAULT_S = 5 * 60.0
"""How long one fault may take, from the start of its search until the cluster is whole again."""


def main() -> int:
    """Check that hosts can be made, and run everything in a world that is removed afterwards."""
    options = _options()
    if options.inside:
        take_signals()
        return run(World(options.inside), _wanted(options))
    hold_signals()
    problem = _problem()
    if problem:
        print(f"cluster-test: {problem}", file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="crnn-search-", dir="/var/tmp"))
    print(f"the hosts' files: {folder}", flush=True)
    code = 1
    try:
        _put_mnist(folder / "mnist")
        words = ["--short"] * options.short + [f"--fault={word}" for word in options.fault]
        code = enter(words, folder, WHOLE_S + 60)
    except KeyboardInterrupt:
        print("cluster-test: interrupted", file=sys.stderr)
        code = 130
    except (RuntimeError, CrnnSearchError) as error:
        print(f"cluster-test: {error}", file=sys.stderr)
    finally:
        try:
            if options.keep:
                _keep_logs(folder, options.keep)
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # `_left_behind` looks for it
    left = _left_behind(str(folder))
    print(f"left behind: {', '.join(left) or 'nothing'}")
    return code or bool(left)


def run(world: World, wanted: dict[str, Fault]) -> int:
    """Bring the cluster up, inject the faults, take it down; returns the exit code."""
    start = time.monotonic()
    failed = False
    try:
        with at_most(WHOLE_S / 2):
            cluster = _hosts(world)
            print(f"cluster up from another host: {cluster.up():.0f} s", flush=True)
            for what, answer in refusals.checks(cluster):
                print(f"{what}: {answer}", flush=True)
        for name, fault in wanted.items():
            failed = not _inject(name, fault, cluster, WHOLE_S - (time.monotonic() - start))
            if failed:
                break  # the next one needs a whole cluster
        print(f"the token: {refusals.find_secrets(cluster)}")
        if not failed:
            cluster.down()
    except (RuntimeError, CrnnSearchError) as error:
        failed = True
        print(f"cluster-test: {error}", file=sys.stderr)
    print(f"{'failed' if failed else 'passed'} in {time.monotonic() - start:.0f} s")
    return int(failed)


def _inject(name: str, fault: Fault, cluster: Cluster, left_s: float) -> bool:
    """Inject a fault and print what became of its search; returns whether that was right.

    left_s: what is left of the time for all faults.
    """
    start = time.monotonic()
    try:
        with at_most(min(FAULT_S, left_s)):
            outcome = fault(cluster)
    except (RuntimeError, CrnnSearchError) as error:
        print(f"{name}: FAILED: {error}", flush=True)
        return False
    note = f" ({outcome.note})" if outcome.note else ""
    print(
        f"{name}: {outcome.counted}; continued after {outcome.recovered_s:.0f} s{note}; "
        f"{time.monotonic() - start:.0f} s in all",
        flush=True,
    )
    return True


def _hosts(world: World) -> Cluster:
    """Head, two workers of one core each and the client; a worker of three cores is off."""
    world.build()
    common = {"PYTHONPATH": f"{HOME}/crnn-search"}
    one, three = ({"RAY_OVERRIDE_RESOURCES": f'{{"CPU": {cores}}}'} for cores in (1, 3))
    head, spare = Host("head", 1, world, common), Host("head-2", 4, world, common)
    workers = [Host(f"worker-{n}", 10 + n, world, common | one) for n in (1, 2)]
    big = Host("worker-3", 13, world, common | three)
    client = Host("client", 99, world, {"PYTHONPATH": f"{HOME}/checkout"})
    for host in (head, spare, *workers, big, client):
        prepare(host)
    prepare_client(client)
    for host in (head, *workers, client):
        host.boot()
    for host in (head, *workers, client):
        wait(lambda host=host: listens(host), 20, f"{host.name} has no SSH daemon")  # type: ignore[misc]
    client.run("ray", "get-auth-token", "--generate")
    return Cluster(world, head, spare, workers, [big], client)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make cluster-test", description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--fault", action="append", default=[], metavar="WORD")
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _wanted(options: argparse.Namespace) -> dict[str, Fault]:
    if options.short:
        return faults.SHORT
    words = options.fault or [""]
    return {name: f for name, f in faults.ALL.items() if any(word in name for word in words)}


def _problem() -> str | None:
    """Why hosts cannot be made here, or None."""
    if sys.platform != "linux":
        return f"hosts are Linux namespaces; this is {sys.platform}"
    if os.geteuid() != 0:
        return "hosts are namespaces, which only root can make; run it as root"
    missing = [name for name in PROGRAMS if not shutil.which(name, path=_path())]
    if not Path(faults.FAKETIME).exists():
        missing.append("libfaketime")
    if missing:
        return f"{', '.join(missing)} not found; on Debian: apt-get install {PACKAGES}"
    command = ["unshare", "--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "true"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        return f"this machine lets not even root make namespaces: {done.stderr.strip()}"
    return None


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _put_mnist(folder: Path) -> None:
    """Copy MNIST's files from the cache, or download them: the hosts have no internet."""
    from crnn_search.data import mnist

    with interruptible():
        found = mnist.find()
        folder.mkdir()
        for name in mnist.FILES:
            shutil.copy(found / name, folder)


def _left_behind(folder: str) -> list[str]:
    """Processes whose command names the test's folder, mounts in it, and the folder itself."""
    found = [folder] if Path(folder).exists() else []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            mounts = (process / "mountinfo").read_text()
        except OSError:
            continue
        if folder in command or folder in mounts:
            found.append(f"process {process.name}: {command}")
    return found


def _keep_logs(folder: Path, kept: Path) -> None:
    kept.mkdir(parents=True, exist_ok=True)
    for log in (*folder.glob("*.log"), *folder.glob("*/sshd.log")):
        shutil.copy(log, kept / "-".join(log.relative_to(folder).parts))
    for log in folder.glob("*/tmp/ray/session_2*/logs/monitor.*"):
        shutil.copy(log, kept / f"{log.relative_to(folder).parts[0]}-{log.name}")
    for run in folder.glob("shared/runs/*"):
        for name in ("search.log", "journal.jsonl", "trials.jsonl"):
            if (run / name).exists():
                shutil.copy(run / name, kept / f"{run.name}-{name}")


if __name__ == "__main__":
    sys.exit(main())
