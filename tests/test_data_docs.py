"""docs/data.md, as printed, on synthetic digits in place of MNIST; trials train without Ray."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import crnn_search
from crnn_search.data.digits import Digits
from crnn_search.spaces.file import load_space
from crnn_search.storage.cache import CACHE_VARIABLE
from tests.small_run import REPOSITORY, write_mnist
from tests.test_examples import WITHOUT_RAY, run_program

TEXT = (Path(REPOSITORY) / "docs" / "data.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ crnn-search (.*)$", TEXT, flags=re.MULTILINE)
PROGRAMS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
(SPACE,) = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.DOTALL)

RUN = """
import contextlib, shlex, sys
from crnn_search.cli.app import main
for line in {commands!r}:
    print("$", line, flush=True)
    sys.argv = ["crnn-search", *shlex.split(line)]
    with contextlib.suppress(SystemExit):
        main()
for program in {programs!r}:
    exec(program)
"""


@pytest.mark.long(25)
@pytest.mark.slow
def test_from_a_folder_of_pictures_to_a_model(tmp_path: Path, digits: Digits) -> None:
    write_mnist(tmp_path / "data", digits)
    for name in ("one", "two", "three"):
        colours = np.random.default_rng(1).integers(0, 256, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(colours).save(tmp_path / f"{name}.png")
    program = WITHOUT_RAY + RUN.format(commands=COMMANDS, programs=PROGRAMS)
    cache = {CACHE_VARIABLE: str(tmp_path / "cache")}
    printed = dict(
        part.split("\n", 1)
        for part in run_program(tmp_path, program, **cache).removeprefix("$ ").split("\n$ ")
    )
    assert list(printed) == COMMANDS
    example, check, space, launch, report, predict = printed.values()
    assert "clips has 400 sequences" in example
    assert "channels:   3, colour" in check
    with Image.open(tmp_path / "clips.png") as sheet:
        assert sheet.width > 500
    assert "clips/space.yaml is valid." in space
    assert "clips: clips: sum" in launch
    assert "test RMSE" in report
    *lines, rmse, predictions = predict.strip().splitlines()
    assert [line.split(":")[0] for line in lines] == ["one.png", "two.png", "three.png", "sum"]
    own, mean = map(float, rmse.split())
    assert own < mean, "of the programs: brightness is learned"
    assert len(predictions.strip("[]").split()) == 2
    runs = tmp_path / "runs"
    assert crnn_search.open_run(runs / "clips").report()["test"]["sequences"] > 30
    assert (runs / "brightness" / "data").is_dir()


def test_the_space_is_valid(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE + "space: {}\n")
    task = load_space(tmp_path / "space.yaml").task
    assert (task.data, task.unit, task.longer) == (str(tmp_path / "clips"), "points", "drop")
