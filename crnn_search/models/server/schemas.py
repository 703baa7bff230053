"""Bodies of requests and answers, as the OpenAPI page describes them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from crnn_search.models.server.limits import IMAGES, SEQUENCES

_ONE = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQAQAAAAA3iMLMAAAAHElEQVR42m"
    "P8z8DEwMDw356JgQE/YvzPwMTAAABpUQNZ8WROUgAAAABJRU5ErkJggg=="
)
"""A small picture of a 1."""

ImageText = Annotated[
    str,
    Field(
        min_length=1,
        description="An image file in base64; `data:image/png;base64,` may stand before it.",
        json_schema_extra={"contentEncoding": "base64"},
    ),
]


class PredictBody(BaseModel):
    """Sequences of images."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"sequences": [[_ONE, _ONE]], "show": False}]},
    )

    sequences: Annotated[
        list[Annotated[list[ImageText], Field(min_length=1, max_length=IMAGES)]],
        Field(
            min_length=1,
            max_length=SEQUENCES,
            description=f"Each a list of images in order; at most {IMAGES:,} images in all.",
        ),
    ]
    show: StrictBool = Field(
        default=False, description="Whether the answer has what the network sees of each image."
    )


class FoundWarning(BaseModel):
    """Why a prediction may be wrong."""

    kind: str = Field(description="For programs.", examples=["several"])
    message: str = Field(
        description="For people.", examples=["it shows more than one digit, the sum may be wrong"]
    )
    image: int | None = Field(description="The image in its sequence, from 0; null: the whole.")


class Predicted(BaseModel):
    """What is predicted of a sequence. A value is null if it is not finite."""

    prediction: float | None = Field(
        description="In the target's unit, after the last image.", examples=[12.02]
    )
    running: list[float | None] = Field(
        description="The prediction after each image.", examples=[[6.98, 12.02]]
    )
    warnings: list[FoundWarning] = Field(description="Why it may be wrong.")
    seen: list[str] | None = Field(
        default=None, description="With `show`: PNG files as data URIs, as the network sees them."
    )


class PredictAnswer(BaseModel):
    """Predictions, in the order of the sequences."""

    target: str = Field(description="What is predicted.", examples=["sum"])
    unit: str | None = Field(description="Of the target.")
    predictions: list[Predicted] = Field(description="One for each sequence.")


class ModelAnswer(BaseModel):
    """The model: what it predicts from which images, and how well."""

    version: str = Field(description="Of crnn-search.")
    task: dict[str, Any] = Field(description="What it predicts, from which images.")
    preprocessing: list[str] = Field(description="How an image file becomes its pixels.")
    network: dict[str, Any] = Field(description="Its hyperparameters.")
    metrics: dict[str, Any] = Field(description="On test data, as exported.")
    limits: dict[str, int | float] = Field(description="Of a request.")


class HealthAnswer(BaseModel):
    """The server answers."""

    status: str = Field(description="`ok`.", examples=["ok"])


class ProblemAnswer(BaseModel):
    """Why a request was refused: the rule, the value received, what is valid."""

    error: str
