"""Environment variables for Ray: it reads some of them when it is imported."""

from __future__ import annotations

import os
import sys

READ_AT_IMPORT = {
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else a local Ray listens on all interfaces
}
"""Of no use, or worse, once Ray is imported. A local Ray asks for a token without them, too."""

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


def apply() -> None:
    """Set them, if possible before Ray is imported."""
    early = {} if "ray" in sys.modules else READ_AT_IMPORT
    for name, value in (early | SETTINGS).items():
        os.environ.setdefault(name, value)
