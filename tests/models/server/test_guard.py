"""Who may ask: tokens, names of the server, pages of other sites."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from tests.models.server.conftest import client_of
from tests.models.server.fakes import WHITE

TOKEN = "a-token-of-some-length"
BODY = {"sequences": [[WHITE]]}


@pytest.fixture(scope="module")
def guarded() -> TestClient:
    return client_of(token=TOKEN, base_url="http://models.example")


@pytest.mark.parametrize("path", ["/model", "/metrics", "/predict", "/predict/files", "/nothing"])
@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN}x", TOKEN, "Bearer \xe9\xff"],
)
def test_requests_need_the_token(guarded: TestClient, path: str, header: str | None) -> None:
    headers = {} if header is None else {"authorization": header.encode("latin-1")}
    answer = guarded.post(path, json=BODY, headers=headers)  # type: ignore[arg-type]
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "Authorization must be 'Bearer TOKEN'" in answer.json()["error"]
    assert TOKEN not in answer.text


def test_requests_with_the_token_are_answered(guarded: TestClient) -> None:
    for scheme in ("Bearer", "bearer"):
        headers = {"authorization": f"{scheme} {TOKEN}"}
        assert guarded.post("/predict", json=BODY, headers=headers).status_code == 200
        assert guarded.get("/model", headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/healthz", "/page.js"])
def test_what_says_nothing_of_the_model_needs_no_token(guarded: TestClient, path: str) -> None:
    assert guarded.get(path).status_code == 200


def test_a_token_is_checked_before_a_body_is_read() -> None:
    client = client_of(token=TOKEN)

    def never() -> bytes:
        raise AssertionError("it was read")

    answer = client.post("/predict", content=(never() for _ in range(1)), headers={})
    assert answer.status_code == 401


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost:8000",
        "LOCALHOST",
        "[::1]",
        "[::1]:8000",
        "127.0.0.1:1",
        "127.0.1.1:8000",
        "127.0.0.5",
    ],
)
def test_names_of_this_machine(client: TestClient, host: str) -> None:
    assert client.get("/healthz", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evil:80", "", "[::1",
     "localhost@evil.example", "localhost:8000:9", "0.0.0.0:8000"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/healthz", "/model"])
def test_other_names_are_refused_without_a_token(client: TestClient, host: str, path: str) -> None:
    answer = client.get(path, headers={"host": host})
    assert answer.status_code == 421
    assert "Host must be one of 127.0.0.1, [::1], localhost" in answer.json()["error"]


@pytest.mark.parametrize("site", ["cross-site", "same-site", "nonsense"])
def test_pages_of_other_sites_may_not_ask(client: TestClient, site: str) -> None:
    headers = {"sec-fetch-site": site}
    answer = client.post("/predict", json=BODY, headers=headers)
    assert answer.status_code == 403
    assert "a page of another site may not ask" in answer.json()["error"]
    assert client.get("/", headers=headers).status_code == 200, "a link to the page"


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_its_own_page_may_ask(client: TestClient, site: str) -> None:
    headers = {"sec-fetch-site": site, "origin": "http://127.0.0.1:8000"}
    answer = client.post("/predict", json=BODY, headers=headers)
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]
