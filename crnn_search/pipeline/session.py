"""Where a run works, and who hears of it: the keywords of `launch`, `resume` and `extend`.

Heavy libraries are imported when the work starts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypedDict

from crnn_search.cluster import settings

if TYPE_CHECKING:
    from crnn_search.data.arrays import SequenceData
    from crnn_search.pipeline.hooks import Hook
    from crnn_search.pipeline.run import Options
    from crnn_search.storage.run_folder import RunFolder
    from crnn_search.tuning.progress import Progress


class Session(TypedDict, total=False):
    """Keywords of `launch`, `resume` and `extend`: where the work runs, and who hears of it.

    address: a Ray cluster, `auto` or HOST:6379; by default a local Ray starts.
    data_dir: a folder with MNIST's four files, by default a download; or the place of the space's
    own data, by default `task.data`.
    data: image sequences in memory, in place of what the space's `task.data` names.
    on_trial_end: called with each trial that ended: its line of the ledger and its `stage`.
    on_end: called once, with `run`, `name`, `state`, `error`, `test_rmse` and `report`.
    study_storage: a PostgreSQL or MySQL database for the copy of the study in place of the run's
    `study.db`: postgresql://USER@HOST/DATABASE; by default the environment variable
    CRNN_SEARCH_STUDY_STORAGE.
    verbose: let Ray print its workers' log.
    command: what the report of a new run names to launch it again; by default `crnn-search launch`
    with the run's own copy of the space.
    display: shows the run while it works: a function from its folder to a context manager of a
    `Progress`. By default stages, trials and notes are lines of the logger `crnn_search`.
    """

    address: str | None
    data_dir: str | Path | None
    data: SequenceData | None
    on_trial_end: Hook | None
    on_end: Hook | None
    study_storage: str | None
    verbose: bool
    command: str
    display: Callable[[RunFolder], AbstractContextManager[Progress]]


def check(session: Session) -> None:
    """Check the keywords of a session, and read the environment.

    Raises:
        InputError: the study's storage is not valid.
    """
    if unknown := session.keys() - Session.__annotations__.keys():
        raise TypeError(f"unexpected keyword argument {min(unknown)!r}")
    from crnn_search.tuning.study_storage import given

    storage = given(session.get("study_storage"))
    session["study_storage"] = storage.url if storage else None


@contextlib.contextmanager
def opened(folder: RunFolder, session: Session) -> Iterator[tuple[ModuleType, Progress, Options]]:
    """The pipeline, a display that runs, and the options for it."""
    settings.apply()
    with session.get("display", _log)(folder) as progress:
        from crnn_search.pipeline import run as pipeline
        from crnn_search.pipeline.hooks import Hooks
        from crnn_search.tuning.study_storage import given

        data_dir = session.get("data_dir")
        options = pipeline.Options(
            address=session.get("address"),
            data_dir=None if data_dir is None else Path(data_dir),
            data=session.get("data"),
            verbose=session.get("verbose", False),
            command=session.get("command", ""),
            hooks=Hooks(session.get("on_trial_end"), session.get("on_end")),
            study_storage=given(session.get("study_storage")),
        )
        yield pipeline, progress, options


@contextlib.contextmanager
def _log(_: RunFolder) -> Iterator[Progress]:
    from crnn_search.pipeline.log_progress import LogProgress

    yield LogProgress()
