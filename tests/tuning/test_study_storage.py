from __future__ import annotations

import importlib.util

import pytest

from crnn_search.errors import InputError
from crnn_search.storage.run_folder import STUDY_VARIABLE
from crnn_search.tuning.study_storage import given, of_server

SECRET = "postgresql://me:s3cret@db.example/studies"


@pytest.mark.parametrize(
    "text",
    [
        "", "studies", "sqlite:///study.db", "postgresql+asyncpg://me@host/db", "postgresql://host",
        "mysql+mysqldb://me@host/db", "oracle://me:s3cret@host/db", "postgresql:/me:s3cret@host",
        "https://me:s3cret@host/db?password=s3cret", "postgresql://me@host:abc/db",
        "postgresql://me:s3@cret:s3cret@host/db",
    ],
)  # fmt: skip
def test_what_is_no_database_server_is_refused_without_its_password(text: str) -> None:
    with pytest.raises(InputError, match="must be a database as postgresql://USER@HOST") as refused:
        of_server(text)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    "text", [SECRET, "mysql://me@host/db?password=s3cret", "mysql://me@host/db?passwd=s3cret"]
)
def test_an_argument_may_not_have_a_password(text: str) -> None:
    with pytest.raises(InputError, match=f"environment variable {STUDY_VARIABLE} ") as refused:
        given(text, may_have_password=False)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("postgresql://me@host/db", "postgresql+psycopg://me@host/db"),
        ("mysql+pymysql://me@host:3307/db", "mysql+pymysql://me@host:3307/db"),
        ("postgresql:///db?host=/run", "postgresql+psycopg:///db?host=%2Frun"),
    ],
)
def test_a_database_server_has_the_driver_of_this_package(text: str, full: str) -> None:
    found = given(text, may_have_password=False)
    assert found
    assert found.url == full
    assert found.engine_kwargs["connect_args"]["connect_timeout"] == 10


def test_the_variable_is_read_and_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STUDY_VARIABLE, SECRET)
    found = given(None)
    assert found
    assert "s3cret" in found.url
    assert "s3cret" not in str(found) + repr(found)
    error = OSError("outer")
    error.__cause__ = OSError("no s3cret here\nsecond line")
    assert found.problem(error) == "no *** here"
    alias = of_server("mysql://me@host/db?passwd=s3cret")
    assert alias.problem(OSError("no s3cret")) == "no ***"
    assert given(None) is None
    monkeypatch.setenv(STUDY_VARIABLE, SECRET)
    given("mysql://me@host/db")
    assert given(None) is None


def test_a_driver_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs psycopg.*pip install 'crnn-search\[postgresql\]'"):
        of_server("postgresql://me@host/db")
