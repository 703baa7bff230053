from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from crnn_search.models.server.app import InProcess, build_app
from crnn_search.models.server.limits import Limits
from tests.models.server.fakes import FakeModel

ClientOf = Callable[..., TestClient]

HERE = "http://127.0.0.1:8000"


def client_of(
    model: Any = None, *, token: str | None = None, limits: Limits | None = None, **options: Any
) -> TestClient:
    """A client of a server without a network."""
    model, limits = model or FakeModel(), limits or Limits()
    app = build_app(model, InProcess(model, limits, 2), token=token, limits=limits)
    return TestClient(app, **{"base_url": HERE} | options)


@pytest.fixture(scope="module")
def client() -> TestClient:
    return client_of()
