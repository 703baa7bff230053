"""The application: what is asked and answered over HTTP."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import math
from pathlib import Path
from typing import Annotated, Any, Protocol

import anyio
from fastapi import Depends, FastAPI, File, Form, Request, UploadFile
from fastapi.security import HTTPBearer
from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from crnn_search import __version__
from crnn_search.errors import InputError
from crnn_search.models.model import Model
from crnn_search.models.server import answers, metrics, problems, schemas
from crnn_search.models.server.answers import Answer, Work
from crnn_search.models.server.guard import LOOPBACK_NAMES, OPEN, Guard
from crnn_search.models.server.limits import IMAGES, SEQUENCES, Limits

STATIC = Path(__file__).parent / "static"

FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/docs": ("docs.html", "text/html"),
    "/docs.js": ("docs.js", "text/javascript"),
}
"""Files of the pages: they load nothing else, so that they work without the internet."""

DESCRIPTION = """Predictions of a network for sequences of images.

A request that is wrong gets 4xx and `{"error": "…"}`, which says the rule, the value received and
what is valid. A server with a token wants `Authorization: Bearer TOKEN`.
"""

REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"model": schemas.ProblemAnswer, "description": text}
    for code, text in {
        400: "The body cannot be parsed.",
        401: "The token is missing or wrong.",
        403: "A page of another site asked.",
        408: "The body did not arrive in time.",
        413: "The body is too large.",
        415: "The body has another Content-Type.",
        421: "The server is not called so.",
        422: "A value is not valid, or an image cannot be decoded.",
        503: "Too many requests at once, or the model does not answer.",
    }.items()
}


class Backend(Protocol):
    """What predicts: in this process, or in others."""

    async def predict(self, work: Work) -> list[Answer]:
        """The answer for each sequence.

        Raises:
            InputError: an image cannot be decoded or is too large.
            UnavailableError: it does not answer.
        """

    async def ready(self) -> bool:
        """Whether it would answer."""


class InProcess:
    """Predicts in threads of this process, on so many requests at once."""

    def __init__(self, model: Model, limits: Limits, at_once: int) -> None:
        Image.init()  # Pillow's own loading of its formats is not safe if threads open images
        self._model = model
        self._limits = limits
        self._limiter = anyio.CapacityLimiter(at_once)

    async def predict(self, work: Work) -> list[Answer]:
        return await anyio.to_thread.run_sync(
            answers.answer, self._model, work, self._limits, limiter=self._limiter
        )

    async def ready(self) -> bool:
        return True


def build_app(
    model: Model, backend: Backend, *, token: str | None = None, limits: Limits | None = None
) -> FastAPI:
    """The application for a model.

    token: what requests have to bring; None: only this machine may ask, by its loopback names.
    """
    limits = limits or Limits()
    app = FastAPI(
        title="crnn-search",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        form_limits={"max_files": IMAGES, "max_fields": 10, "max_part_size": 1000},
        dependencies=[] if token is None else [Depends(HTTPBearer(auto_error=False))],
        responses={421: REFUSALS[421]},
    )
    counted = metrics.Metrics()
    problems.add_handlers(app)
    _add_files(app)
    _add_predictions(app, model, backend, counted)
    _add_information(app, model, backend, limits, counted)
    app.add_middleware(
        Guard,
        token=token,
        hosts=None if token else LOOPBACK_NAMES,
        limits=limits,
        metrics=counted,
        paths=OPEN | {"/model", "/metrics", "/predict", "/predict/files"},
    )
    return app


def _add_files(app: FastAPI) -> None:
    """The pages."""
    for path, (name, media_type) in FILES.items():
        content = (STATIC / name).read_bytes()

        async def file(
            request: Request, content: bytes = content, kind: str = media_type
        ) -> Response:
            return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

        app.router.add_route(path, file, methods=["GET"], include_in_schema=False)


def _add_information(
    app: FastAPI, model: Model, backend: Backend, limits: Limits, counted: metrics.Metrics
) -> None:
    """What is known of server and model."""

    @app.get("/healthz", summary="Whether it answers", responses={503: REFUSALS[503]})
    async def healthz() -> schemas.HealthAnswer:
        if not await backend.ready():
            raise problems.UnavailableError("no replica is ready")
        return schemas.HealthAnswer(status="ok")

    about = schemas.ModelAnswer(
        version=__version__,
        task=model.task.to_dict(),
        preprocessing=model.preprocessing.describe(),
        network=model.spec,
        metrics=model.metrics,
        limits=dataclasses.asdict(limits)
        | {"sequences": SEQUENCES, "images": IMAGES, "sequence_images": answers.longest(model)},
    )

    @app.get("/model", summary="What it predicts, and how well", responses={401: REFUSALS[401]})
    async def model_() -> schemas.ModelAnswer:
        return about

    @app.get(
        "/metrics",
        summary="Counters for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, 401: REFUSALS[401]},
    )
    async def metrics_() -> Response:
        return Response(counted.text(), media_type=metrics.CONTENT_TYPE)


def _add_predictions(
    app: FastAPI, model: Model, backend: Backend, counted: metrics.Metrics
) -> None:
    """What predicts."""

    async def predicted(work: Work) -> schemas.PredictAnswer:
        found = await backend.predict(work)
        kinds = [warning.kind for answer in found for warning in answer.warnings]
        counted.predicted(map(len, work.sequences), kinds)
        return schemas.PredictAnswer(
            target=model.task.target,
            unit=model.task.unit,
            predictions=[_shown(answer, show=work.show) for answer in found],
        )

    @app.post("/predict", summary="Predict sequences of images in JSON", responses=REFUSALS)
    async def predict(body: schemas.PredictBody) -> schemas.PredictAnswer:
        return await predicted(await run_in_threadpool(_work, body))

    @app.post(
        "/predict/files", summary="Predict one sequence of uploaded images", responses=REFUSALS
    )
    async def predict_files(
        images: Annotated[
            list[UploadFile],
            File(min_length=1, max_length=IMAGES, description="Image files, in order."),
        ],
        show: Annotated[
            bool, Form(description="Whether the answer has what the network sees.")
        ] = False,
    ) -> schemas.PredictAnswer:
        files = [
            answers.File(f"image {place} ({image.filename})", await image.read())
            for place, image in enumerate(images)
        ]
        return await predicted(Work([files], show))


def _work(body: schemas.PredictBody) -> Work:
    """A JSON body as work.

    Raises:
        InputError: there are too many images, or one is not in base64.
    """
    count = sum(map(len, body.sequences))
    if count > IMAGES:
        raise InputError(f"a request must have at most {IMAGES:,} images, got {count:,}")
    sequences = [
        [_file(f"sequences[{row}][{place}]", text) for place, text in enumerate(images)]
        for row, images in enumerate(body.sequences)
    ]
    return Work(sequences, body.show)


def _file(name: str, text: str) -> answers.File:
    """An image file in base64, perhaps as a data URI, with line breaks or without."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return answers.File(name, base64.b64decode("".join(text.split()), validate=True))
    except (binascii.Error, ValueError) as error:  # ValueError: characters beyond ASCII
        raise InputError(f"{name} must be an image file in base64: {error}") from error


def _shown(answer: Answer, *, show: bool) -> schemas.Predicted:
    """An answer for JSON, in which a number is finite."""
    return schemas.Predicted(
        prediction=_finite(answer.running[-1]),
        running=[_finite(value) for value in answer.running],
        warnings=[
            schemas.FoundWarning(kind=found.kind, message=found.message, image=found.position)
            for found in answer.warnings
        ],
        seen=[_data_uri(image) for image in answer.seen] if show else None,
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
