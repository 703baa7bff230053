"""Hosts that are namespaces of this machine: own address, processes, files under /tmp, SSH daemon.

All of them live in a world of their own: network, mount and process namespaces that end, with all
that is in them, when the world's first process ends, however it ends. `enter` starts the world.
Inside, a bridge joins the hosts; their links can be cut and their processes killed at once.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.hosts.limits import HostError, interruptible
from tests.waiting import wait

NETWORK = "10.77.0"
HOME = Path("/tmp/home")
SHARED = Path("/tmp/shared")
"""A folder that all hosts see, as a file server would give it."""
PROGRAMS = ("unshare", "setpriv", "nsenter", "ip", "mount", "sshd", "ssh", "ssh-keygen", "rsync")

BOOT = """
set -e
mount --make-rprivate /
hostname {name}
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir -p /run/sshd
mount --bind {files}/passwd /etc/passwd
mount --bind {files}/hosts /etc/hosts
{binds}
mount --rbind {files}/tmp /tmp
ip link set lo up
ip link set eth0 up
ip address add {address}/24 dev eth0
ip route add default via {gateway}
exec /usr/sbin/sshd -D -e -f {files}/sshd_config
"""

SSHD = """
ListenAddress {address}
HostKey {world}/host_key
AuthorizedKeysFile {world}/key.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
MaxStartups 50
PidFile none
"""


@dataclass
class Host:
    """One host. `number` is the last part of its address."""

    name: str
    number: int
    world: World
    variables: dict[str, str] = field(default_factory=dict)
    _first: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"{NETWORK}.{self.number}"

    @property
    def link(self) -> str:
        return f"veth{self.number}"

    @property
    def files(self) -> Path:
        """The host's own files, as the world sees them."""
        return self.world.folder / self.name

    def boot(self) -> None:
        """Switch it on; it has the files that it had before."""
        (self.files / "tmp/home").mkdir(parents=True, exist_ok=True)
        (self.files / "passwd").write_text(_passwd())
        (self.files / "hosts").write_text(f"127.0.0.1 localhost\n{self.address} {self.name}\n")
        values = {"address": self.address, "world": self.world.folder}
        # sshd reads the first SetEnv line only.
        pairs = [f"{name}={value}" for name, value in self.variables.items()]
        settings = " ".join('"' + pair.replace('"', '\\"') + '"' for pair in pairs)
        (self.files / "sshd_config").write_text(f"{SSHD.format(**values)}SetEnv {settings}\n")
        _run("ip", "netns", "add", self.name)
        _run("ip", "link", "add", self.link, "type", "veth", "peer", "name", "eth0",
             "netns", self.name)  # fmt: skip
        _run("ip", "link", "set", self.link, "master", "bridge", "up")
        script = BOOT.format(
            name=self.name,
            files=self.files,
            address=self.address,
            gateway=self.world.gateway,
            binds="\n".join(
                f"mkdir -p {self.files}{path}; mount --bind {source} {self.files}{path}"
                for path, source in self._kept().items()
            ),
        )
        with (self.files / "sshd.log").open("ab") as log:
            self._first = subprocess.Popen(
                ["ip", "netns", "exec", self.name, "unshare", "--pid", "--mount", "--uts", "--ipc",
                 "--fork", "--kill-child", "--mount-proc", "bash", "-c", script],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def _kept(self) -> dict[Path, Path]:
        """What it needs of this machine's /tmp, which its own hides."""
        needed = {Path(sys.prefix), Path(sys.base_prefix), self.world.folder}
        kept = {path: path for path in needed if path.is_relative_to("/tmp")}
        return {SHARED: self.world.shared, **kept}

    def kill(self) -> None:
        """Switch it off: its link is dead and all its processes end at once, unasked."""
        if self._first is None:
            raise HostError(f"{self.name} is off")
        _run("ip", "link", "delete", self.link)
        end_world(self._first)
        self._first = None
        _run("ip", "netns", "delete", self.name)

    def cut(self) -> None:
        """Take its network cable out."""
        _run("ip", "link", "set", self.link, "down")

    def mend(self) -> None:
        """Put its network cable back in."""
        _run("ip", "link", "set", self.link, "up")

    def start(
        self, *command: str, log: Path | None = None, **variables: str
    ) -> subprocess.Popen[bytes]:
        """Start a command on it, in a session of its own."""
        with (log or Path(os.devnull)).open("ab") as out:
            return subprocess.Popen(
                [*self._enter(variables), *command],
                stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip

    def run(self, *command: str, timeout_s: float = 120, check: bool = True) -> str:
        """Run a command on it; returns what it printed.

        Raises:
            HostError: it failed or took too long.
        """
        what = f"{shlex.join(command)} on {self.name}"
        return _run(*self._enter({}), *command, what=what, timeout_s=timeout_s, check=check)

    def _enter(self, variables: dict[str, str]) -> list[str]:
        # `ip netns exec` became `unshare`, whose only child is the host's first process.
        children = _children(self._first.pid) if self._first else []
        if not children:
            raise HostError(f"{self.name} is off; see {self.files / 'sshd.log'}")
        given = {
            "HOME": str(HOME), "PATH": f"{HOME}/venv/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": f"{HOME}/crnn-search", "RAY_AUTH_MODE": "token", "COLUMNS": "200",
            "LANG": "C.UTF-8", **self.variables, **variables,
        }  # fmt: skip
        return [
            "nsenter", "--target", str(children[0]), "--net", "--pid", "--mount", "--uts", "--ipc",
            "env", "--ignore-environment", "--chdir", str(HOME),
            *[f"{name}={value}" for name, value in given.items()],
        ]  # fmt: skip


@dataclass
class World:
    """The bridge, and the files that hosts share. Exists once, inside `enter`."""

    folder: Path
    gateway: str = f"{NETWORK}.254"

    @property
    def shared(self) -> Path:
        """What the hosts see as `SHARED`."""
        return self.folder / "shared"

    def build(self) -> None:
        """Make the bridge and the keys."""
        self.shared.mkdir()
        (self.folder / "mnist").rename(self.shared / "mnist")
        _run("mount", "-t", "tmpfs", "tmpfs", "/run")
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "link", "add", "bridge", "type", "bridge")
        _run("ip", "address", "add", f"{self.gateway}/24", "dev", "bridge")
        _run("ip", "link", "set", "bridge", "up")
        for name in ("key", "host_key"):
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name))


def enter(arguments: Sequence[str], folder: Path, timeout_s: float) -> int:
    """Run this package again as the first process of a new world; its exit code.

    Raises:
        HostError: it had not ended after `timeout_s`.
        KeyboardInterrupt: a signal came. As after every end, nothing of the world is left.
    """
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL",
         "unshare", "--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child",
         "--mount-proc", "--propagation", "private",
         sys.executable, "-m", "tests.hosts", "--inside", str(folder), *arguments],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,  # a terminal's signals reach this process only
    )  # fmt: skip
    try:
        with interruptible():
            return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        raise HostError(f"the test has not ended after {timeout_s:.0f} s") from None
    finally:
        end_world(process)


def end_world(process: subprocess.Popen[bytes]) -> None:
    """Kill the first process of the namespaces that an `unshare` has made, and wait for it.

    Linux kills all others with it, and does not end it before they have.
    """

    def ended() -> bool:
        for pid in [] if process.poll() is not None else _children(process.pid) or [process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return process.poll() is not None

    wait(ended, 60, f"process {process.pid} does not end, although it was killed")


def _children(pid: int) -> list[int]:
    """The children of a process's first thread; none if it has ended."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _passwd() -> str:
    lines = Path("/etc/passwd").read_text().splitlines()
    return "\n".join(
        f"root:x:0:0:root:{HOME}:/bin/bash" if line.startswith("root:") else line for line in lines
    )


def _run(*command: str, what: str = "", timeout_s: float = 60, check: bool = True) -> str:
    """Run a command; returns what it printed.

    what: the command as a message names it.

    Raises:
        HostError: it failed or took too long.
    """
    what = what or shlex.join(command)
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            text=True, timeout=timeout_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        printed = error.stdout.decode(errors="replace") if error.stdout else ""
        raise HostError(f"{what} has not ended after {timeout_s:.0f} s:\n{printed}") from error
    if check and done.returncode:
        raise HostError(f"{what} failed:\n{done.stdout}")
    return done.stdout
