from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from crnn_search.models.model import Model
from crnn_search.models.server.app import InProcess, build_app
from crnn_search.models.server.limits import Limits
from tests.models.server.fakes import brightness

HERE = "http://127.0.0.1:8000"


def client_of(
    model: Model | None = None,
    *,
    token: str | None = None,
    limits: Limits | None = None,
    **options: Any,
) -> TestClient:
    """A client of a server without a network."""
    model, limits = model or brightness(), limits or Limits()
    app = build_app(model, InProcess(model, limits, 2), token=token, limits=limits)
    return TestClient(app, **{"base_url": HERE} | options)


@pytest.fixture(scope="module")
def client() -> TestClient:
    return client_of()
