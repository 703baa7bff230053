"""The sections of a search space file beside `first` and `space`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from crnn_search.hyperparameters import MAX_SIDE, MIN_SIDE
from crnn_search.storage.location import is_uri

SECTIONS = ("task", "search", "retrain", "resources")
"""The sections of a file beside `first` and `space`."""

MAX_TRIALS = 1_000_000


def _whole(low: int, high: int) -> Any:
    """The rule of a whole number within bounds."""
    return Field(ge=low, le=high, description=f"a whole number from {low} to {high}")


_Pixels = Annotated[int, _whole(MIN_SIDE, MAX_SIDE)]
_Epochs = Annotated[int, _whole(1, 100_000)]
_Sequences = Annotated[int, _whole(1, 10_000_000)]
_Repeats = Annotated[int, _whole(1, 1000)]

MIN_SHARE, MAX_UNITS = 0.0001, 10_000
"""The least of a core or a GPU that Ray can allocate, and the most that a trial may ask for."""

_GPUS = (
    f"auto, 0, a number from {MIN_SHARE} to 1 or a whole number from 1 to {MAX_UNITS}, since Ray "
    "divides one GPU only"
)


class Section(BaseModel):
    """A section of the file. Each field's description is its rule in words."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class MnistSumsSpec(Section):
    """The built-in task. Each section raises pydantic's `ValidationError` for a bad value."""

    max_digits: Annotated[int, _whole(1, 64)] = 8


class ImageSpec(Section):
    """The format that all images are brought into; None: as the files are. size: rows, columns."""

    size: Annotated[list[_Pixels], Field(min_length=2, max_length=2)] | None = None
    channels: Literal[1, 3] | None = None


_TEXT = Field(default=None, min_length=1, description="a text")

LONGEST = 1000
"""Images of the longest sequence of a data set."""


class TaskSpec(Section):
    """What is learned: sums of MNIST's digits, or the target of a data set of the user's own.

    data: its folder or `.npz` file, or a URI. target: the column of its target. unit: the target's.
    longer: what becomes of training sequences with more images than a trial's
    `max_sequence_length`; None without data, else `drop` by default.
    """

    mnist_sums: MnistSumsSpec | None = Field(
        default=None, description="{max_digits: a whole number from 1 to 64}"
    )
    data: str | None = _TEXT
    target: str | None = _TEXT
    unit: str | None = _TEXT
    image: ImageSpec | None = Field(
        default=None,
        description="{size: [rows, columns], channels: 1 or 3}, "
        f"rows and columns from {MIN_SIDE} to {MAX_SIDE}",
    )
    longer: Literal["drop", "first", "last"] | None = Field(
        default=None, description="one of drop, first, last"
    )

    @field_validator("data")
    @classmethod
    def _one_task(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("mnist_sums") is not None:
            raise ValueError("cannot be given together with mnist_sums")
        return value

    @field_validator("target", "unit", "image", "longer")
    @classmethod
    def _needs_data(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and info.data.get("data", "") is None:
            raise ValueError("needs task.data, a data set of your own")
        return value

    @property
    def max_digits(self) -> int:
        """Digits of the longest sum."""
        return (self.mnist_sums or MnistSumsSpec()).max_digits

    @property
    def name(self) -> str:
        """The task's name, for people."""
        if self.data is None:
            return "mnist_sums"
        return PurePath(self.data.partition("?")[0] if is_uri(self.data) else self.data).stem


class SearchSpec(Section):
    """How many trials there are, and how long and on how many sequences they train.

    grace_epochs: the first rung, by default at a third of `max_epochs`, see docs/experiments.md.
    sampler: Optuna's TPE, or random sampling, which TPE is to be compared with.
    max_parameters: larger networks are infeasible. max_ms_per_sequence: so are networks that take
    longer to predict a sequence of the longest length, see `training.prediction_time`; a search
    measures that once, when it has sampled one.
    target: the search ends once a trial has this validation RMSE at its full budget. patience: or
    once so many trials that started after the best of these have ended, however they did.
    """

    trials: Annotated[int, _whole(1, MAX_TRIALS)] = 64
    max_epochs: _Epochs = 27
    grace_epochs: _Epochs = Field(default=None, validate_default=True)
    reduction_factor: Annotated[int, _whole(2, 1000)] = 3
    epoch_sequences: _Sequences = 60_000
    max_concurrent_trials: Literal["auto"] | Annotated[int, Field(ge=1, le=MAX_TRIALS)] = Field(
        default="auto", description=f"auto or a whole number from 1 to {MAX_TRIALS}"
    )
    seed: Annotated[int, _whole(0, 2**31)] = 0
    sampler: Literal["tpe", "random"] = Field(default="tpe", description="one of tpe, random")
    max_parameters: Annotated[int, _whole(1, 10**9)] | None = None
    max_ms_per_sequence: float | None = Field(
        default=None, gt=0, le=1e6, description="a number above 0 and at most 1000000, in ms"
    )
    target: float | None = Field(
        default=None, gt=0, description="a number above 0, a validation RMSE"
    )
    patience: Annotated[int, _whole(1, MAX_TRIALS)] | None = None

    @field_validator("grace_epochs", mode="before")
    @classmethod
    def _third(cls, value: Any, info: ValidationInfo) -> Any:
        return max(1, info.data.get("max_epochs", 1) // 3) if value is None else value

    @field_validator("grace_epochs")
    @classmethod
    def _at_most_max_epochs(cls, value: int, info: ValidationInfo) -> int:
        longest = info.data.get("max_epochs", value)
        if value > longest:
            raise ValueError(f"must be at most max_epochs, which is {longest}, got {value}")
        return value


class RetrainSpec(Section):
    """How finalists are repeated and the winner is retrained."""

    epochs: _Epochs = 40
    seeds: _Repeats = 3
    finalists: _Repeats = 3
    epoch_sequences: _Sequences = 60_000


class ResourcesSpec(Section):
    """What one trial gets of a node, and how it computes. Fractions of a GPU are allowed.

    precision: `auto` is bfloat16 where every node computes in it natively, else float32.
    cpu_kernels: `auto` is on where every node can compile them.
    """

    cpus_per_trial: float = Field(
        default=1.0,
        ge=MIN_SHARE,
        le=MAX_UNITS,
        description=f"a number from {MIN_SHARE} to {MAX_UNITS}",
    )
    gpus_per_trial: Literal["auto"] | float = Field(default="auto", description=_GPUS)
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="one of auto, float32, bfloat16"
    )
    cpu_kernels: Literal["auto", "off"] = Field(default="auto", description="one of auto, off")

    @field_validator("gpus_per_trial")
    @classmethod
    def _can_be_allocated(cls, value: float | str) -> float | str:
        if isinstance(value, str) or value == 0 or MIN_SHARE <= value <= 1:
            return value
        if value.is_integer() and 1 <= value <= MAX_UNITS:
            return value
        raise ValueError(f"must be {_GPUS}, got {value:g}")

    @field_validator("cpu_kernels", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads `off` as false


def check_sections(values: Mapping[str, Any]) -> None:
    """Check the values that `SearchSpace.sections` gave.

    Raises:
        KeyError: a section is missing.
        ValueError: a value is not valid.
    """
    specs: tuple[type[Section], ...] = (TaskSpec, SearchSpec, RetrainSpec, ResourcesSpec)
    for name, spec in zip(SECTIONS, specs, strict=True):
        try:
            spec.model_validate(values[name])
        except ValidationError as error:
            found = error.errors()[0]
            where = ".".join(map(str, (name, *found["loc"])))
            raise ValueError(f"{where}: {found['msg']}") from None
