"""What a report and a model's file say of a task. It needs no PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from crnn_search.hyperparameters import ImageShape
from crnn_search.storage.checks import check_types, field_types


@dataclass(frozen=True)
class TaskInfo:
    """What a report and a model's file say of a task.

    name: `mnist_sums`, or that of the data set. data: identifies the sequences: two tasks with
    equal `data` train and validate on the same. target: what is predicted. unit: of the target.
    shape: of every image. longest: images of the longest sequence. center, scale: mean and standard
    deviation of the training targets, by which training standardises them. sums: the target is the
    sum of MNIST's digits, a whole number.
    """

    name: str
    data: str
    target: str
    shape: ImageShape
    longest: int
    unit: str | None = None
    center: float = 0.0
    scale: float = 1.0
    sums: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The information by name, ready for JSON."""
        return asdict(self) | {"shape": list(self.shape)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: a value is missing, unknown, or not valid.
        """
        shape, types = ImageShape.from_json(values["shape"]), field_types(cls)
        check_types({name: values[name] for name in types if name != "shape"}, types)
        if values["longest"] < 1:
            raise ValueError(f"longest must be a whole number from 1 on, got {values['longest']}")
        if not values["scale"] > 0:
            raise ValueError(f"scale must be a positive number, got {values['scale']}")
        return cls(**{**values, "shape": shape})
