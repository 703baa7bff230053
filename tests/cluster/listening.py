"""Where this process and its descendants listen: Linux only."""

from __future__ import annotations

import contextlib
import ipaddress
from pathlib import Path

LISTENS = "0A"
"""The state of a socket in `/proc/net/tcp`."""


def addresses() -> list[str]:
    """The local address of each listening TCP socket."""
    own = {inode for pid in _descendants() for inode in _sockets(pid)}
    return sorted(address for address, inode in _listening() if inode in own)


def _descendants() -> list[Path]:
    """This process and those below it, as folders of `/proc`."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[folder.name] = (folder / "stat").read_text().rpartition(")")[2].split()[1]
    found = [Path("/proc/self").resolve().name]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return [Path("/proc") / pid for pid in found]


def _sockets(process: Path) -> list[str]:
    """The inodes of a process's sockets."""
    found = []
    with contextlib.suppress(OSError):
        for path in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                found.append(str(path.readlink()))
    return [name[len("socket:[") : -1] for name in found if name.startswith("socket:[")]


def _listening() -> list[tuple[str, str]]:
    """The local address and the inode of each socket that listens."""
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/self/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENS:
                found.append((_address(fields[1].split(":")[0]), fields[9]))
    return found


def _address(hexadecimal: str) -> str:
    """An address from its 32-bit words, each in the byte order of this machine."""
    words = bytes.fromhex(hexadecimal)
    swapped = b"".join(words[start : start + 4][::-1] for start in range(0, len(words), 4))
    address = ipaddress.ip_address(swapped)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
