"""The hyperparameters: `ModelSpec`, the network, and `TrainingSpec`, frozen and validated.

Both are plain dataclasses, so that the engine needs PyTorch only (`docs/decisions/0001`). Each
field has a `Rule`; its valid values, default and help text are stated there and nowhere
else. Search spaces, the command line and the constructors check against it. In files a
configuration is one flat mapping, name to value, as in a search space's `space:` section.

`python -m crnn_search.hyperparameters` prints the table of `docs/space.md`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Self

from crnn_search.errors import ConfigError
from crnn_search.text import shown


class ImageShape(NamedTuple):
    """The shape of every image of a data set: channels, rows and columns of pixels."""

    channels: int
    rows: int
    columns: int

    @classmethod
    def from_json(cls, values: Any) -> ImageShape:
        """The shape that a file's metadata state, `[channels, rows, columns]`.

        Raises:
            ValueError: it is no such list, or no image has this shape.
        """
        whole = isinstance(values, list | tuple) and all(type(value) is int for value in values)
        if not (whole and len(values) == 3 and values[0] in {1, 3}) or not (
            MIN_SIDE <= min(values[1:]) <= max(values[1:]) <= MAX_SIDE
        ):
            raise ValueError(
                f"image_shape must be 1 or 3 channels, then rows and columns from {MIN_SIDE} to "
                f"{MAX_SIDE}, got {shown(values)}"
            )
        return cls(*values)


MIN_SIDE, MAX_SIDE = 8, 256
"""The least and the most rows and columns of an image."""

MNIST_SHAPE, LARGEST_SHAPE = ImageShape(1, 28, 28), ImageShape(3, MAX_SIDE, MAX_SIDE)

Kind = Literal["int", "float", "bool", "choice", "int_list"]


@dataclass(frozen=True)
class Rule:
    """The valid values of a hyperparameter. `low` and `high` are inclusive bounds.

    For an `int_list` they are the bounds of each item; the list has 1 to `max_length` items.
    """

    kind: Kind
    help: str
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    max_length: int = 0

    def describe(self) -> str:
        """The valid values in words."""
        if self.kind == "bool":
            return "true or false"
        if self.kind == "choice":
            return "one of " + ", ".join(self.choices)
        if self.kind == "int_list":
            return (
                f"a list of 1 to {self.max_length} whole numbers from {self.low:g} to {self.high:g}"
            )
        noun = "a whole number" if self.kind == "int" else "a number"
        return f"{noun} from {self.low:g} to {self.high:g}"

    def accepts(self, value: Any) -> bool:
        """Whether `value` is valid. A boolean is not a number; a single number is a list of one."""
        match self.kind:
            case "bool":
                return isinstance(value, bool)
            case "choice":
                return isinstance(value, str) and value in self.choices
            case "int_list":
                items = value if isinstance(value, list | tuple) else [value]
                return 1 <= len(items) <= self.max_length and all(map(self._in_bounds, items))
            case _:
                return self._in_bounds(value)

    def _in_bounds(self, value: Any) -> bool:
        types = (int, float) if self.kind == "float" else (int,)
        return (
            isinstance(value, types)
            and not isinstance(value, bool)
            and self.low <= value <= self.high
        )


def _parameter(default: Any, kind: Kind, help: str, **bounds: Any) -> Any:
    return field(default=default, metadata={"rule": Rule(kind, help, **bounds)})


class _Spec:
    """Checks every field against its rule on construction and converts lists to tuples."""

    def __post_init__(self) -> None:
        problems = []
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            value, rule = getattr(self, item.name), item.metadata["rule"]
            if not rule.accepts(value):
                problems.append(f"{item.name} must be {rule.describe()}, got {shown(value)}")
            elif rule.kind == "int_list":
                as_tuple = tuple(value) if isinstance(value, list | tuple) else (value,)
                object.__setattr__(self, item.name, as_tuple)
            elif rule.kind == "float":
                object.__setattr__(self, item.name, float(value))
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True)
class ModelSpec(_Spec):
    """A CNN-GRU for images of any shape. Raises `ConfigError` for a bad value.

    Whether its convolutions leave pixels of an image depends on the image: see `check`.
    """

    conv_channels: tuple[int, ...] = _parameter(
        (16, 32, 64), "int_list", "width of each convolution", low=1, high=1024, max_length=6
    )
    kernel_size: tuple[int, ...] = _parameter(
        (3,),
        "int_list",
        "kernel of each convolution; the last is repeated",
        low=1,
        high=9,
        max_length=6,
    )
    pooling: tuple[int, ...] = _parameter(
        (2,), "int_list", "max-pooling after each convolution, 1 is none; the last is repeated",
        low=1, high=4, max_length=6,
    )  # fmt: skip
    padding: str = _parameter(
        "same", "choice", "whether convolutions keep the image's size", choices=("same", "valid")
    )
    batch_norm: bool = _parameter(True, "bool", "batch normalisation after each convolution")
    embedding: int = _parameter(
        0, "int", "size of a dense layer between convolutions and GRU, 0 is none", low=0, high=4096
    )
    gru_sizes: tuple[int, ...] = _parameter(
        (64,), "int_list", "width of each GRU", low=1, high=2048, max_length=4
    )
    dropout: float = _parameter(0.0, "float", "dropout before the output", low=0.0, high=0.95)
    feature_dropout: float = _parameter(
        0.0, "float", "dropout of an image's features before the first GRU", low=0.0, high=0.95
    )

    def layers(self) -> list[tuple[int, int, int]]:
        """Width, kernel size and pooling of each convolution."""
        depth = len(self.conv_channels)
        return list(
            zip(
                self.conv_channels,
                _stretch(self.kernel_size, depth),
                _stretch(self.pooling, depth),
                strict=True,
            )
        )

    def feature_map_size(self, shape: ImageShape) -> tuple[int, int]:
        """Rows and columns of the last convolution's output after pooling, for images of `shape`.

        Raises:
            ConfigError: a convolution leaves no pixels.
        """
        rows, columns = shape.rows, shape.columns
        for number, (_, kernel, pool) in enumerate(self.layers(), start=1):
            got, lost = f"{rows}×{columns}", 0 if self.padding == "same" else kernel - 1
            rows, columns = (rows - lost) // pool, (columns - lost) // pool
            if min(rows, columns) < 1:
                raise ConfigError(
                    [
                        f"convolution {number} leaves no pixels: it gets {got}, its "
                        f"kernel is {kernel}×{kernel} ({self.padding} padding), its pooling "
                        f"{pool}; use fewer conv_channels, a smaller kernel_size, a smaller "
                        "pooling or padding: same"
                    ]
                )
        return rows, columns

    def parameter_count(self, shape: ImageShape) -> int:
        """Number of trainable parameters for images of `shape`; a GRU has two bias vectors.

        Raises:
            ConfigError: a convolution leaves no pixels.
        """
        count, inputs = 0, shape.channels
        for width, kernel, _ in self.layers():
            count += inputs * width * kernel**2 + (2 * width if self.batch_norm else width)
            inputs = width
        rows, columns = self.feature_map_size(shape)
        inputs *= rows * columns
        if self.embedding:
            count += (inputs + 1) * self.embedding
            inputs = self.embedding
        for width in self.gru_sizes:
            count += 3 * width * (inputs + width + 2)
            inputs = width
        return count + inputs + 1

    def check(self, shape: ImageShape, max_parameters: int | None = None) -> None:
        """Check that the network can be built for images of `shape`, and is not too large.

        Raises:
            ConfigError: a convolution leaves no pixels, or it has more than `max_parameters`.
        """
        count = self.parameter_count(shape)
        if max_parameters is not None and count > max_parameters:
            limit = f"search.max_parameters is {max_parameters:,}"
            raise ConfigError([f"the network has {count:,} parameters; {limit}"])


@dataclass(frozen=True)
class TrainingSpec(_Spec):
    """How a network is trained. Raises `ConfigError` for a bad value."""

    max_sequence_length: int = _parameter(
        8, "int", "longest training sequence; validation always has the task's", low=1, high=1024
    )
    batch_size: int = _parameter(128, "int", "sequences in a step", low=1, high=65536)
    optimizer: str = _parameter("adamw", "choice", "optimizer", choices=("adamw", "rmsprop"))
    learning_rate: float = _parameter(
        3e-3, "float", "learning rate, the highest one of a one-cycle schedule", low=1e-7, high=1.0
    )
    weight_decay: float = _parameter(0.0, "float", "decoupled weight decay", low=0.0, high=1.0)
    schedule: str = _parameter(
        "one_cycle", "choice", "learning-rate schedule", choices=("one_cycle", "constant")
    )
    gradient_clip: float = _parameter(
        1.0, "float", "largest gradient norm, 0 is no clipping", low=0.0, high=1e6
    )
    affine: float = _parameter(
        0.0, "float", "strength of random affine distortions, 0 is none", low=0.0, high=1.0
    )
    shift: float = _parameter(
        0.0, "float", "strength of random shifts, 0 is none", low=0.0, high=1.0
    )
    elastic: float = _parameter(
        0.0, "float", "strength of random elastic distortions, 0 is none", low=0.0, high=1.0
    )
    ema: float = _parameter(
        0.0, "float", "decay of the moving average of weights that is validated and exported, 0 is "
        "none", low=0.0, high=0.99999,
    )  # fmt: skip
    reuse: int = _parameter(
        1, "int", "how often a batch has each of its images, in new sequences; a divisor of "
        "batch_size, 1 for own data", low=1, high=64,
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size % self.reuse:
            rule = f"a multiple of reuse, which is {self.reuse}"
            raise ConfigError([f"batch_size must be {rule}, got {self.batch_size}"])


@dataclass(frozen=True)
class Arithmetic:
    """How a network is computed: chosen once for all trials of a run, by its hardware.

    precision: dtype of convolutions and input products, `float32` or `bfloat16`; the rest is
    float32. cpu_kernels: whether CPUs run the compiled kernels of `crnn_search.kernels`.
    """

    precision: Literal["float32", "bfloat16"] = "float32"
    cpu_kernels: bool = False

    def __str__(self) -> str:
        return f"{self.precision}, compiled kernels" if self.cpu_kernels else self.precision


@dataclass(frozen=True)
class TrialConfig:
    """One trial's whole configuration."""

    model: ModelSpec
    training: TrainingSpec

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From a flat mapping; names that it lacks have their default.

        Raises:
            ConfigError: unknown names and bad values, all at once.
        """
        problems = [unknown_name(name, PARAMETERS) for name in values if name not in PARAMETERS]
        specs: list[Any] = []
        for spec in (ModelSpec, TrainingSpec):
            names = {item.name for item in dataclasses.fields(spec)}
            try:
                specs.append(spec(**{k: v for k, v in values.items() if k in names}))
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)
        return cls(*specs)

    def to_dict(self) -> dict[str, Any]:
        """The flat mapping, ready for JSON or YAML: tuples are lists."""
        flat = dataclasses.asdict(self.model) | dataclasses.asdict(self.training)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in flat.items()}


PARAMETERS: Mapping[str, Rule] = {
    item.name: item.metadata["rule"]
    for spec in (ModelSpec, TrainingSpec)
    for item in dataclasses.fields(spec)
}
"""Every hyperparameter by name."""


def unknown_name(name: str, valid: Iterable[str]) -> str:
    """The message for a name that is not among `valid`, with the nearest one suggested."""
    valid = list(valid)
    near = difflib.get_close_matches(str(name), valid, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown name {shown(name)}{hint} (valid names: {', '.join(sorted(valid))})"


def _stretch(values: tuple[int, ...], depth: int) -> tuple[int, ...]:
    """The first `depth` values; the last one is repeated if there are fewer."""
    return (values + values[-1:] * depth)[:depth]


MNIST_CRNN_2016 = TrialConfig(
    ModelSpec(
        conv_channels=(8, 8),
        kernel_size=(4, 3),
        pooling=(2, 1),
        padding="valid",
        batch_norm=False,
        gru_sizes=(100, 50),
        dropout=0.2,
    ),
    TrainingSpec(
        batch_size=32,
        optimizer="rmsprop",
        learning_rate=1e-3,
        schedule="constant",
        gradient_clip=0.0,
    ),
)
"""The network of the mnistCRNN demonstration (github.com/jamesmf/mnistCRNN), trained as there."""


def markdown_table() -> str:
    """The table of the hyperparameters in `docs/space.md`: name, valid values, default, help."""
    defaults = TrialConfig(ModelSpec(), TrainingSpec()).to_dict()
    lines = ["| name | valid values | default | |", "| --- | --- | --- | --- |"]
    for name, rule in PARAMETERS.items():
        default = str(defaults[name]).lower() if rule.kind == "bool" else defaults[name]
        lines.append(f"| `{name}` | {rule.describe()} | {default} | {rule.help} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown_table())
