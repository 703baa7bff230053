"""What makes a prediction doubtful, for people and programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from crnn_search.errors import InputError

Kind = Literal["empty", "several", "cut_off", "uneven_light", "too_long", "unlike_training"]


@dataclass(frozen=True)
class InputWarning:
    """Why a prediction may be wrong.

    kind: `empty`, an image shows nothing; `several`, more than one digit; `cut_off`, its digit
    reaches the border; `uneven_light`, a shadow may count as ink; `unlike_training`, its pixels
    are unlike those of the training images; `too_long`, the sequence is longer than any of
    training. message: for people. file: the name of the image. position: of the image in its
    sequence, from 0 on.
    """

    kind: Kind
    message: str
    file: str | None = None
    position: int | None = None

    def __str__(self) -> str:
        """The message, behind the image that it is about."""
        if self.file is not None:
            return f"{self.file}: {self.message}"
        return self.message if self.position is None else f"image {self.position}: {self.message}"

    def to_dict(self) -> dict[str, Any]:
        """The warning by name, ready for JSON."""
        return asdict(self)


def refuse(warnings: Sequence[InputWarning]) -> None:
    """Take warnings for errors.

    Raises:
        InputError: there is one; lists all.
    """
    if warnings:
        raise InputError("\n".join(map(str, warnings)))
