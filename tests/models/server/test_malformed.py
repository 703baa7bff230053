"""Malformed requests by schemathesis, some hundred of them: see `malformed` for more."""

from __future__ import annotations

import pytest
import schemathesis

from crnn_search.models.server.app import InProcess, build_app
from crnn_search.models.server.limits import Limits
from tests.models.server.fakes import brightness
from tests.models.server.malformed import ask, memory_mb
from tests.models.server.running import running


@pytest.mark.slow
@pytest.mark.long(30)
def test_malformed_requests_are_refused() -> None:
    model = brightness()
    with running(build_app(model, InProcess(model, Limits(), 1))) as url:
        schema = schemathesis.openapi.from_url(f"{url}openapi.json")
        statuses, faults = ask(schema, 400)
        assert memory_mb(url.rstrip("/"), None)[0] > 10
    assert not faults
    assert {status for _, status in statuses} <= {200, 400, 413, 415, 422}
    assert {path for path, _ in statuses} == {"/predict", "/predict/files"}
    assert sum(count for (_, status), count in statuses.items() if status >= 400) > 200
