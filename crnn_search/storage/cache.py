"""The cache folder: MNIST, and kernels compiled for this machine."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "CRNN_SEARCH_CACHE"
"""Environment variable that names another folder."""


def cache_folder() -> Path:
    """The cache folder; it may not exist yet."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    import platformdirs  # here: a machine with a folder of its own may have PyTorch only

    return Path(platformdirs.user_cache_dir("crnn-search"))
