"""An exclusive lock on an open file, and a query that does not take it (`docs/decisions/0015`).

Linux's open-file-description locks: they belong to the open file, not to the process, so that
closing another handle of the same file does not release them, and NFS has them, too.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

_FLOCK = "hhqqi"
"""C's `struct flock`: type, whence, start, length (0: the whole file), process (0 here)."""


NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
"""Errors of a file system without locks."""


def lock(handle: int) -> bool:
    """Lock a file that is open for writing, until it is closed; False if another handle has it.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        fcntl.fcntl(handle, fcntl.F_OFD_SETLK, _exclusive())
    except BlockingIOError:
        return False
    return True


def is_locked(handle: int) -> bool:
    """Whether another handle has locked this file. Never disturbs whoever takes the lock now.

    False where the file system has no locks: there no handle can have one.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        answer = fcntl.fcntl(handle, fcntl.F_OFD_GETLK, _exclusive())
    except OSError as error:
        if error.errno in NO_LOCKS:
            return False
        raise
    kind: int = struct.unpack(_FLOCK, answer)[0]
    return kind != fcntl.F_UNLCK


def _exclusive() -> bytes:
    return struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
