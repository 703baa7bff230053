"""What a model's file says of the model, beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from crnn_search.data.task_info import TaskInfo
from crnn_search.hyperparameters import TrialConfig
from crnn_search.models.pixel_ranges import PixelRanges
from crnn_search.models.preprocessing import Preprocessing
from crnn_search.storage.checks import check_types


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model.

    config: what it was trained with. preprocessing: of image files. pixels: what the training
    images' pixels were like; None where that is not known. metrics: how it did on test sequences,
    see `models/README.md`; empty where that is not known. networks: how many networks' predictions
    its own are the mean of. training: seed, epochs, run, version and commit, as far as they are
    known.
    """

    config: TrialConfig
    task: TaskInfo
    preprocessing: Preprocessing
    pixels: PixelRanges | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    networks: int = 1
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def longest(self) -> int:
        """Images of the longest sequence that it was trained on."""
        return min(self.task.longest, self.config.training.max_sequence_length)

    def to_dict(self) -> dict[str, Any]:
        """All of it but the configuration, ready for JSON."""
        return {
            "task": self.task.to_dict(),
            "preprocessing": self.preprocessing.to_dict(),
            "pixels": None if self.pixels is None else self.pixels.to_dict(),
            "metrics": self.metrics,
            "networks": self.networks,
            "training": self.training,
        }

    @classmethod
    def from_dict(cls, config: TrialConfig, values: Mapping[str, Any]) -> Self:
        """What `to_dict` gave, or `task` and some of the rest.

        Raises:
            KeyError, TypeError, ValueError: a value is missing or not valid.
        """
        task = TaskInfo.from_dict(values["task"])
        given = {name: values[name] for name in _TYPES if values.get(name) is not None}
        check_types(given, _TYPES)
        if given.get("networks", 1) < 1:
            raise ValueError(f"networks must be 1 or more, got {given['networks']}")
        prepared, pixels = given.pop("preprocessing", None), given.pop("pixels", None)
        return cls(
            config,
            task,
            Preprocessing.from_dict(prepared) if prepared else Preprocessing.of(task),
            PixelRanges.from_dict(pixels) if pixels else None,
            **given,
        )


_TYPES = dict.fromkeys(("preprocessing", "pixels", "metrics", "training"), "dict[str, Any]")
_TYPES["networks"] = "int"
