"""Spaces and data sets: what suits, and what does not fit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crnn_search.errors import SpaceError
from crnn_search.hyperparameters import LARGEST_SHAPE, MAX_SIDE, MIN_SIDE, ImageShape, ModelSpec
from crnn_search.spaces.domains import Fixed, IntRange
from crnn_search.spaces.file import parse_space
from crnn_search.spaces.fitting import defaults, fit
from crnn_search.spaces.space import Images, SearchSpace, to_yaml

SMALL = Images(ImageShape(1, 8, 8), 20, "digest/drop")


def space(*lines: str, task: str = "") -> SearchSpace:
    return parse_space(f"task: {{data: clips{task}}}\nspace:\n  dropout: 0.1\n" + "\n".join(lines))


def test_what_is_left_open_suits_the_data() -> None:
    fitted = fit(space(), SMALL, 1)
    assert fitted.space["max_sequence_length"] == Fixed(20)
    assert "pooling" not in fitted.space
    assert (fitted.shape, fitted.images.longest, fitted.images.data) == SMALL_VALUES
    large = fit(space(), Images(ImageShape(3, 256, 200), 3, ""), 1)
    assert large.space["pooling"] == Fixed((4, 4, 2))
    again = fit(parse_space(to_yaml(large)), Images(ImageShape(3, 256, 200), 3, ""), 1)
    assert again == large


SMALL_VALUES = (SMALL.shape, SMALL.longest, SMALL.data)


def test_what_is_named_stays() -> None:
    lines = "  max_sequence_length: {int: [4, 20]}", "  pooling: 2", "  reuse: {choice: [1]}"
    found = fit(space(*lines), SMALL, 4).space
    assert found["max_sequence_length"] == IntRange(4, 20)
    assert found["pooling"] == Fixed((2,))


@pytest.mark.parametrize("side", [MIN_SIDE, 28, 63, 64, 65, 128, 129, MAX_SIDE])
def test_default_network_leaves_few_pixels_of_any_image(side: int) -> None:
    shape = ImageShape(1, side, side)
    pooling = defaults(shape, 5).get("pooling", [2])
    rows, _ = ModelSpec(pooling=pooling).feature_map_size(shape)
    assert 1 <= rows <= 8


@pytest.mark.parametrize(
    ("line", "task", "problem"),
    [
        (
            "  max_sequence_length: {int: [2, 21]}", "",
            "space.max_sequence_length must be from 2, the images of the shortest training "
            "sequence, to 20, of the longest one, got 21",
        ),
        (
            "  max_sequence_length: 1", "",
            "space.max_sequence_length must be from 2, the images of the shortest training "
            "sequence, to 20, of the longest one, got 1",
        ),
        (
            "  reuse: {choice: [1, 4]}", "",
            "space.reuse must be 1, since the targets of newly combined images are known for sums "
            "of digits only, got 4",
        ),
        (
            "  padding: valid\n  kernel_size: 9", "",
            "space: no sample is feasible: convolution 1 leaves no pixels: it gets 8×8, "
            "its kernel is 9×9",
        ),
        (
            "  padding: {choice: [same, valid]}\n  kernel_size: {choice: [3, 9]}\n"
            "first: [{padding: valid, kernel_size: 9}]", "",
            "first[0]: is infeasible: convolution 1 leaves no pixels",
        ),
    ],
)  # fmt: skip
def test_data_that_do_not_fit_are_refused(line: str, task: str, problem: str) -> None:
    with pytest.raises(SpaceError) as caught:
        fit(space(line, task=task), SMALL, 2)
    assert str(caught.value).startswith("the space does not fit the data in ")
    (found,) = caught.value.problems
    assert found.startswith(problem)


def test_the_size_of_networks_depends_on_the_images() -> None:
    """It is not checked before the data are read."""
    parameters = ModelSpec().parameter_count(SMALL.shape)
    assert ModelSpec().parameter_count(LARGEST_SHAPE) > 100 * parameters
    unread = parse_space(
        f"task: {{data: clips}}\nsearch: {{max_parameters: {parameters - 1}}}\n"
        "first: [{gru_sizes: 64}]\nspace: {gru_sizes: {list_of: {int: [8, 64]}, length: 1}}\n"
    )
    with pytest.raises(SpaceError) as caught:
        fit(unread, SMALL, 2)
    assert caught.value.problems == [
        f"first[0]: is infeasible: the network has {parameters:,} parameters; "
        f"search.max_parameters is {parameters - 1:,}"
    ]
    search = unread.search.model_copy(update={"max_parameters": parameters})
    assert fit(replace(unread, search=search), SMALL, 2).first == unread.first


def test_shortened_sequences_may_have_one_image() -> None:
    fitted = fit(space("  max_sequence_length: 1", task=", longer: first"), SMALL, 2)
    assert fitted.space["max_sequence_length"] == Fixed(1)
