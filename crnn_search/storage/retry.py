"""Retries while a shared folder cannot be reached: its server restarts, the network is down."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

RETRY_FOR_S = 600.0
"""How long an action on a storage that cannot be reached is retried before the run stops."""

READ_RETRY_FOR_S = 10.0
"""The same for commands that only read runs: somebody waits for their output."""

PAUSE_S = 1.0

TRANSIENT = {
    errno.ENOENT, errno.ESTALE, errno.EIO, errno.ENODEV, errno.ENOTCONN, errno.ETIMEDOUT,
    errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ECONNREFUSED,
    errno.ECONNRESET, errno.ECONNABORTED, errno.EREMOTEIO,
}  # fmt: skip
"""Errors that may pass. A full or read-only disk is not among them."""

OnRetry = Callable[[str], None]
"""Called with a message when a storage cannot be reached, and when it can be reached again."""

T = TypeVar("T")


def with_retries(action: Callable[[], T], folder: Path, on_retry: OnRetry) -> T:
    """Return what `action` returns; retry it while `folder`, which must exist, cannot be reached.

    Raises:
        OSError: the error is not transient, or it lasted longer than `RETRY_FOR_S`.
    """
    start = time.monotonic()
    retried = False
    while True:
        try:
            # Where a share is not mounted, nothing may be created in its place.
            if not folder.is_dir():
                raise FileNotFoundError(errno.ENOENT, "the folder does not exist", str(folder))
            result = action()
        except OSError as error:
            if error.errno not in TRANSIENT or time.monotonic() - start > RETRY_FOR_S:
                raise
            if not retried:
                retried = True
                on_retry(
                    f"{folder} cannot be reached: {error.strerror}; retrying for at most "
                    f"{RETRY_FOR_S / 60:.0f} minutes"
                )
            time.sleep(PAUSE_S)
        else:
            if retried:
                on_retry(f"{folder} is reachable again after {time.monotonic() - start:.0f} s")
            return result
