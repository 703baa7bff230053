"""The cache folder: MNIST, and kernels compiled for this machine."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from crnn_search.storage.location import local_path

CACHE_VARIABLE = "CRNN_SEARCH_CACHE"
"""Environment variable that names another folder."""


def cache_folder() -> Path:
    """The cache folder; it may not exist yet.

    Raises:
        InputError: the variable names no folder.
        FileNotFoundError: there is neither a variable nor a home folder.
    """
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return local_path(named).absolute()
    import platformdirs  # here: a machine with a folder of its own may have PyTorch only

    folder = Path(platformdirs.user_cache_dir("crnn-search"))
    if not folder.is_absolute():  # as ~/.cache where the user has no home folder
        raise FileNotFoundError(errno.ENOENT, f"no home folder; set {CACHE_VARIABLE} to a folder")
    return folder
