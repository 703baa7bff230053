"""Waiting for a shared folder that is away for a while: its server restarts, a link is cut."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

PATIENCE_S = 600.0
"""How long a storage that cannot be reached is tried again before the run stops."""

PAUSE_S = 1.0

AWAY = {
    errno.ENOENT, errno.ESTALE, errno.EIO, errno.ENODEV, errno.ENOTCONN, errno.ETIMEDOUT,
    errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ECONNREFUSED,
    errno.ECONNRESET, errno.ECONNABORTED, errno.EREMOTEIO,
}  # fmt: skip
"""Errors that may pass. That a disk is full or may not be written does not."""

T = TypeVar("T")


def patiently(action: Callable[[], T], folder: Path, warn: Callable[[str], None]) -> T:
    """Do something in a folder that exists; as long as it cannot be reached, wait and try again.

    warn: is told when the waiting begins and when it ends.

    Raises:
        OSError: it is an error that does not pass, or it has not passed in `PATIENCE_S`.
    """
    began = time.monotonic()
    told = False
    while True:
        try:
            # Where a share is not mounted, nothing must be made in its place.
            if not folder.is_dir():
                raise FileNotFoundError(errno.ENOENT, "the folder is gone", str(folder))
            result = action()
        except OSError as error:
            if error.errno not in AWAY or time.monotonic() - began > PATIENCE_S:
                raise
            if not told:
                told = True
                warn(
                    f"{folder} cannot be reached: {error.strerror}; waiting for it, at most "
                    f"{PATIENCE_S / 60:.0f} minutes"
                )
            time.sleep(PAUSE_S)
        else:
            if told:
                warn(f"{folder} is back after {time.monotonic() - began:.0f} s")
            return result
