"""A Ray cluster on hosts: brought up from `cluster.on-prem.yaml` by SSH, from a host outside it."""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.hosts.hosts import HOME, Host, World
from tests.hosts.limits import HostError
from tests.waiting import wait

ROOT = Path(__file__).parents[2]
CONFIG = "cluster.on-prem.yaml"
FILLED_IN = {"user": "ubuntu", "head": "192.168.1.10", "workers": ["192.168.1.11", "192.168.1.12"]}
"""The values in the file that a user replaces by their own."""

ALIVE = """
import ray
ray.init("auto", logging_level="ERROR")
print("ALIVE", sorted(n["NodeManagerHostname"] for n in ray.nodes() if n["Alive"]))
"""


@dataclass
class Cluster:
    """The cluster's hosts, and the client, which is no part of it.

    spare_head: a machine that is off, to become the head. off: workers that are named in the
    cluster's file but are off.
    """

    world: World
    head: Host
    spare_head: Host
    workers: list[Host]
    off: list[Host]
    client: Host
    _tunnel: tuple[Host, subprocess.Popen[bytes]] | None = None

    @property
    def log(self) -> Path:
        """The output of `ray up`."""
        return self.world.folder / "cluster.log"

    def up(self) -> float:
        """Run `ray up` on the client and wait for every worker; returns the seconds it took."""
        start = time.monotonic()
        self._write_config()
        self._on_client("ray", "up", "--yes", CONFIG, timeout_s=240)
        self.wait_for_nodes()
        return time.monotonic() - start

    def down(self) -> None:
        """Run `ray down` on the client: Ray ends on every host."""
        self._on_client("ray", "down", "--yes", CONFIG, timeout_s=120)

    def wait_for_nodes(self, timeout_s: float = 150) -> float:
        """Wait until the cluster is the head and all workers, no more; returns how long it took."""
        expected = sorted(host.name for host in (self.head, *self.workers))
        program = shlex.join(["venv/bin/python", "-c", ALIVE])
        answer = ""

        def whole() -> bool:
            nonlocal answer
            try:
                answer = self.ssh(self.head, program, check=False)
            except HostError as error:  # a head that starts may not answer
                answer = str(error)
            return f"ALIVE {expected}" in answer

        return wait(
            whole,
            timeout_s,
            lambda: f"the cluster's nodes are not {expected}, but:\n{answer}\nsee {self.log}",
        )

    def tunnel(self) -> str:
        """The head's dashboard as the client sees it: through SSH, as it is bound to loopback."""
        host, process = self._tunnel or (None, None)
        if host is not self.head or process is None or process.poll() is not None:
            words = ("ssh", "-N", "-L", "8265:127.0.0.1:8265", f"root@{self.head.address}")
            self._tunnel = self.head, self.client.start(*words, log=self.log)
            probe = ("bash", "-c", "true < /dev/tcp/127.0.0.1/8265 && echo OPEN")
            wait(
                lambda: "OPEN" in self.client.run(*probe, check=False),
                30,
                f"the SSH tunnel to {self.head.name} is not open; see {self.log}",
            )
        return "http://127.0.0.1:8265"

    def ssh(self, host: Host, command: str, *, check: bool = True, timeout_s: float = 60) -> str:
        """Run a command on a host by SSH from the client; returns what it printed."""
        return self.client.run(*_ssh(host, command), check=check, timeout_s=timeout_s)

    def start_ssh(self, host: Host, command: str, log: Path) -> subprocess.Popen[bytes]:
        """Start a command on a host by SSH from the client."""
        return self.client.start(*_ssh(host, command), log=log)

    def _on_client(self, *command: str, timeout_s: float) -> None:
        line = f"cd {HOME}/checkout && {shlex.join(command)}"
        printed = self.client.run("bash", "-c", line, timeout_s=timeout_s)
        with self.log.open("a") as log:
            log.write(printed)

    def _write_config(self) -> None:
        """Fill in user and addresses, as every user does."""
        text = (ROOT / CONFIG).read_text()
        (first, second) = FILLED_IN["workers"]
        rows = "\n    - ".join(worker.address for worker in (*self.workers, *self.off))
        for old, new in (
            (f"ssh_user: {FILLED_IN['user']}", "ssh_user: root"),
            (f"head_ip: {FILLED_IN['head']}", f"head_ip: {self.head.address}"),
            (f"{first}\n    - {second}", rows),
        ):
            if text.count(old) != 1:
                raise HostError(f"{CONFIG} must have {old!r} once")
            text = text.replace(old, new)
        (self.client.files / "tmp/home/checkout" / CONFIG).write_text(text)


def prepare(host: Host) -> None:
    """Give a host an installation of the package, as there is no internet here.

    `cluster.on-prem.yaml` installs nothing where it finds one with the same constraints.txt.
    """
    home = host.files / "tmp/home"
    (home / "venv").mkdir(parents=True)
    (home / ".bashrc").touch()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (home / "venv" / name).symlink_to(Path(sys.prefix, name))
    shutil.copy(ROOT / "constraints.txt", home / "venv")


def prepare_client(host: Host) -> None:
    """Give the client a checkout and an SSH key."""
    home = host.files / "tmp/home"
    ignore = shutil.ignore_patterns(".git", ".venv", "runs", ".*_cache", "__pycache__")
    shutil.copytree(ROOT, home / "checkout", ignore=ignore)
    (home / ".ssh").mkdir(mode=0o700)
    shutil.copy(host.world.folder / "key", home / ".ssh/id_ed25519")
    (home / ".ssh/config").write_text(
        "StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\n"
        "LogLevel ERROR\nServerAliveInterval 5\nServerAliveCountMax 6\n"
    )


def listens(host: Host, port: int = 22) -> bool:
    """Whether a port of a host answers."""
    try:
        socket.create_connection((host.address, port), 1).close()
    except OSError:
        return False
    return True


def _ssh(host: Host, command: str) -> list[str]:
    """An SSH command; of the environment it passes token mode only."""
    return ["ssh", f"root@{host.address}", f"RAY_AUTH_MODE=token {command}"]
