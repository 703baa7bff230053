"""The time that a block may take."""

from __future__ import annotations

import subprocess
import sys

from tests.small_run import REPOSITORY

FAULT = """
import subprocess
from tests.hosts.limits import at_most
from tests.waiting import WaitError, wait

with at_most(60):
    pass
for sleep in ["subprocess.run(['sleep', '60'])", "wait(lambda: False, 60, 'it is never true')"]:
    try:
        with at_most(0.2):
            exec(sleep)
    except WaitError as error:
        print(error)
"""


def test_a_block_ends_in_time_whatever_it_waits_for() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAULT],
        capture_output=True, text=True, timeout=30, cwd=REPOSITORY,
    )  # fmt: skip
    process, condition = done.stdout.splitlines()
    assert process.startswith("not done after 0 s, in ")
    assert condition.startswith("not done after 0 s, in wait (waiting.py:")
