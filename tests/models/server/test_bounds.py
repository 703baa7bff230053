"""What is refused: every error is 4xx with its reason, whatever the request."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient

from crnn_search.hyperparameters import ImageShape
from crnn_search.models.server.app import InProcess, build_app
from crnn_search.models.server.limits import IMAGES, SEQUENCES, Limits
from crnn_search.models.server.problems import UnavailableError
from tests.models.networks import SUMS
from tests.models.server.conftest import client_of
from tests.models.server.fakes import WHITE, brightness, png, text

JSON = {"content-type": "application/json"}
FORM = {"content-type": "multipart/form-data; boundary=x"}


def animated() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("L", (28, 28), grey) for grey in (0, 255)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "status", "error"),
    [
        ("", 422, "the body: is missing"),
        ("{", 422, "the body must be JSON: Expecting property name"),
        ("[1, 2]", 422, "the body: Input should be a valid dictionary"),
        ("{}", 422, "sequences: is missing"),
        ('{"sequences": []}', 422, "sequences: List should have at least 1 item"),
        ('{"sequences": [[]]}', 422, "sequences[0]: List should have at least 1 item"),
        ('{"sequences": [[1]]}', 422, "sequences[0][0]: Input should be a valid string, got 1"),
        ('{"sequences": [[NaN]]}', 422, "sequences[0][0]: Input should be a valid string, got nan"),
        ('{"sequences": [[null]]}', 422, "sequences[0][0]: Input should be a valid string"),
        ('{"sequences": [[""]]}', 422, "sequences[0][0]: String should have at least 1 character"),
        ('{"sequences": [["?"]]}', 422, "sequences[0][0] must be an image file in base64"),
        ('{"sequences": [["é"]]}', 422, "sequences[0][0] must be an image file in base64"),
        ('{"sequences": [["data:,"]]}', 422, "sequences[0][0] is empty; give an image file"),
        ('{"sequences": [["AAAA"]]}', 422, "sequences[0][0] cannot be decoded: cannot identify"),
        ('{"sequences": [["x"]], "show": 1}', 422, "show: Input should be a valid boolean, got 1"),
        ('{"sequences": [["x"]], "\\ud800": 1}', 422, "the body: Input should be a valid string"),
        ('{"sequences": [["x"]], "x": 1}', 422, "x: is not known"),
        ('{"sequences": "\\ud800"}', 422, "sequences: Input should be a valid list"),
        ("9" * 5000, 400, "error parsing the body"),
        ("[" * 100_000, 400, "error parsing the body"),
        (b'{"sequences": [["\xff"]]}', 400, "error parsing the body"),
    ],
)
def test_a_json_body_that_is_wrong(
    client: TestClient, content: str | bytes, status: int, error: str
) -> None:
    answer = client.post("/predict", content=content, headers=JSON)
    assert error in answer.json()["error"]
    assert answer.status_code == status


def test_many_problems_are_counted(client: TestClient) -> None:
    answer = client.post("/predict", json={"sequences": [list(range(50))]})
    assert answer.json()["error"].count("valid string") == 5
    assert answer.json()["error"].endswith("; and 45 more")


def test_a_long_value_is_cut(client: TestClient) -> None:
    answer = client.post("/predict", json={"sequences": "x" * 100_000})
    assert len(answer.json()["error"]) < 300


@pytest.mark.parametrize(
    ("sequences", "error"),
    [
        ([["x"]] * (SEQUENCES + 1), "sequences: List should have at most 100 items"),
        ([["x"] * (IMAGES + 1)], "sequences[0]: List should have at most 1000 items"),
        ([["x"] * (IMAGES // 2 + 1)] * 2, "a request must have at most 1,000 images, got 1,002"),
    ],
)
def test_too_many_images(client: TestClient, sequences: Any, error: str) -> None:
    answer = client.post("/predict", json={"sequences": sequences})
    assert answer.status_code == 422
    assert error in answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "wanted"),
    [("/predict", "application/json"), ("/predict/files", "multipart/form-data")],
)
@pytest.mark.parametrize("kind", ["text/plain", "", "application/json; charset", "\xff"])
def test_another_content_type(client: TestClient, path: str, wanted: str, kind: str) -> None:
    answer = client.post(path, content=b"{}", headers=[(b"content-type", kind.encode("latin-1"))])
    if path == "/predict" and kind.startswith(wanted):
        assert answer.status_code == 422
        return
    assert answer.status_code == 415
    assert f"Content-Type must be {wanted}, got " in answer.json()["error"]


@pytest.mark.parametrize(
    ("content", "status", "error"),
    [
        (b"", 422, "images: is missing"),
        (b"--x--\r\n", 422, "images: is missing"),
        (b"no form", 400, ""),
        (b'--x\r\ncontent-disposition: form-data; name="images"\r\n\r\ntext\r\n--x--\r\n', 422, ""),
        (b"--x\r\n\xff\xfe: \x00\r\n\r\n\r\n--x--\r\n", 400, ""),
    ],
)
def test_a_form_that_is_wrong(client: TestClient, content: bytes, status: int, error: str) -> None:
    answer = client.post("/predict/files", content=content, headers=FORM)
    assert error in answer.json()["error"]
    assert answer.status_code == status


def test_a_form_with_too_many_files_or_fields(client: TestClient) -> None:
    files = [("images", ("a.png", b"x"))] * (IMAGES + 1)
    answer = client.post("/predict/files", files=files)
    assert answer.status_code == 400
    assert "Maximum number of files is 1000" in answer.json()["error"]
    answer = client.post("/predict/files", files=files[:1], data={"show": "x" * 2000})
    assert answer.status_code == 400
    assert "exceeded maximum size" in answer.json()["error"]


@pytest.mark.parametrize("name", ["", "\ud800.png", "a\x00b", "x" * 5000, "é"])
def test_names_of_files(client: TestClient, name: str) -> None:
    part = b'--x\r\ncontent-disposition: form-data; name="images"; filename="%s"\r\n\r\nno\r\n--x--'
    content = part % name.encode(errors="surrogatepass")
    answer = client.post("/predict/files", content=content, headers=FORM)
    assert answer.status_code in {400, 422}
    assert answer.json()["error"]


@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG\r\n\x1a\n", png()[:40], b"%!PS-Adobe-3.0 EPSF-3.0\n", b"GIF89a"]
)
def test_files_that_are_no_images(client: TestClient, content: bytes) -> None:
    answer = client.post("/predict/files", files=[("images", ("a.png", content))])
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("image 0 (a.png) ")


def test_an_animated_image_is_no_fault_of_the_server(client: TestClient) -> None:
    answer = client.post("/predict/files", files=[("images", ("a.gif", animated()))])
    assert answer.status_code in {200, 422}


def test_a_body_that_is_too_large() -> None:
    client = client_of(limits=Limits(body_bytes=1000))

    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * 100

    for path, kind in (("/predict", JSON), ("/predict/files", FORM)):
        for content, got in ((b" " * 1001, ", got 1001"), (chunks(), "")):
            answer = client.post(path, content=content, headers=kind)
            assert answer.status_code == 413
            assert answer.json()["error"] == f"the body must have at most 1,000 bytes{got}"


def test_bodies_that_are_too_large_together() -> None:
    client = client_of(limits=Limits(bytes_at_once=100))
    answer = client.post("/predict", content=b" " * 101, headers=JSON)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert client.post("/predict", content=b"{}", headers=JSON).status_code == 422, "it is free"


def test_a_body_that_does_not_arrive() -> None:
    limits = Limits(body_s=0.05)
    app = build_app(brightness(), InProcess(brightness(), limits, 1), limits=limits)
    sent: list[Any] = []

    async def receive() -> Any:
        await anyio.sleep_forever()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "path": "/predict",
        "raw_path": b"/predict", "root_path": "", "scheme": "http", "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        "server": ("localhost", 8000), "client": ("127.0.0.1", 9),
    }  # fmt: skip
    anyio.run(app, scope, receive, send)
    assert sent[0]["status"] == 408
    assert "the body must arrive within 0.05 s" in json.loads(sent[1]["body"])["error"]


def test_a_sequence_that_needs_too_much_memory() -> None:
    task = replace(SUMS, shape=ImageShape(1, 256, 256), sums=False)
    client = client_of(brightness(task))
    most = client.get("/model").json()["limits"]["sequence_images"]
    assert most == 122
    answer = client.post("/predict", json={"sequences": [[WHITE] * (most + 1)]})
    assert answer.status_code == 422
    error = "a sequence must have at most 122 images, which become 256 × 256 pixels each; got 123"
    assert answer.json()["error"] == error
    long = brightness(replace(task, longest=2000))
    assert client_of(long).get("/model").json()["limits"]["sequence_images"] == 122, "trained on 8"


def test_pixels_of_a_file_and_of_a_request() -> None:
    client = client_of(limits=Limits(image_pixels=1600, request_pixels=2000))
    large, small = text(png(side=41)), text(png(side=40))
    error = client.post("/predict", json={"sequences": [[large]]}).json()["error"]
    assert error == "sequences[0][0] must have at most 1,600 pixels, got 1,681"
    error = client.post("/predict", json={"sequences": [[small], [small]]}).json()["error"]
    assert "must have at most 2,000 pixels in all; it has more up to sequences[1][0]" in error


def test_an_image_of_many_pixels_is_never_decoded(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    bomb = text(png(side=5001))
    assert len(bomb) < 100_000
    monkeypatch.undo()
    answer = client.post("/predict", json={"sequences": [[bomb]]})
    assert answer.status_code == 422
    assert "at most 25,000,000 pixels, got 25,010,001" in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("GET", "/nothing", 404, "there is no '/nothing'; /docs lists what there is"),
        ("GET", "/page.css/../x%00", 404, "there is no "),
        ("GET", "/predict", 405, "'/predict' does not take 'GET'"),
        ("DELETE", "/", 405, "'/' does not take 'DELETE'"),
        ("PATCH", "/predict/files", 405, "'/predict/files' does not take 'PATCH'"),
    ],
)
def test_paths_and_methods(
    client: TestClient, method: str, path: str, status: int, error: str
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert error in answer.json()["error"]


class Failing(InProcess):
    """A backend that has a fault, or does not answer."""

    error: Exception

    async def predict(self, work: Any) -> Any:
        raise self.error

    async def ready(self) -> bool:
        return False


def failing(error: Exception) -> TestClient:
    backend = Failing(brightness(), Limits(), 1)
    backend.error = error
    app = build_app(brightness(), backend)
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False)


def test_a_model_that_does_not_answer() -> None:
    client = failing(UnavailableError("the replica has ended"))
    answer = client.post("/predict", json={"sequences": [[WHITE]]})
    assert answer.status_code == 503
    assert answer.json()["error"] == "the model does not answer: the replica has ended; try again"
    assert client.get("/healthz").status_code == 503


def test_a_fault_tells_nothing_of_itself() -> None:
    answer = failing(RuntimeError("secret")).post("/predict", json={"sequences": [[WHITE]]})
    assert answer.status_code == 500
    assert "secret" not in answer.text


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(WHITE),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5) | st.sampled_from(["sequences", "show"]), inner)
    ),
    max_leaves=12,
)
CONTENTS = st.binary(max_size=300) | VALUES.map(
    lambda value: json.dumps(value).encode(errors="surrogatepass")
)
KINDS = st.sampled_from(["application/json", "multipart/form-data; boundary=x", "image/png", ""])


@given(st.sampled_from(["/predict", "/predict/files"]), CONTENTS, KINDS)
def test_no_body_is_a_fault_of_the_server(path: str, content: bytes, kind: str) -> None:
    answer = CLIENT.post(path, content=content, headers={"content-type": kind})
    assert answer.status_code == 200 or 400 <= answer.status_code < 500
    assert answer.status_code == 200 or answer.json()["error"]


@given(VALUES)
def test_no_list_of_sequences_is_a_fault_of_the_server(value: Any) -> None:
    content = json.dumps({"sequences": value}).encode(errors="surrogatepass")
    answer = CLIENT.post("/predict", content=content, headers=JSON)
    assert answer.status_code in {200, 400, 422}


@given(st.binary(max_size=200), st.data())
def test_no_image_file_is_a_fault_of_the_server(noise: bytes, data: st.DataObject) -> None:
    file_format = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"]))
    content = png(file_format=file_format)
    start = data.draw(st.integers(0, len(content)))
    damaged = content[:start] + noise + content[start + len(noise) :]
    answer = CLIENT.post("/predict/files", files=[("images", ("a", damaged))])
    assert answer.status_code in {200, 422}


CLIENT = client_of()
