"""The cores that a process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crnn_search.cluster import cores

CASES = {
    "no groups": (None, {}, 8),
    "no limit": ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "max 100000"}, 8),
    "its own": ("0::/a/b\n", {"a/b/cpu.max": "300000 100000"}, 3),
    "around it": ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "250000 100000"}, 2),
    "in a container": ("0::/\n", {"cpu.max": "200000 100000"}, 2),
    "below one": ("0::/\n", {"cpu.max": "50000 100000"}, 1),
    "more than there are": ("0::/\n", {"cpu.max": "6400000 100000"}, 8),
    "damaged": ("0::/\n", {"cpu.max": "what"}, 8),
    "version 1": (
        "5:memory:/a\n4:cpu,cpuacct:/a\n",
        {"cpu,cpuacct/a/cpu.cfs_quota_us": "400000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
        4,
    ),
    "version 1 in a container": (
        "4:cpu,cpuacct:/docker/x\n",
        {"cpu,cpuacct/cpu.cfs_quota_us": "100000", "cpu,cpuacct/cpu.cfs_period_us": "50000"},
        2,
    ),
    "version 1 without a limit": (
        "4:cpu:/a\n",
        {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"},
        8,
    ),
}


@pytest.mark.parametrize(("groups", "files", "expected"), CASES.values(), ids=CASES)
def test_control_groups_limit_the_cores(
    groups: str | None,
    files: dict[str, str],
    expected: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, content in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    if groups is not None:
        (tmp_path / "own").write_text(groups)
    monkeypatch.setattr(cores, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert cores.usable_cores() == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_affinity_limits_the_cores() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cores.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
