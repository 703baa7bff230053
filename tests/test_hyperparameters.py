"""Hyperparameters: rules, errors, sizes of networks; and the table of them in docs."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crnn_search.errors import ConfigError
from crnn_search.hyperparameters import (
    MNIST_CRNN_2016,
    MNIST_SHAPE,
    PARAMETERS,
    ImageShape,
    ModelSpec,
    TrainingSpec,
    TrialConfig,
    markdown_table,
)
from crnn_search.training.footprint import peak_memory_mb
from crnn_search.training.model import CRNN


def test_defaults_round_trip() -> None:
    config = TrialConfig(ModelSpec(), TrainingSpec())
    assert TrialConfig.from_dict(config.to_dict()) == config
    assert set(config.to_dict()) == set(PARAMETERS)


def test_single_number_is_a_list_of_one() -> None:
    assert ModelSpec(kernel_size=3) == ModelSpec(kernel_size=(3,))  # type: ignore[arg-type]


def test_last_kernel_and_pooling_are_repeated() -> None:
    spec = ModelSpec(conv_channels=(4, 8, 16), kernel_size=(5, 3), pooling=(2,))
    assert spec.layers() == [(4, 5, 2), (8, 3, 2), (16, 3, 2)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dropout": 1.5}, "dropout must be a number from 0 to 0.95, got 1.5"),
        ({"batch_size": -1}, "batch_size must be a whole number from 1 to 65536, got -1"),
        ({"batch_size": True}, "batch_size must be a whole number from 1 to 65536, got True"),
        ({"batch_norm": 1}, "batch_norm must be true or false, got 1"),
        ({"optimizer": "sgd"}, "optimizer must be one of adamw, rmsprop, got 'sgd'"),
        (
            {"conv_channels": []},
            "conv_channels must be a list of 1 to 6 whole numbers from 1 to 1024",
        ),
        ({"gru_sizes": [64, 0]}, r"gru_sizes must be a list .* got \[64, 0\]"),
        ({"droput": 0.1}, "unknown name 'droput'; did you mean dropout?"),
        (
            {"batch_size": 100, "reuse": 8},
            "batch_size must be a multiple of reuse, which is 8, got 100",
        ),
        ({"batch_size": 0, "reuse": 8}, "batch_size must be a whole number from 1 to 65536, got 0"),
    ],
)
def test_bad_value_raises_config_error(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrialConfig.from_dict(values)


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(ConfigError, match="dropout") as caught:
        TrialConfig.from_dict({"dropout": 2, "batch_size": 0, "nonsense": 1})
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("shape", "size", "message"),
    [
        (MNIST_SHAPE, None, "convolution 2 leaves no pixels: it gets 5×5, its kernel is 9×9"),
        (ImageShape(3, 44, 256), None, "convolution 2 leaves no pixels: it gets 9×62"),
        (ImageShape(3, 256, 44), None, "convolution 2 leaves no pixels: it gets 62×9"),
        (ImageShape(1, 56, 64), (1, 1), ""),
        (ImageShape(3, 56, 256), (1, 13), ""),
    ],
)
def test_convolutions_that_leave_no_pixels_are_refused(
    shape: ImageShape, size: tuple[int, int] | None, message: str
) -> None:
    spec = ModelSpec(conv_channels=(8, 8), kernel_size=(9,), pooling=(4,), padding="valid")
    if size:
        spec.check(shape)
        assert spec.feature_map_size(shape) == size
        return
    for refused in (spec.check, spec.feature_map_size, partial(CRNN, spec)):
        with pytest.raises(ConfigError, match=message):
            refused(shape)


@pytest.mark.parametrize("shape", [MNIST_SHAPE, ImageShape(3, 8, 256)])
def test_image_shape_is_unchanged_by_json(shape: ImageShape) -> None:
    assert ImageShape.from_json(json.loads(json.dumps(shape))) == shape


@pytest.mark.parametrize(
    "values", [None, 28, "128", {}, [1, 28], [1, 28, 28, 1], [2, 28, 28], [1, 7, 28], [3, 28, 257],
               [1, 28.0, 28], [True, 28, 28], ["1", "28", "28"]],
)  # fmt: skip
def test_other_image_shapes_are_refused(values: object) -> None:
    message = "must be 1 or 3 channels, then rows and columns from 8 to 256, got"
    with pytest.raises(ValueError, match=message):
        ImageShape.from_json(values)


def test_parameter_count_of_the_2016_network() -> None:
    assert MNIST_CRNN_2016.model.parameter_count(MNIST_SHAPE) == 294_171


specs: st.SearchStrategy[dict[str, object]] = st.builds(
    dict,
    conv_channels=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    kernel_size=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    pooling=st.lists(st.integers(1, 2), min_size=1, max_size=3),
    padding=st.sampled_from(["same", "valid"]),
    batch_norm=st.booleans(),
    embedding=st.sampled_from([0, 7]),
    gru_sizes=st.lists(st.integers(1, 12), min_size=1, max_size=3),
)


shapes = st.builds(ImageShape, st.sampled_from([1, 3]), st.integers(8, 40), st.integers(8, 40))


@given(specs, shapes)
def test_parameter_count_equals_that_of_the_network(
    values: dict[str, object], shape: ImageShape
) -> None:
    spec = TrialConfig.from_dict(values).model
    try:
        network = CRNN(spec, shape)
    except ConfigError:
        return
    assert spec.parameter_count(shape) == sum(p.numel() for p in network.parameters())
    one, two = (TrialConfig(spec, TrainingSpec(batch_size=size)) for size in (1, 2))
    assert peak_memory_mb(two, shape, 8) > peak_memory_mb(one, shape, 8) > 0


def test_memory_grows_with_the_image() -> None:
    sizes = [(1, 28, 28), (3, 28, 28), (3, 28, 56), (3, 56, 56)]
    config = TrialConfig(ModelSpec(), TrainingSpec())
    estimates = [peak_memory_mb(config, ImageShape(*size), 8) for size in sizes]
    assert estimates == sorted(set(estimates))
    assert estimates[3] / estimates[1] == pytest.approx(4, rel=0.1)


def test_memory_depends_on_the_training() -> None:
    def memory_mb(longest: int = 8, **values: object) -> float:
        return peak_memory_mb(TrialConfig.from_dict(values), MNIST_SHAPE, longest)

    assert memory_mb(longest=2) == memory_mb(max_sequence_length=2) < memory_mb()
    weights_mb = 4 * ModelSpec().parameter_count(MNIST_SHAPE) / 1e6
    assert memory_mb(ema=0.9) - memory_mb() == pytest.approx(weights_mb)
    # Of a batch that encodes a quarter of the images only the GRU's part stays.
    assert 0.25 < memory_mb(reuse=4) / memory_mb() < 0.35


def test_the_page_has_the_table_of_hyperparameters() -> None:
    assert (
        f"\n{markdown_table()}\n\n"
        in (Path(__file__).parent.parent / "docs" / "space.md").read_text()
    )
