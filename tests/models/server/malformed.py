"""Malformed requests by schemathesis, from a server's OpenAPI page.

`python -m tests.models.server.malformed http://127.0.0.1:8000 --requests 10000` asks a running
server, prints how often it answered with which status, and its memory on the way: that of the
command's process by `/metrics` and, with `--pid`, that of the process and all below it (Linux).
It ends with 1 if an answer was a 5xx or did not say in JSON what is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode

STEPS = 10
"""Parts after which memory is looked at."""


def ask(
    schema: Any, requests: int, after_part: Callable[[int], None] = lambda done: None
) -> tuple[Counter[tuple[str, int]], list[str]]:
    """Ask each request that has a body so often; returns statuses, and what answers lacked.

    schema: as `schemathesis.openapi` gives it. after_part: called with the number of requests that
    were sent.
    """
    statuses, faults = Counter[tuple[str, int]](), list[str]()
    operations = [found.ok() for found in schema.get_all_operations()]
    with_body = [operation for operation in operations if operation.method == "post"]
    each = max(1, requests // STEPS // len(with_body))
    for part in range(STEPS):
        for operation in with_body:
            # One of five requests is as the page says, up to its images.
            mode = GenerationMode.POSITIVE if part % 5 == 0 else GenerationMode.NEGATIVE

            @settings(
                max_examples=each,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def one(case: Case[Any]) -> None:
                answer = case.call()
                statuses[case.path, answer.status_code] += 1
                if answer.status_code != 200 and "error" not in _json(answer.content):
                    faults.append(f"{case.method} {case.path}: {answer.content[:200]!r}")

            one()
        after_part(sum(statuses.values()))
    return statuses, faults


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return {}


def memory_mb(url: str, pid: int | None) -> list[float]:
    """Resident memory of the server's process and, if its id is given, with all below it."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        text = answer.read().decode()
    (own,) = re.findall(r"^process_resident_memory_bytes (\S+)$", text, flags=re.MULTILINE)
    found = [float(own) / 2**20]
    if pid is not None:
        found.append(sum(_resident_mb(one) for one in below(pid)))
    return found


def below(pid: int) -> Iterator[int]:
    """A process and its descendants."""
    yield pid
    children: list[str] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # it has ended
            children += path.read_text().split()
    for child in children:
        yield from below(int(child))


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask, and print what was answered; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--pid", type=int, help="of the server")
    given_words = parser.parse_args(arguments)
    url = given_words.url.rstrip("/")

    def show(done: int) -> None:
        sizes = ", ".join(f"{size:.0f} MB" for size in memory_mb(url, given_words.pid))
        print(f"{done:6} requests: {sizes}", flush=True)

    show(0)
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    statuses, faults = ask(schema, given_words.requests, show)
    for (path, status), count in sorted(statuses.items()):
        print(f"{path} {status}: {count}")
    print(*faults[:20], sep="\n")
    return int(bool(faults) or any(status >= 500 for _, status in statuses))


if __name__ == "__main__":
    sys.exit(main())
