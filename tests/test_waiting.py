"""Waits end, and say why."""

from __future__ import annotations

import pytest

from tests.waiting import WaitError, wait


def test_a_wait_in_vain_says_what_is_so_at_its_end() -> None:
    looked: list[int] = []

    def look() -> bool:
        looked.append(0)
        return False

    with pytest.raises(WaitError, match=r"^after 0 s: not so after \d looks$"):
        wait(look, 0.3, lambda: f"not so after {len(looked)} looks")


def test_a_wait_returns_how_long_it_took() -> None:
    answers = iter([False, False, True])
    assert 0.1 <= wait(lambda: next(answers), 10, "never") < 5
