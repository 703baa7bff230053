"""Connect to a Ray cluster, or start a local one."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import ray

from crnn_search.errors import InputError
from crnn_search.storage.lease import interrupt_on_sigterm

SETTINGS = {
    # glibc in trials keeps large blocks that are freed: a training step allocates them again.
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a box whatever the verbosity
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": str(10**9),  # the run's own journal replaces them
    "TUNE_MAX_PENDING_TRIALS_PG": str(10**6),  # the searchers say how many may wait for resources
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
"""Environment variables for Ray and for the processes that a local Ray starts, where the user has
not set them."""

LOCAL_OBJECT_STORE_BYTES = 256 * 2**20
CONNECT_TIMEOUT_S = 5.0


@contextlib.contextmanager
def connect(address: str | None, *, verbose: bool = False) -> Iterator[None]:
    """Connect to the cluster at `address`, or start a local one; disconnect at the end.

    Raises:
        InputError: nothing answers at the address.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if address:
        _check_reachable(address)
    local = {} if address else {"object_store_memory": LOCAL_OBJECT_STORE_BYTES}
    try:
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            configure_logging=False,
            log_to_driver=verbose,
            **local,
        )
    except (OSError, RuntimeError, ValueError, ray.exceptions.AuthenticationError) as error:
        what = f"connect to a Ray cluster at {address!r}" if address else "start Ray"
        raise InputError(f"cannot {what}: {error}") from error
    interrupt_on_sigterm()  # after Ray, which sets a handler of its own
    try:
        yield
    except KeyboardInterrupt:
        raise  # at once: a local Ray's processes end with this one
    except BaseException:
        ray.shutdown()
        raise
    ray.shutdown()


def _check_reachable(address: str) -> None:
    """Refuse an address where nothing answers, at once; Ray itself tries for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdigit()):
        return  # `auto` and the like are for Ray to resolve
    try:
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise InputError(
            f"nothing answers at {address}: {error}; name a running cluster (auto or HOST:6379), "
            "or leave --address out to start a local one"
        ) from error
