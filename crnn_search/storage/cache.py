"""The cache folder: MNIST, and kernels compiled for this machine."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path

from crnn_search.storage.location import local_path

CACHE_VARIABLE = "CRNN_SEARCH_CACHE"
"""Environment variable that names another folder."""


def cache_folder() -> Path:
    """The cache folder; it may not exist yet. Without a home folder it is a temporary one.

    Raises:
        OSError: there is no home folder, and the temporary one is another user's.
    """
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return local_path(named).absolute()
    import platformdirs  # here: a machine with a folder of its own may have PyTorch only

    folder = Path(platformdirs.user_cache_dir("crnn-search"))
    return folder if folder.is_absolute() else _temporary()


def _temporary() -> Path:
    """A folder that is this user's own: what is in it is trusted."""
    folder = Path(tempfile.gettempdir()) / f"crnn-search-{os.geteuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if folder.lstat().st_uid != os.geteuid():
        raise PermissionError(errno.EACCES, "it belongs to another user", str(folder))
    return folder
