"""Where things are kept between runs: MNIST, and kernels compiled for this machine."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "CRNN_SEARCH_CACHE"
"""Environment variable that puts the cache into another folder."""


def cache_folder() -> Path:
    """The cache's folder, which may not exist yet."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    import platformdirs  # here, as a machine that is given the files may have PyTorch alone

    return Path(platformdirs.user_cache_dir("crnn-search"))
