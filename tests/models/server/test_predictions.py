"""What requests are answered with: predictions, warnings, what the network sees."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from crnn_search.errors import ImageError
from crnn_search.models.server.answers import File, Work, answer_all
from crnn_search.models.server.limits import Limits
from tests.models.server.conftest import client_of
from tests.models.server.fakes import BLACK, METRICS, WHITE, brightness, png, text

DIGIT = (Path(__file__).parents[3] / "examples" / "digits" / "a1_7.png").read_bytes()


def test_sequences_in_json_are_predicted_in_their_order(client: TestClient) -> None:
    answer = client.post("/predict", json={"sequences": [[WHITE], [WHITE, BLACK, WHITE]]})
    assert answer.status_code == 200
    assert answer.json() == {
        "target": "sum",
        "unit": None,
        "predictions": [
            {"prediction": 1.0, "running": [1.0], "warnings": [], "seen": None},
            {"prediction": 2.0, "running": [1.0, 1.0, 2.0], "warnings": [], "seen": None},
        ],
    }


def test_uploaded_files_are_one_sequence(client: TestClient) -> None:
    files = [("images", (f"{n}.png", png(255 * (n < 2)))) for n in range(3)]
    (found,) = client.post("/predict/files", files=files).json()["predictions"]
    assert found["running"] == [1.0, 2.0, 2.0]


def test_warnings_say_which_image_they_are_about() -> None:
    client, digit = client_of(brightness(placed=True)), text(DIGIT)
    body = {"sequences": [[digit, BLACK, digit], [digit] * 9]}
    first, second = client.post("/predict", json=body).json()["predictions"]
    assert first["warnings"] == [
        {"kind": "empty", "message": first["warnings"][0]["message"], "image": 1}
    ]
    assert "there is nothing to read in it" in first["warnings"][0]["message"]
    assert first["running"][1] == first["running"][0] > 0
    assert [(one["kind"], one["image"]) for one in second["warnings"]] == [("too_long", None)]


@pytest.mark.parametrize("where", ["json", "files"])
def test_what_the_network_sees_is_a_png_file(client: TestClient, where: str) -> None:
    if where == "json":
        body = {"sequences": [[text(png(side=60))]], "show": True}
        answer = client.post("/predict", json=body)
    else:
        files = [("images", ("a.png", png(side=60)))]
        answer = client.post("/predict/files", files=files, data={"show": "true"})
    (seen,) = answer.json()["predictions"][0]["seen"]
    start, _, content = seen.partition(",")
    assert start == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        assert (np.asarray(image) == 255).all()
        assert image.size == (28, 28)


def test_base64_may_have_line_breaks_or_be_a_data_uri(client: TestClient) -> None:
    lines = base64.encodebytes(png()).decode()
    uri = f"data:image/png;base64,{WHITE}"
    assert lines.count("\n") > 1
    answer = client.post("/predict", json={"sequences": [[lines, uri]]})
    assert answer.json()["predictions"][0]["prediction"] == 2.0


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_other_formats_are_read(client: TestClient, file_format: str) -> None:
    image = text(png(file_format=file_format))
    answer = client.post("/predict", json={"sequences": [[image]]})
    assert answer.json()["predictions"][0]["prediction"] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("bias", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_null(bias: float) -> None:
    client = client_of(brightness(bias=bias))
    (found,) = client.post("/predict", json={"sequences": [[WHITE]]}).json()["predictions"]
    assert (found["prediction"], found["running"]) == (None, [None])


def test_requests_are_predicted_together_and_refused_apart() -> None:
    calls: list[tuple[int, ...]] = []
    model, limits = brightness(calls=calls), Limits(image_pixels=1000)
    white, large, broken = (File("a", png()), File("b", png(side=40)), File("c", b"no image"))
    works = [
        Work([[white], [white] * 3]),
        Work([[large]]),
        Work([[white, broken]]),
        Work([[white]]),
    ]
    first, *refused, last = answer_all(model, works, limits)
    assert isinstance(first, list)
    assert isinstance(last, list)
    assert [one.running[-1] for one in (*first, *last)] == [1, 3, 1]
    assert [str(error).partition(",")[0] for error in refused] == [
        "b must have at most 1",
        "c cannot be decoded: cannot identify image file; give an image file: PNG",
    ]
    assert all(isinstance(error, ImageError) for error in refused)
    assert calls == [(3, 3, 1, 28, 28)]


def test_information_of_the_model(client: TestClient) -> None:
    found = client.get("/model").json()
    assert found["task"]["longest"] == 8
    assert found["preprocessing"][-1] == "divided by 255"
    assert (found["network"]["gru_sizes"], found["metrics"]) == ([64], METRICS)
    assert found["limits"]["images"] == found["limits"]["sequence_images"] == 1000


def test_health(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}


def test_metrics_count_requests_images_and_warnings() -> None:
    client = client_of(brightness(placed=True))
    client.post("/predict", json={"sequences": [[text(DIGIT), BLACK], [text(DIGIT)]]})
    client.post("/predict", content=b"[]")
    client.get("/nothing")
    lines = client.get("/metrics").text.splitlines()
    for line in (
        'crnn_search_requests_total{path="/predict",status="200"} 1.0',
        'crnn_search_requests_total{path="/predict",status="415"} 1.0',
        'crnn_search_requests_total{path="other",status="404"} 1.0',
        'crnn_search_request_seconds_count{path="/predict"} 2.0',
        "crnn_search_sequences_total 2.0",
        "crnn_search_images_total 3.0",
        'crnn_search_warnings_total{kind="empty"} 1.0',
        "crnn_search_requests_in_progress 1.0",
    ):
        assert line in lines
    assert any(line.startswith("process_resident_memory_bytes") for line in lines)


def test_the_openapi_page_describes_every_request(client: TestClient) -> None:
    found = client.get("/openapi.json").json()
    requests = {
        f"{method.upper()} {path}" for path, methods in found["paths"].items() for method in methods
    }
    assert requests == {
        "GET /healthz", "GET /model", "GET /metrics", "POST /predict", "POST /predict/files",
    }  # fmt: skip
    body = found["components"]["schemas"]["PredictBody"]
    assert body["properties"]["sequences"]["maxItems"] == 100
    (example,) = body["examples"]
    assert client.post("/predict", json=example).status_code == 200
    refusals = found["paths"]["/predict"]["post"]["responses"]
    assert {"200", "400", "401", "413", "415", "421", "422"} <= set(refusals)
    assert "HTTPBearer" not in json.dumps(found)
    with_token = client_of(token="t" * 20).get("/openapi.json").text
    assert "HTTPBearer" in with_token


@pytest.mark.parametrize("path", ["/", "/page.css", "/page.js", "/docs", "/docs.js"])
def test_pages_load_nothing_from_elsewhere(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert "://" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
