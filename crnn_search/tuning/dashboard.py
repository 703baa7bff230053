"""Optuna's dashboard on the copy of a study. Needs optuna-dashboard (the extra `dashboard`)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna.exceptions import OptunaError
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from crnn_search.errors import InputError
from crnn_search.tuning.study_storage import StudyStorage, of_file
from crnn_search.tuning.study_writer import StudyOf, find_name


@dataclass(frozen=True)
class OpenStudy:
    """A study to show: the database that it is in, and its page."""

    storage: RDBStorage
    page: str


def open_file(path: Path) -> OpenStudy:
    """The study in a run's `study.db`, which is replaced while the search runs.

    Each request opens the file anew, for reading only.

    Raises:
        InputError: it is no database of Optuna's.
    """
    found = of_file(path)
    return _open(StudyStorage(f"{found.url}&mode=ro", {"poolclass": NullPool}), None)


def open_server(storage: StudyStorage, of: StudyOf) -> OpenStudy:
    """The study of a run in the database of a server.

    Raises:
        InputError: the server cannot be reached, or has no such study.
    """
    return _open(storage, of)


def serve(study: OpenStudy, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve the dashboard until a KeyboardInterrupt. ready: called with the study's URL."""
    from optuna_dashboard import wsgi

    with make_server(host, port, wsgi(study.storage), _Server, _QuietHandler) as server:
        ready(f"http://{host}:{port}/{study.page}")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


def _open(storage: StudyStorage, of: StudyOf | None) -> OpenStudy:
    try:
        opened = RDBStorage(
            storage.url,
            engine_kwargs=storage.engine_kwargs,
            skip_compatibility_check=True,
            skip_table_creation=True,
        )
        studies = {study.study_name: study for study in opened.get_all_studies()}
        name = find_name(opened, of) if of else next(iter(studies), None)
    except (SQLAlchemyError, OptunaError) as error:
        reason = storage.problem(error)
        raise InputError(f"cannot read the study in {storage}: {reason}") from None
    if name not in studies:
        raise InputError(f"there is no study of this run in {storage}")
    return OpenStudy(opened, f"dashboard/studies/{opened.get_study_id_from_name(name)}")


class _Server(ThreadingMixIn, WSGIServer):
    """A browser asks for much at a time."""

    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    """Prints no line for each request."""

    def log_message(self, format: str, *args: object) -> None:
        pass
