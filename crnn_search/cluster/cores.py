"""The cores that this process may use: with taskset or in a container not all of the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """How many cores this process may use, at least 1: by its affinity and its control groups."""
    if hasattr(os, "sched_getaffinity"):
        cores = float(len(os.sched_getaffinity(0)))
    else:
        cores = float(os.cpu_count() or 1)
    return max(1, int(min([cores, *_limits()])))


def _limits() -> Iterator[float]:
    """The limits of this process's control groups and of those around them, in cores."""
    try:
        lines = OWN_CGROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounts = [CGROUPS / controllers, CGROUPS / "cpu"] if controllers else [CGROUPS]
        own = PurePosixPath(name)
        for mount in mounts:
            for group in (own, *own.parents):
                folder = mount / str(group).lstrip("/")
                yield from _limit(folder, in_one_file=not controllers)


def _limit(folder: Path, *, in_one_file: bool) -> Iterator[float]:
    """The limit that a control group's files state, if they do. in_one_file: version 2."""
    try:
        if in_one_file:
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="utf-8")
            period = (folder / "cpu.cfs_period_us").read_text(encoding="utf-8")
        limit = int(quota) / int(period)
    except (OSError, ValueError):  # no such group, or `max`
        return
    if limit > 0:  # version 1 has -1 for none
        yield limit
