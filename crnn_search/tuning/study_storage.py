"""Where the copy of a study for Optuna's dashboard is: a file of the run, or a database server."""

from __future__ import annotations

import importlib.util
import os
import re
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from crnn_search.errors import InputError
from crnn_search.storage.run_folder import STUDY_VARIABLE
from crnn_search.text import first_line, shown

_DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql"}

_CONNECT_S, _SILENCE_S = 10, 30
"""How long a server may take to let us in, and be silent."""

_ARGUMENTS = {
    "postgresql": {
        "connect_timeout": _CONNECT_S,
        "keepalives_idle": _SILENCE_S // 3,
        "keepalives_interval": _SILENCE_S // 6,
        "keepalives_count": 4,
        "tcp_user_timeout": _SILENCE_S * 1000,
    },
    "mysql": {
        "connect_timeout": _CONNECT_S,
        "read_timeout": _SILENCE_S,
        "write_timeout": _SILENCE_S,
    },
}


_PASSWORDS = ("password", "passwd")
"""Arguments of drivers that are passwords."""


@dataclass(frozen=True)
class StudyStorage:
    """A database for Optuna. url: as SQLAlchemy takes it; it may hold a password."""

    url: str = field(repr=False)
    engine_kwargs: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """The URL without its password."""
        return str(make_url(self.url).set(query={}))

    def problem(self, error: BaseException) -> str:
        """The first cause of an error, in a line that does not have the password."""
        while error.__cause__ is not None:
            error = error.__cause__
        url, text = make_url(self.url), first_line(error)
        passwords = [url.password, *(url.query.get(name) for name in _PASSWORDS)]
        for password in filter(None, passwords):
            text = text.replace(str(password), "***")
        return text


def of_file(path: Path) -> StudyStorage:
    """The SQLite database in a file, whatever its name."""
    return StudyStorage(f"sqlite:///file:{urllib.parse.quote(str(path.absolute()))}?uri=true")


def of_server(text: str, *, may_have_password: bool = True) -> StudyStorage:
    """The PostgreSQL or MySQL database at a URL.

    may_have_password: False for an argument of a command, which every user of the machine can read.

    Raises:
        InputError: it is no such URL, its driver is not installed, or it has a password that it may
            not have.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # the latter for a port that is no number
        raise _not_valid(text) from None
    kind = url.get_backend_name()
    driver = _DRIVERS.get(kind)
    if driver is None or url.drivername not in {kind, f"{kind}+{driver}"} or not url.database:
        raise _not_valid(text)
    if not may_have_password and (url.password or url.query.keys() & set(_PASSWORDS)):
        raise InputError(
            "--study-storage must be a URL without a password, which every user of this machine "
            f"could read in the list of processes; put the whole URL into the environment variable "
            f"{STUDY_VARIABLE} instead"
        )
    if importlib.util.find_spec(driver) is None:
        raise InputError(
            f"a {kind} database needs {driver}, which is not installed: pip install "
            f"'crnn-search[{kind}]'"
        )
    full = url.set(drivername=f"{kind}+{driver}").render_as_string(hide_password=False)
    return StudyStorage(full, {"pool_pre_ping": True, "connect_args": _ARGUMENTS[kind]})


def given(text: str | None, *, may_have_password: bool = True) -> StudyStorage | None:
    """The server that an option names or, without it, the environment variable; None for neither.

    The variable is removed: no process that this one starts gets it. Raises as `of_server` does.
    """
    in_environment = os.environ.pop(STUDY_VARIABLE, None)
    if text is not None:
        return of_server(text, may_have_password=may_have_password)
    return of_server(in_environment) if in_environment else None


def _not_valid(text: str) -> InputError:
    got = shown(re.sub(r"\?.*", "?***", re.sub(r".*@", "***@", text)))  # not its password
    return InputError(
        "the study's storage must be a database as postgresql://USER@HOST/DATABASE or "
        f"mysql://USER@HOST/DATABASE, got {got}"
    )
