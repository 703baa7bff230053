"""The section `task`: MNIST's sums, or a data set of the user's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from crnn_search.hyperparameters import LARGEST_SHAPE, MNIST_SHAPE
from crnn_search.spaces.file import load_space, parse_space
from crnn_search.spaces.sections import ImageSpec, MnistSumsSpec, TaskSpec
from crnn_search.spaces.space import Images, to_yaml
from tests.spaces.examples import problems


@pytest.mark.parametrize(
    "task", ["{max_digits: 5}", "{mnist_sums: {max_digits: 5}}"]
)  # fmt: skip
def test_both_forms_of_mnists_sums(task: str) -> None:
    space = parse_space(f"task: {task}\nspace: {{}}")
    assert space.task == TaskSpec(mnist_sums=MnistSumsSpec(max_digits=5))
    assert space.images == Images(MNIST_SHAPE, 5, "mnist_sums/5")
    assert parse_space(to_yaml(space)) == space


@pytest.mark.parametrize("task", ["", "task: {}\n", "task: {mnist_sums: {}}\n"])
def test_mnists_sums_are_the_default(task: str) -> None:
    assert parse_space(f"{task}space: {{}}").task == TaskSpec(mnist_sums=MnistSumsSpec())


def test_data_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(
        "task: {data: my/clips, target: count, unit: mm, image: {size: [48, 64], channels: 1}}\n"
        "space: {}\n"
    )
    space = load_space(tmp_path / "space.yaml")
    assert space.task == TaskSpec(
        data=str(tmp_path / "my" / "clips"),
        target="count",
        unit="mm",
        image=ImageSpec(size=[48, 64], channels=1),
        longer="drop",
    )
    assert space.task.name == "clips"
    assert space.shape == LARGEST_SHAPE, "as long as the data are not read"
    assert parse_space(to_yaml(space)) == space


def test_a_uri_stays() -> None:
    space = parse_space("task: {data: 's3://bucket/clips?region=x', longer: last}\nspace: {}")
    assert space.task == TaskSpec(data="s3://bucket/clips?region=x", longer="last")


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        ("{data: clips, mnist_sums: {}}", "task.data: cannot be given together with mnist_sums"),
        ("{target: count}", "task.target: needs task.data, a data set of your own"),
        ("{longer: drop}", "task.longer: needs task.data, a data set of your own"),
        ("{data: clips, longer: cut}", "task.longer: must be one of drop, first, last, got 'cut'"),
        ("{data: clips, max_digits: 8}", "task.max_digits: unknown name 'max_digits'"),
        ("{data: 3}", "task.data: must be a text, got 3"),
        ("{data: ''}", "task.data: must be a text, got ''"),
        ("{data: 's3:/bucket/x'}", "task.data: a location must be a path or a URI"),
        (
            "{data: clips, image: {size: [7, 64]}}",
            "task.image: must be {size: [rows, columns], channels: 1 or 3}, rows and columns from "
            "8 to 256, got {'size': [7, 64]}",
        ),
        ("{data: clips, image: {size: [64]}}", "task.image: must be {size: [rows, columns]"),
        ("{data: clips, image: {channels: 2}}", "task.image: must be {size: [rows, columns]"),
        ("{mnist_sums: {max_digits: 0}}", "task.mnist_sums: must be {max_digits: a whole number"),
        ("{traget: count}", "task.traget: unknown name 'traget'; did you mean target?"),
    ],
)
def test_errors_of_a_task(task: str, problem: str) -> None:
    (found,) = problems(f"task: {task}\nspace: {{}}")
    assert found.startswith(f"space.yaml:1: {problem}")
