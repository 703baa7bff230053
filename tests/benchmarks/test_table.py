"""The benchmark's table states what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.table import markdown, replace_section, summarise


def figures(speed: list[float], rmse: float) -> dict[str, list[Any]]:
    return {
        "epochs_per_hour": speed,
        "start_s": [2.0, 4.0, 3.0],
        "validation_rmse": [[rmse, rmse + 1]] * 3,
    }


RESULTS = {
    "repeats": 3,
    "sizes": {"small": (3840, 2)},
    "choices": {"small": {"num_workers": 2, "backend": "torch"}},
    "hardware": {"cpu": "a processor", "cores": 2, "bfloat16": False},
    "versions": {"python": "3.11", "torch": "2"},
    "commit": "abc",
    "minutes": 20.4,
    "summary": {
        "small": summarise(
            {
                "ours": figures([600.0, 640.0, 500.0], 2.0),
                "ray": figures([100.0, 80.0, 125.0], 2.25),
            }
        )
    },
}


def test_table_compares_engines_in_pairs() -> None:
    ours, ray = markdown(RESULTS).splitlines()[2:4]
    assert ours == "| small | crnn-search | 600 (500–640) |  | 3.0 | 2.50 |  |"
    assert ray == (
        "| small | Ray's recipe | 100 (80–125) | **6.0** (4.0–8.0) | 3.0 | 2.75 "
        "| +0.250 (+0.250 to +0.250) |"
    )


def test_table_states_sizes_and_circumstances() -> None:
    assert markdown(RESULTS).splitlines()[-1] == (
        "small: 3,840 training and 1,280 validation sequences an epoch, 2 epochs. 3 repeats in "
        "turn, two trials at once; medians (lowest–highest). small: num_workers 2, Keras on torch. "
        "a processor without bfloat16, 2 cores; Python 3.11, torch 2; commit abc; 20 minutes."
    )


def test_section_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nb\n")
    replace_section(page, "bench", "new \\1\n")
    assert page.read_text() == "a\n<!-- bench:begin -->\nnew \\1\n<!-- bench:end -->\nb\n"
    with pytest.raises(ValueError, match=r"page\.md has no section between"):
        replace_section(page, "other", "new\n")
