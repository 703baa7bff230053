from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, ray, torch
from crnn_search.cluster import connection

def faults():
    for _ in range(20):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with connection.connect(None):
    print(faults(), ray.get(ray.remote(faults).remote()))
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_processes_of_a_local_ray_keep_freed_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, check=True, timeout=240
    )
    here, there = map(int, done.stdout.split()[-2:])
    assert there < here / 10
