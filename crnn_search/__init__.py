"""crnn-search: a distributed hyperparameter search service for a CNN-GRU on image sequences.

From Python, see `docs/python.md`:

    space = crnn_search.load_space("space.yaml", ["search.trials=16"])
    run = crnn_search.launch(space, name="demo")
    run.trials(), run.report(), run.model()

`open_run` reads a run, `resume` and `extend` continue one, `load_model` reads an exported model.
They raise a `CrnnSearchError`. `import crnn_search` imports neither Ray nor PyTorch: a name is
imported when it is first used. Only the names in `__all__` are stable; `docs/architecture.md` has
the modules.
"""

from __future__ import annotations

import sys

if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:  # python -m crnn_search
    del sys.path[0]  # the current folder, from which nothing else is imported

import importlib
from typing import TYPE_CHECKING, Any

from crnn_search import errors

if TYPE_CHECKING:
    from crnn_search.api import (
        Forecast,
        Model,
        Run,
        Session,
        evaluate,
        extend,
        forecast,
        launch,
        load_model,
        load_space,
        open_run,
        resume,
    )
    from crnn_search.data.arrays import SequenceData
    from crnn_search.errors import (
        ConfigError,
        CrnnSearchError,
        DataError,
        ImageError,
        InputError,
        InterruptedRun,
        LeaseLostError,
        ModelFileError,
        RunError,
        RunFolderError,
        SpaceError,
        StorageError,
    )

__version__ = "0.2.0"

__all__ = [
    "ConfigError",
    "CrnnSearchError",
    "DataError",
    "Forecast",
    "ImageError",
    "InputError",
    "InterruptedRun",
    "LeaseLostError",
    "Model",
    "ModelFileError",
    "Run",
    "RunError",
    "RunFolderError",
    "SequenceData",
    "Session",
    "SpaceError",
    "StorageError",
    "__version__",
    "evaluate",
    "extend",
    "forecast",
    "launch",
    "load_model",
    "load_space",
    "open_run",
    "resume",
]


_MODULES = {"SequenceData": "data.arrays"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "errors" if hasattr(errors, name) else _MODULES.get(name, "api")
    value = getattr(importlib.import_module(f"crnn_search.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
